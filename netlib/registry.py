"""Every network, endpoint and sandbox of an instance: in memory for look-ups, in the store for good.

Look-ups do not ask the store.  Each index is kept so that finding an endpoint by network, sandbox or name costs the same
however many there are.  A change is one store transaction first, and memory after it: what raises has changed neither.

Every record is written over the revision that was read, so a store with other writers (store/protocol.py) refuses what would
overwrite theirs; what they wrote arrives through its ``watch``.  One host's store has no other writer: the controller
holds the lock of the root directory.

Every method may be called from any thread.  Who decides from several look-ups holds ``lock`` meanwhile.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from .errors import Conflict, Forbidden, InvalidArgument, NotFound
from .model import EndpointRecord, Member, NetworkRecord, Record, Room, SandboxRecord
from .store.protocol import Delete, Put, Store, Stored

KINDS = ("network", "endpoint", "sandbox")


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
        self._revisions: dict[tuple[str, str], int] = {}
        self._of_driver: defaultdict[str, set[str]] = defaultdict(set)
        for kind in KINDS:
            for stored in store.load(kind):
                self._learn(stored)
        self._watch = store.watch(KINDS, self._changed_elsewhere)

    def close(self) -> None:
        """Stop following the store."""
        self._watch()

    # -- changes ---------------------------------------------------------------------------------------------

    def save(self, *records: Record, forget: Iterable[Record] = ()) -> None:
        """Create or replace records, and forget others, all in one transaction; unknown ones are passed over."""
        with self.lock:
            forget = tuple(forget)
            for record in records:
                self.check_name(record)
            puts = [
                Put(
                    kind := _kind(record),
                    record.id,
                    record.to_body(),
                    record.name if isinstance(record, NetworkRecord) else None,
                    self._revisions.get((kind, record.id), 0),
                )
                for record in records
            ]
            deletes = [
                Delete(_kind(record), record.id, self._revisions.get((_kind(record), record.id), 0))
                for record in forget
            ]
            if puts or deletes:
                revision = self._store.commit(puts, deletes)
                self._revisions.update({(put.kind, put.id): revision for put in puts})
            for record in records:
                self._unindex(record)
                self._add(record)
            for record in forget:
                self._revisions.pop((_kind(record), record.id), None)
                self._unindex(record)
                self._table(record).pop(record.id, None)

    def _learn(self, stored: Stored) -> None:
        kinds: dict[str, type[Record]] = {
            "network": NetworkRecord,
            "endpoint": EndpointRecord,
            "sandbox": SandboxRecord,
        }
        record = kinds[stored.kind].from_body(stored.body or {})
        self._unindex(record)
        self._add(record)
        self._revisions[stored.kind, stored.id] = stored.revision

    def _changed_elsewhere(self, changes: Iterable[Stored]) -> None:
        with self.lock:
            for stored in changes:
                if self._revisions.get((stored.kind, stored.id), 0) >= stored.revision:
                    continue
                if stored.body is not None:
                    self._learn(stored)
                    continue
                tables: dict[str, Any] = {
                    "network": self.networks,
                    "endpoint": self.endpoints,
                    "sandbox": self.sandboxes,
                }
                table = tables[stored.kind]
                record = table.get(stored.id)
                if record is not None:
                    self._unindex(record)
                    del table[stored.id]
                    self._revisions.pop((stored.kind, stored.id), None)

    def known(self, record: Record) -> Record | None:
        """What stands here under the record's id."""
        with self.lock:
            found: Record | None = self._table(record).get(record.id)
            return found

    def check_name(self, record: Record) -> None:
        """NetworkNameTaken or EndpointNameTaken when another has the name of this one."""
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
            self._of_driver[record.driver].add(record.id)
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
            _discard(self._of_driver, known.driver, known.id)
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

    def network_of_driver(self, driver: str) -> NetworkRecord | None:
        """Any of this driver's, but for those that only hold a configuration."""
        with self.lock:
            found = (self.networks[id] for id in self._of_driver.get(driver, ()))
            return next((network for network in found if not network.config_only), None)

    def networks_configured_from(self, name: str) -> list[NetworkRecord]:
        with self.lock:
            return [network for network in self.networks.values() if network.config_from == name]

    def sandbox(self, id: str) -> SandboxRecord:
        with self.lock:
            record = self.sandboxes.get(id)
        if record is None:
            raise NotFound(f"sandbox {id} not found")
        return record

    def endpoint(self, id: str) -> EndpointRecord:
        with self.lock:
            record = self.endpoints.get(id)
        if record is None:
            raise NotFound(f"endpoint {id} not found")
        return record

    def room(self, sandbox: str) -> Room:
        """The sandbox with its endpoints (sorted by name) and their networks."""
        with self.lock:
            members = (Member(e, self.networks[e.network]) for e in self.endpoints_of_sandbox(sandbox))
            return Room(self.sandbox(sandbox), tuple(members))

    def rooms(self) -> list[Room]:
        with self.lock:
            return [self.room(id) for id in self.sandboxes]

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
