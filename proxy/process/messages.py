"""What is said on the forwarder's control connection, as values: questions with their pages, and what their answers say.

    listen(ports) -> frames --.
                               netlib/control/questions.py: tags, answers, refusals
    fetch(after)  -> frame  --'

Both askers, the one for threads (client.py) and the one under asyncio (peer.py, api.py), are made of this; control.py answers.
docs/proxy.md has the table of messages.

Pages.  A frame carries a bounded number of descriptors and bytes, and the ports of an instance are not bounded so.
A long ``listen`` goes in frames of ``PAGE`` ports that share a "batch" and all but the last of which have "more"; it takes
effect with the last, for all or none.  ``fetch`` and ``stats`` are asked for ``limit`` ports behind the id ``after``, in
the order of ids, until an answer has no "more".  An older forwarder knows none of it and answers whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, Protocol

from ...netlib import errors
from ...netlib.control.questions import Frame
from ...netlib.ipc import Message
from ...netlib.ports.told import Connections
from ..ports import PAGE

_batches = itertools.count(1)


class Published(Protocol):
    """What a ``listen`` needs to know of a port; it may also say ``proxy_protocol`` and ``transparent``."""

    @property
    def id(self) -> str: ...
    @property
    def proto(self) -> str: ...
    @property
    def target_ip(self) -> str: ...
    @property
    def target_port(self) -> int: ...
    @property
    def drain(self) -> float | None: ...
    def fileno(self) -> int: ...


def _entry(port: Published) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": port.id, "proto": port.proto, "target": [port.target_ip, port.target_port]}
    if port.drain is not None:
        entry["drain"] = port.drain
    for option in ("proxy_protocol", "transparent"):
        if getattr(port, option, False):
            entry[option] = getattr(port, option)
    return entry


def listen(ports: Iterable[Published], page: int = PAGE) -> list[Frame]:
    """The frames that have *ports* served, all or none."""
    wanted = list(ports)
    frames: list[Frame] = [
        ({"op": "listen", "ports": [_entry(port) for port in some]}, [port.fileno() for port in some])
        for some in (wanted[first : first + page] for first in range(0, max(len(wanted), 1), page))
    ]
    if len(frames) > 1:
        batch = next(_batches)
        for message, _ in frames:
            message |= {"batch": batch, "more": True}
        del frames[-1][0]["more"]
    return frames


def retarget(targets: Iterable[tuple[str, str, int]]) -> Message:
    return {"op": "retarget", "ports": [{"id": name, "target": [ip, port]} for name, ip, port in targets]}


def withdraw(ids: Iterable[str], drain: float | None = None) -> Message:
    message: Message = {"op": "withdraw", "ids": list(ids)}
    if drain is not None:
        message["drain"] = drain
    return message


def page_of(op: str, after: str | None, page: int = PAGE) -> Message:
    """One page of a ``fetch`` or ``stats``: what comes behind *after*, the last id of the page before."""
    return {"op": op, "limit": page} if after is None else {"op": op, "limit": page, "after": after}


def next_page(reply: Message) -> str | None:
    """*after* for the next page, or None when *reply* was the last."""
    if not reply.get("more"):
        return None
    ids = [entry["id"] for entry in reply["ports"]] if isinstance(reply["ports"], list) else list(reply["ports"])
    if not ids:
        raise errors.InternalError("the forwarder promises more ports and tells none")
    return str(ids[-1])


def connections(reply: Message) -> Connections:
    """The answer to ``connections``: JSON has no tuples."""
    ends = ("client", "target", "source")
    told = [entry | {end: entry[end] and tuple(entry[end]) for end in ends} for entry in reply["connections"]]
    return {"total": reply["total"], "connections": told}
