"""Leases of addresses that last only so long (DHCP): a thread renews them in time, whatever the endpoints do.

    expect   an endpoint has a lease that will be due, or no longer has
    _run     waits for the earliest; asks the IPAM driver, with no turn in hand; then, in the endpoint's turn, saves the record

The records say all: a controller that starts again takes up every lease where the last one left it.  Where a server takes an
address back or nobody renews it in time, the container goes on with it, for to cut it off would help nobody; the log tells it,
and it is tried again every minute until the server gives the same address again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
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

    def renew(self, network: str, lease: Lease) -> Lease:
        """The same for longer, or due again later; PynetError or OSError when it can not be kept."""
        ...


class Renewal:
    """A thread that starts with the first lease that will be due, and ends with ``close``."""

    def __init__(
        self,
        records: Callable[[], Iterable[EndpointRecord]],
        driver_of: Callable[[EndpointRecord], object],
        save: Callable[[EndpointRecord, Lease], None],
    ) -> None:
        """*save* puts a new lease in the place of an endpoint's, if it has the old one still."""
        self._records, self._driver_of, self._save = records, driver_of, save
        self._changed = threading.Condition()
        self._later: dict[str, float] = {}
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

    def _next(self) -> tuple[float, EndpointRecord, Renewing] | None:
        """The lease that is due first, and when."""
        found: list[tuple[float, EndpointRecord, Renewing]] = []
        for record in self._records():
            if not record.lease or not isinstance(driver := self._driver_of(record), Renewing):
                continue
            due = driver.due(Lease(record.address, record.address6, record.lease))
            if due is not None:
                found.append((max(due, self._later.get(record.id, due)), record, driver))
        return min(found, key=lambda one: one[0], default=None)

    def _run(self) -> None:
        while True:
            with self._changed:
                first = self._next()
                if self._closing:
                    return
                wait = first[0] - time.time() if first is not None else AGAIN
                if first is None or wait > 0:
                    self._changed.wait(timeout=min(wait, AGAIN))  # the clock may be set meanwhile
                    continue
            self._renew(*first[1:])

    def _renew(self, record: EndpointRecord, driver: Renewing) -> None:
        old = Lease(record.address, record.address6, record.lease)
        try:
            new = driver.renew(record.network, old)
            if new.addresses != old.addresses:
                raise PynetError(f"it was given {' '.join(new.addresses)} in its place")
            self._save(record, new)
            self._later.pop(record.id, None)
        except (PynetError, OSError) as error:
            log.error("can not renew %s of endpoint %s: %s", " ".join(old.addresses), record.name, error)
            self._later[record.id] = time.time() + AGAIN


__all__ = ["AGAIN", "Renewal", "Renewing"]
