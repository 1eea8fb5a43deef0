"""Self-healing: rules that another program takes away are put back, by themselves and within a moment.

    nf_tables   events (multicast)      -.
    legacy      counts, twice a second  -+-->  whom does it concern?  -->  a moment later: Mirrored.mend  (watching.py)

Whoever changes nf_tables makes the kernel tell everybody who listens, and with it the netlink port of the socket that asked, so
what we do ourselves is passed over at no cost.  Legacy tables tell nobody: the number of their rules is compared with what it
was after our own last change (a getsockopt(2) each).  What is looked at then is what the back end knows it has put there
(mirror.py), not the store: that is fast, waits for no change that is under way, and can not disagree with one.

A program that goes on rewriting meets ``Pace``: five repairs at once are free, then the wait doubles up to a minute, and
``warnings`` says who it is.  Nothing is lost by that: with every change of ours the rules come back as well.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

from ..kernel.events import NFNLGRP_NFTABLES, Event, EventSocket, own_ports
from ..kernel.netlink import attributes
from ..watching import Watch

NETLINK_NETFILTER = 12  # linux/netlink.h

_SUBSYSTEM, _INET = 10, 1  # NFNL_SUBSYS_NFTABLES, NFPROTO_INET
_NEWGEN, _ELEMENTS, _RULES = 15, (12, 14), (6, 8)  # linux/netfilter/nf_tables.h: enum nf_tables_msg_types
_TABLE, _RULE_CHAIN, _CHAIN_NAME, _PROC_NAME = (
    1,
    2,
    3,
    3,
)  # NFTA_*_TABLE, NFTA_RULE_CHAIN, NFTA_CHAIN_NAME, NFTA_GEN_PROC_NAME
_CHAINS = (3, 5)  # NFT_MSG_NEWCHAIN, _DELCHAIN

Concern = Literal["ours", "others"]


class Mendable(Protocol):
    """The part of a back end that is watched (mirror.py)."""

    def mend(self, *, whole: bool = True) -> bool: ...
    def disturbed(self) -> bool: ...


def concern(event: Event, table: str, user_chain: str = "pynet_user") -> Concern | None:
    """Whom an event of another program's doing concerns: our *table*, the chains of others that we have ACCEPTs in, or nobody."""
    subsystem, kind = divmod(event.type, 256)
    if subsystem != _SUBSYSTEM or kind == _NEWGEN or len(event.body) < 4:
        return None
    found = attributes(event.body, 4)  # behind nfgenmsg
    if event.body[0] == _INET and _text(found, _TABLE) == table:
        chain = _text(found, _RULE_CHAIN if kind in _RULES else _CHAIN_NAME if kind in _CHAINS else 0)
        return None if chain == user_chain and kind in _RULES else "ours"
    return "others" if kind not in _ELEMENTS else None


def program(events: Iterable[Event]) -> str:
    """The name of who changed something, as the kernel tells it at the end of each transaction; "" when it does not."""
    for event in events:
        if event.type == _SUBSYSTEM << 8 | _NEWGEN:
            return _text(attributes(event.body, 4), _PROC_NAME)
    return ""


def _text(found: dict[int, bytes], kind: int) -> str:
    return found.get(kind, b"").rstrip(b"\0").decode(errors="replace")


class FirewallWatch(Watch):
    subject = "the firewall's rules"
    poll = 0.5

    def __init__(
        self,
        backend: Callable[[], Mendable | None],
        events: socket.socket | None,
        *,
        table: str,
        at_home: Callable[[Callable[[], frozenset[int]]], frozenset[int]] = lambda function: function(),
    ) -> None:
        """*backend* gives None while nothing is there to be watched.  *events* is a new netlink socket of protocol netfilter in
        the host's namespace, None where there is no such thing; *at_home* calls a function in that namespace."""
        self._backend = backend
        self._table = table
        self._at_home = at_home
        self._own: frozenset[int] = frozenset()
        super().__init__(EventSocket(events, NFNLGRP_NFTABLES) if events is not None else None)

    def concerns(self, events: Sequence[Event] | None) -> set[str]:
        if events is None:
            return {"ours"}
        found = {(event.port, what) for event in events if (what := concern(event, self._table)) is not None}
        if {port for port, _ in found} - self._own:
            self._own = self._at_home(_own_ports)  # anew: some sockets are made later, as the first network's
        foreign = {port for port, _ in found} - self._own
        if foreign:
            self.who = program(event for event in events if event.port in foreign)
        return {what for port, what in found if port in foreign}

    def disturbed(self) -> set[str]:
        backend = self._backend()
        return {"ours"} if backend is not None and backend.disturbed() else set()

    def mend(self, concerns: set[str]) -> bool:
        backend = self._backend()
        return backend is not None and backend.mend(whole="ours" in concerns)


def _own_ports() -> frozenset[int]:
    return own_ports(NETLINK_NETFILTER)
