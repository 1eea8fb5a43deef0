"""Self-healing: rules that another program takes away are put back, by themselves and within a moment.

    nf_tables   events (multicast)   -.
    legacy      counts, twice a second -+-->  whom does it concern?  -->  a moment later: Mirrored.mend  -->  Pace
    events lost                      -'

Whoever changes nf_tables makes the kernel tell everybody who listens, and with it the netlink port of the socket that asked, so
what we do ourselves is passed over at no cost.  Legacy tables tell nobody: the number of their rules is compared with what it
was after our own last change (a getsockopt(2) each).  What is looked at then is what the back end knows it has put there
(mirror.py), not the store: that is fast, waits for no change that is under way, and can not disagree with one.

A program that goes on rewriting meets ``Pace``: five repairs at once are free, then the wait doubles up to a minute, and
``warnings`` says who it is.  Nothing is lost by that: with every change of ours the rules come back as well.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from ..errors import PynetError
from ..kernel.events import Event, EventSocket, own_ports
from ..kernel.netlink import attributes

log = logging.getLogger("pynet.netlib")

NETLINK_NETFILTER = 12  # linux/netlink.h
POLL = 0.5
"""Seconds between two looks at what tells nobody of its changes."""
SETTLE = 0.01
"""Seconds from the first event to the look: whoever flushes mostly writes anew at once."""

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


@dataclass
class Pace:
    """How soon the next repair may be.  Times are seconds of one clock."""

    free: int = 5
    """Repairs one after the other that need not wait."""
    quiet: float = 10.0
    """Without a repair for so long (or twice the last wait, if that is longer) all is forgotten."""
    longest: float = 60.0
    count: int = 0
    wait: float = 0.0
    """What the next repair has to wait after the last one; 0 while nothing is wrong."""
    _last: float = float("-inf")

    def repaired(self, now: float) -> None:
        self.rest(now)
        self.count += 1
        self.wait = 0.0 if self.count < self.free else min(self.longest, 2.0 ** (self.count - self.free))
        self._last = now

    def rest(self, now: float) -> None:
        """Forget, if it was quiet for long enough."""
        if now - self._last > max(self.quiet, 2 * self.wait):
            self.count, self.wait = 0, 0.0

    @property
    def earliest(self) -> float:
        return self._last + self.wait


class FirewallWatch:
    """Watches and mends until it is closed; a context manager.  ``looks`` counts when there was a reason to look, ``repairs``
    when something had to be put back."""

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
        self.looks = self.repairs = 0
        self._backend = backend
        self._events = EventSocket(events, 7) if events is not None else None
        self._table = table
        self._at_home = at_home
        self._own: frozenset[int] = frozenset()
        self._pace = Pace()
        self._who = ""
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)[::-1]
        self._thread = threading.Thread(target=self._run, name="firewall-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Twice is fine."""
        if self._thread.is_alive():
            os.write(self._wake, b"x")
            self._thread.join()
        if self._wake >= 0:
            os.close(self._wake)
            os.close(self._woken)
            self._wake = self._woken = -1
            if self._events is not None:
                self._events.close()

    @property
    def closed(self) -> bool:
        return self._wake < 0

    def __enter__(self) -> FirewallWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def warnings(self) -> list[str]:
        """A sentence while somebody does not let the rules be."""
        self._pace.rest(time.monotonic())
        if not self._pace.wait:
            return []
        who = f"The program {self._who}" if self._who else "Another program"
        return [
            f"{who} keeps taking the firewall's rules away ({self._pace.count} times): they are put back {self._pace.wait:g} s "
            f"after it each time; have it leave table inet {self._table} alone."
        ]

    def forgive(self) -> None:
        """Forget how often it was: the next repair need not wait."""
        self._pace = Pace()

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            if self._events is not None:
                selector.register(self._events, selectors.EVENT_READ)
            due: dict[Concern, float] = {}
            poll = time.monotonic() + POLL
            while True:
                now = time.monotonic()
                ready = selector.select(max(0.0, min([poll, *due.values()]) - now))
                if any(key.fileobj == self._woken for key, _ in ready):
                    return
                now = time.monotonic()
                if ready:
                    for what in self._read():
                        due.setdefault(what, max(now + SETTLE, self._pace.earliest))
                if now >= poll:
                    poll = now + POLL
                    if self._is_disturbed():
                        due.setdefault("ours", max(now, self._pace.earliest))
                if due and min(due.values()) <= now:
                    whole = "ours" in due
                    due.clear()
                    if not self._mend(whole=whole):
                        due["ours"] = now + max(POLL, self._pace.wait)

    def _read(self) -> set[Concern]:
        assert self._events is not None
        events = self._events.read()
        if events is None:
            return {"ours"}
        concerns: set[tuple[int, Concern]] = {
            (event.port, what) for event in events if (what := concern(event, self._table)) is not None
        }
        if {port for port, _ in concerns} - self._own:
            self._own = self._at_home(_own_ports)  # anew: some sockets are made later, as the first network's
        foreign = {port for port, _ in concerns} - self._own
        if foreign:
            self._who = program(event for event in events if event.port in foreign)
        return {what for port, what in concerns if port in foreign}

    def _is_disturbed(self) -> bool:
        try:
            backend = self._backend()
            return backend is not None and backend.disturbed()
        except (PynetError, OSError) as error:
            log.warning("the firewall's rules can not be looked at: %s", error)
            return False

    def _mend(self, *, whole: bool) -> bool:
        """Whether it is as it should be afterwards."""
        begun = time.monotonic()
        self.looks += 1
        try:
            backend = self._backend()
            changed = backend is not None and backend.mend(whole=whole)
        except (PynetError, OSError) as error:
            log.warning("the firewall's rules can not be put back: %s", error)
            self._pace.repaired(time.monotonic())
            return False
        if changed:
            now = time.monotonic()
            self.repairs += 1
            self._pace.repaired(now)
            log.warning(
                "the firewall's rules were altered by %s: put back in %.0f ms",
                self._who or "another program",
                (now - begun) * 1e3,
            )
        return True


def _own_ports() -> frozenset[int]:
    return own_ports(NETLINK_NETFILTER)
