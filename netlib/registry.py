"""Every network, endpoint and sandbox of an instance: in memory for look-ups, in the store for good.

The controller holds the lock of the root directory, so nobody else writes the store, and look-ups need not ask it.  Each
index is kept so that finding an endpoint by network, sandbox or name costs the same however many there are.  A change
is one store transaction first, and memory after it: what raises has changed neither.

Every method may be called from any thread.  Who decides from several look-ups holds ``lock`` meanwhile.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from .errors import Conflict, Forbidden, InvalidArgument, NotFound
from .model import EndpointRecord, NetworkRecord, SandboxRecord
from .store.sqlite import Store

Record = NetworkRecord | EndpointRecord | SandboxRecord


class NetworkNotFound(NotFound):
    hint = "`pynet network ls` lists the networks"

    def __init__(self, ref: str) -> None:
        super().__init__(f"network {ref} not found")
        self.ref = ref


class NetworkNameTaken(Conflict):
    hint = "remove it, or choose another name"

    def __init__(self, name: str) -> None:
        super().__init__(f"network with name {name} already exists")
        self.name = name


class EndpointNameTaken(Forbidden):
    hint = "choose another endpoint name, or disconnect the other"

    def __init__(self, name: str, network: str) -> None:
        super().__init__(f"endpoint with name {name} already exists in network {network}")
        self.name, self.network = name, network


class Registry:
    def __init__(self, store: Store) -> None:
        self._store = store
        self.lock = threading.RLock()
        self.networks: dict[str, NetworkRecord] = {}
        self.endpoints: dict[str, EndpointRecord] = {}
        self.sandboxes: dict[str, SandboxRecord] = {}
        self._network_names: dict[str, str] = {}
        self._endpoint_names: dict[tuple[str, str], str] = {}
        self._of_network: defaultdict[str, set[str]] = defaultdict(set)
        self._of_sandbox: defaultdict[str, set[str]] = defaultdict(set)
        for body in store.list("network"):
            self._add(NetworkRecord.from_body(body))
        for body in store.list("endpoint"):
            self._add(EndpointRecord.from_body(body))
        for body in store.list("sandbox"):
            self._add(SandboxRecord.from_body(body))

    # -- changes ---------------------------------------------------------------------------------------------

    def save(self, *records: Record, forget: Iterable[Record] = ()) -> None:
        """Create or replace records, and forget others, all in one transaction; unknown ones are passed over."""
        with self.lock:
            forget = tuple(forget)
            for record in records:
                self._check_name(record)
            with self._store.transaction():
                for record in records:
                    kind, name = _kind(record), record.name if isinstance(record, NetworkRecord) else None
                    self._store.put(kind, record.id, record.to_body(), name)
                for record in forget:
                    self._store.delete(_kind(record), record.id)
            for record in records:
                self._unindex(record)
                self._add(record)
            for record in forget:
                self._unindex(record)
                self._table(record).pop(record.id, None)

    def remove(self, *records: Record) -> None:
        self.save(forget=records)

    def _check_name(self, record: Record) -> None:
        if isinstance(record, NetworkRecord) and self._network_names.get(record.name, record.id) != record.id:
            raise NetworkNameTaken(record.name)
        if isinstance(record, EndpointRecord):
            key = (record.network, record.name)
            if self._endpoint_names.get(key, record.id) != record.id:
                raise EndpointNameTaken(record.name, self.networks[record.network].name)

    def _add(self, record: Record) -> None:
        if isinstance(record, NetworkRecord):
            self.networks[record.id] = record
            self._network_names[record.name] = record.id
        elif isinstance(record, EndpointRecord):
            self.endpoints[record.id] = record
            self._endpoint_names[record.network, record.name] = record.id
            self._of_network[record.network].add(record.id)
            if record.sandbox:
                self._of_sandbox[record.sandbox].add(record.id)
        else:
            self.sandboxes[record.id] = record

    def _unindex(self, record: Record) -> None:
        """The record itself stays where it is, so that one that is replaced is never missed by who looks it up by id."""
        known = self._table(record).get(record.id)
        if isinstance(known, NetworkRecord):
            del self._network_names[known.name]
        elif isinstance(known, EndpointRecord):
            del self._endpoint_names[known.network, known.name]
            _discard(self._of_network, known.network, known.id)
            _discard(self._of_sandbox, known.sandbox, known.id)

    def _table(self, record: Record) -> dict[str, Any]:
        if isinstance(record, NetworkRecord):
            return self.networks
        return self.endpoints if isinstance(record, EndpointRecord) else self.sandboxes

    # -- look-ups --------------------------------------------------------------------------------------------

    def network(self, ref: str) -> NetworkRecord:
        """By exact id, else exact name, else a prefix of the id that only one has."""
        if not ref:
            raise InvalidArgument("network name or id must not be empty")
        with self.lock:
            if ref in self.networks:
                return self.networks[ref]
            if ref in self._network_names:
                return self.networks[self._network_names[ref]]
            matches = [record for record in self.networks.values() if record.id.startswith(ref)]
        if not matches:
            raise NetworkNotFound(ref)
        if len(matches) > 1:
            raise InvalidArgument(f"network {ref} is ambiguous ({len(matches)} matches found on ID prefix)")
        return matches[0]

    def has_network_named(self, name: str) -> bool:
        return name in self._network_names

    def endpoints_of_network(self, network: str) -> list[EndpointRecord]:
        """Sorted by name, so that listings are stable."""
        with self.lock:
            return _sorted(self.endpoints[id] for id in self._of_network.get(network, ()))

    def endpoints_of_sandbox(self, sandbox: str) -> list[EndpointRecord]:
        with self.lock:
            return _sorted(self.endpoints[id] for id in self._of_sandbox.get(sandbox, ()))

    def endpoint_named(self, network: str, name: str) -> EndpointRecord | None:
        with self.lock:
            id = self._endpoint_names.get((network, name))
            return self.endpoints[id] if id else None


def _sorted(records: Iterable[EndpointRecord]) -> list[EndpointRecord]:
    return sorted(records, key=lambda record: record.name)


def _discard(index: defaultdict[str, set[str]], key: str, id: str) -> None:
    members = index.get(key)
    if members is not None:
        members.discard(id)
        if not members:
            del index[key]


def _kind(record: Record) -> str:
    if isinstance(record, NetworkRecord):
        return "network"
    return "endpoint" if isinstance(record, EndpointRecord) else "sandbox"
