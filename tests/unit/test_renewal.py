"""Leases are renewed whatever drivers of others do: the thread is one for all of them."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from pynet.ipam.driver import Lease
from pynet.netlib.model import EndpointRecord
from pynet.netlib.renewal import Renewal


class Leasing:
    """An IPAM driver of somebody's: every lease is due at once, until it was renewed; one verb may fail."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def _do(self, verb: str) -> None:
        if verb == self.fails:
            raise KeyError(verb)

    def due(self, lease: Lease) -> float | None:
        self._do("due")
        return float(lease.data["due"])

    def ends(self, lease: Lease) -> float | None:
        self._do("ends")
        return None

    def renew(self, network: str, lease: Lease) -> Lease:
        self._do("renew")
        return replace(lease, data={"due": str(time.time() + 1000)})


@pytest.mark.parametrize("fails", ["due", "ends", "renew", "save"])
def test_one_that_fails_keeps_no_other_lease_from_being_renewed(fails: str) -> None:
    drivers: dict[str, object] = {"a": Leasing(fails), "b": Leasing()}
    records = {id: EndpointRecord(id, id, "n", lease={"due": str(time.time() - 1)}) for id in drivers}
    renewed = threading.Event()

    def save(record: EndpointRecord, lease: Lease) -> None:
        if record.id == "a":
            raise KeyError("save")
        records[record.id] = replace(record, lease=dict(lease.data))
        renewed.set()

    renewal = Renewal(lambda: list(records.values()), lambda record: drivers[record.id], save)
    try:
        renewal.expect()
        assert renewed.wait(20)
    finally:
        renewal.close()
