"""Leases of addresses that last only so long (DHCP): a thread renews them in time, whatever the endpoints do.

    expect   an endpoint has a lease that will be due, or no longer has
    _run     waits for the earliest; asks the IPAM driver, with no turn in hand; then, in the endpoint's turn, the record is
             saved and the sandbox follows

The records say all: a controller that starts again takes up every lease where the last one left it.  When a lease's time is
over, or the server takes the address back, it lapses: the address leaves the interface at once, for it may be somebody
else's by now (RFC 2131 4.4.5).  The log tells it, ``check`` shows it, and the address is asked for at once and then every minute;
when it is leased again the interface has it again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from ..ipam.driver import Lease
from .errors import PynetError
from .model import EndpointRecord

log = logging.getLogger("pynet.netlib")
AGAIN = 60.0
"""Seconds until a renewal that failed is tried again."""


@runtime_checkable
class Renewing(Protocol):
    """An IPAM driver whose leases end."""

    def due(self, lease: Lease) -> float | None:
        """When it is to be renewed (Unix time); None for one that lasts."""
        ...

    def ends(self, lease: Lease) -> float | None:
        """When its time is over (Unix time); None for one that lasts."""
        ...

    def renew(self, network: str, lease: Lease) -> Lease:
        """The same for longer, or due again later; one that lapsed, anew.  PynetError or OSError when it can not be had."""
        ...


@dataclass(frozen=True, slots=True)
class _Due:
    at: float
    record: EndpointRecord
    driver: Renewing
    lease: Lease
    over: bool
    """Whether its time is over then, and not only half of it."""


class Renewal:
    """A thread that starts with the first lease that will be due, and ends with ``close``."""

    def __init__(
        self,
        records: Callable[[], Iterable[EndpointRecord]],
        driver_of: Callable[[EndpointRecord], object],
        save: Callable[[EndpointRecord, Lease], None],
    ) -> None:
        """*save* puts a lease in the place of an endpoint's, if it has the old one still, and has its sandbox follow."""
        self._records, self._driver_of, self._save = records, driver_of, save
        self._changed = threading.Condition()
        self._later: dict[tuple[str, bool], float] = {}
        """When to try again: an endpoint's renewal (False), its end (True)."""
        self._closing = False
        self._thread: threading.Thread | None = None

    def expect(self) -> None:
        """Look again at what is due."""
        with self._changed:
            if self._thread is None and not self._closing and self._next() is not None:
                self._thread = threading.Thread(target=self._run, name="pynet-renewal", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """An exchange that is under way ends within its timeout, a few seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _next(self) -> _Due | None:
        """What is due first; ends before renewals, for these may take their time."""
        found: list[_Due] = []
        records = {record.id: record for record in self._records()}
        self._later = {key: at for key, at in self._later.items() if key[0] in records}
        now = time.time()
        for record in records.values():
            if not record.lease or not isinstance(driver := self._driver_of(record), Renewing):
                continue
            lease = _lease(record)
            try:
                due, end = driver.due(lease), driver.ends(lease)
            except Exception as error:  # a driver of somebody else's: other leases are renewed all the same
                if self._later.get((record.id, False), 0.0) <= now:
                    log.error("can not tell when the lease of endpoint %s is due: %r", record.name, error)
                    self._later[record.id, False] = now + AGAIN
                continue
            if due is not None:
                found.append(_Due(self._not_before(due, record, False), record, driver, lease, over=False))
            if end is not None and not lease.lapsed:
                found.append(_Due(self._not_before(end, record, True), record, driver, lease, over=True))
        return min(found, key=lambda one: (not (one.over and one.at <= now), one.at), default=None)

    def _not_before(self, at: float, record: EndpointRecord, over: bool) -> float:
        return max(at, self._later.get((record.id, over), at))

    def _run(self) -> None:
        while True:
            with self._changed:
                first = self._next()
                if self._closing:
                    return
                wait = first.at - time.time() if first is not None else AGAIN
                if first is None or wait > 0:
                    self._changed.wait(timeout=min(wait, AGAIN))  # the clock may be set meanwhile
                    continue
            if first.over:
                self._lapse(first, "nobody renewed it in time")
            else:
                self._renew(first)

    def _renew(self, due: _Due) -> None:
        record, old = due.record, due.lease
        try:
            new = due.driver.renew(record.network, old)
            if new.addresses != old.addresses:
                raise PynetError(f"it was given {' '.join(new.addresses)} in its place")
        except (PynetError, OSError) as error:
            if old.lapsed:
                self._put_off(due, "lease", error)
            else:
                self._lapse(due, error)
            return
        except Exception as error:
            self._put_off(due, "renew", error)
            return
        try:
            self._save(record, replace(new, lapsed=False))
        except Exception as error:  # the sandbox follows by the network's driver, which may be anybody's too
            self._put_off(due, "give back" if old.lapsed else "renew", error)
            return
        self._later.pop((record.id, False), None)
        if old.lapsed:
            log.warning("endpoint %s has %s again", record.name, " ".join(new.addresses))

    def _lapse(self, due: _Due, why: object) -> None:
        said = " ".join(due.lease.addresses)
        log.error("the lease of %s is over, and endpoint %s has it no more: %s", said, due.record.name, why)
        try:
            self._save(due.record, replace(due.lease, lapsed=True))
        except Exception as error:
            log.error("can not take %s from endpoint %s: %s", said, due.record.name, error)
            self._later[due.record.id, True] = time.time() + AGAIN

    def _put_off(self, due: _Due, what: str, error: Exception) -> None:
        log.error("can not %s %s of endpoint %s: %s", what, " ".join(due.lease.addresses), due.record.name, error)
        self._later[due.record.id, False] = time.time() + AGAIN


def _lease(record: EndpointRecord) -> Lease:
    return Lease(record.address or record.lapsed, record.address6, record.lease, lapsed=bool(record.lapsed))


__all__ = ["AGAIN", "Renewal", "Renewing"]
