"""Networks' names and sandboxes' views, indexed for look-up.  Pure.

    tell(Names, View, ...)  -->  Network   name -> {endpoint: ...}      one a network, shared by all its sandboxes
                                           reverse name -> {...}
                                 Sight     a view made ready: its hosts by name
    stamp(sandbox)               changes when something that the sandbox could be answered from has changed, and only then

A change costs what it changes: the names of an endpoint are taken out and put in one by one, whatever else the network has; and
who keeps answers (server.py) asks for the stamp of a sandbox in place of being told what to forget.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import NamedTuple

from ..netlib.naming import Names, View
from .message import wire_name

TTL = 600
"""Docker's (moby, daemon/libnetwork/resolver.go)."""


class Found(NamedTuple):
    """What a name means: addresses as record data."""

    ipv4: tuple[bytes, ...]
    ipv6: tuple[bytes, ...]


def fold(name: str) -> bytes:
    """*name* as ``Question.name`` would have it."""
    return name.rstrip(".").replace("\\", "\\\\").encode().lower()


def found(addresses: Iterable[str]) -> Found:
    """ValueError for what is no address."""
    ours = [ipaddress.ip_address(address) for address in addresses]
    return Found(
        tuple(one.packed for one in ours if one.version == 4),
        tuple(one.packed for one in ours if one.version == 6),
    )


def reverse_name(packed: bytes) -> bytes:
    """Below which name the PTR record of an address is, folded (RFC 1035 3.5, RFC 3596 2.5)."""
    if len(packed) == 4:
        return socket.inet_ntoa(packed[::-1]).encode() + b".in-addr.arpa"
    return b".".join(b"%x" % digit for byte in reversed(packed) for digit in (byte & 15, byte >> 4)) + b".ip6.arpa"


class Endpoint:
    """The names of one endpoint, made ready."""

    __slots__ = ("found", "keys", "names", "pointer", "reverse")

    def __init__(self, names: Names) -> None:
        """ValueError when an address is none."""
        self.names = names
        self.keys = tuple(dict.fromkeys(fold(name) for name in names.names))
        self.found = found(names.addresses)
        self.pointer = _pointer(names)
        """The data of its PTR records."""
        self.reverse = tuple(reverse_name(one) for one in (*self.found.ipv4, *self.found.ipv6)) if self.pointer else ()


def _pointer(names: Names) -> bytes:
    """``name.network``; the name alone where the network's can not be part of one, b"" where neither can."""
    for name in names.names[:1]:
        for candidate in (f"{name}.{names.network_name}", name):
            try:
                return wire_name(candidate)
            except ValueError:
                continue
    return b""


class Network:
    """The names on one network."""

    __slots__ = ("_names", "_reverse", "endpoints", "generation", "name", "suffix")

    def __init__(self) -> None:
        self.name = ""
        self.suffix = b""
        self.generation = 0
        self.endpoints: dict[str, Endpoint] = {}
        self._names: dict[bytes, dict[str, Endpoint]] = {}
        self._reverse: dict[bytes, dict[str, Endpoint]] = {}

    def put(self, endpoint: Endpoint) -> None:
        id = endpoint.names.endpoint
        self.endpoints[id] = endpoint
        for index, keys in ((self._names, endpoint.keys), (self._reverse, endpoint.reverse)):
            for key in keys:
                index.setdefault(key, {})[id] = endpoint
        self.name = endpoint.names.network_name
        self.suffix = b"." + fold(self.name)

    def take(self, id: str) -> None:
        endpoint = self.endpoints.pop(id)
        for index, keys in ((self._names, endpoint.keys), (self._reverse, endpoint.reverse)):
            for key in keys:
                those = index[key]
                del those[id]
                if not those:
                    del index[key]

    def find(self, name: bytes) -> Found | None:
        """What *name*, with the network's own behind it or without, means here; None: nothing."""
        those = self._names.get(name)
        if those is None and name.endswith(self.suffix):
            those = self._names.get(name[: -len(self.suffix)])
        if those is None:
            return None
        if len(those) == 1:
            (endpoint,) = those.values()
            return endpoint.found
        return Found(
            tuple(dict.fromkeys(one for endpoint in those.values() for one in endpoint.found.ipv4)),
            tuple(dict.fromkeys(one for endpoint in those.values() for one in endpoint.found.ipv6)),
        )

    def pointers(self, reverse: bytes) -> tuple[bytes, ...]:
        """The data of the PTR records at *reverse*."""
        return tuple(dict.fromkeys(endpoint.pointer for endpoint in self._reverse.get(reverse, {}).values()))


class Sight:
    """A view, made ready."""

    __slots__ = ("generation", "hosts", "view")

    def __init__(self, view: View) -> None:
        """ValueError when an address is none."""
        self.view = view
        self.generation = 0
        hosts: dict[bytes, list[str]] = {}
        for name, addresses in view.hosts:  # a name may stand there twice, as --add-host may
            hosts.setdefault(fold(name), []).extend(addresses)
        self.hosts = {name: found(dict.fromkeys(addresses)) for name, addresses in hosts.items()}


class Zones:
    """What is so now.  Not thread-safe."""

    def __init__(self, ttl: int = TTL) -> None:
        self.ttl = ttl
        self.generation = 0
        """Grows with every change; while it is the same, so is every stamp."""
        self._networks: dict[str, Network] = {}
        self._sights: dict[str, Sight] = {}
        self._where: dict[str, str] = {}
        """endpoint -> network"""

    def tell(
        self,
        views: Iterable[View] = (),
        names: Iterable[Names] = (),
        gone_views: Iterable[str] = (),
        gone_endpoints: Iterable[str] = (),
    ) -> None:
        """A change.  What is told again replaces what it was, what is gone twice is gone, and neither needs the other first;
        what is told and gone at once is there.  ValueError, and nothing changed, when an address is none."""
        sights = [Sight(view) for view in views]
        endpoints = [Endpoint(one) for one in names]
        self.generation += 1
        for sandbox in gone_views:
            self._sights.pop(sandbox, None)
        for sight in sights:
            before = self._sights.get(sight.view.sandbox)
            if before is None or before.view != sight.view:
                sight.generation = self.generation
                self._sights[sight.view.sandbox] = sight
        staying = {endpoint.names.endpoint for endpoint in endpoints}
        for id in gone_endpoints:
            if id not in staying:
                self._take(id)
        for endpoint in endpoints:
            self._put(endpoint)

    def _put(self, endpoint: Endpoint) -> None:
        names = endpoint.names
        where = self._where.get(names.endpoint)
        if where is not None:
            if self._networks[where].endpoints[names.endpoint].names == names:
                return
            self._take(names.endpoint)
        network = self._networks.setdefault(names.network, Network())
        network.put(endpoint)
        network.generation = self.generation
        self._where[names.endpoint] = names.network

    def _take(self, id: str) -> None:
        where = self._where.pop(id, None)
        if where is None:
            return
        network = self._networks[where]
        network.take(id)
        network.generation = self.generation
        if not network.endpoints:
            del self._networks[where]
            for sight in self._sights.values():  # its generation goes with it, and must not be missed
                if where in sight.view.networks:
                    sight.generation = self.generation

    def view(self, sandbox: str) -> View | None:
        sight = self._sights.get(sandbox)
        return None if sight is None else sight.view

    def views(self) -> tuple[View, ...]:
        return tuple(sight.view for sight in self._sights.values())

    def names(self) -> tuple[Names, ...]:
        return tuple(endpoint.names for network in self._networks.values() for endpoint in network.endpoints.values())

    def sight(self, sandbox: str) -> Sight | None:
        return self._sights.get(sandbox)

    def networks(self, sight: Sight) -> list[Network]:
        """Those of a view that have names, in its order."""
        known = self._networks
        return [known[id] for id in sight.view.networks if id in known]

    def stamp(self, sandbox: str) -> int:
        """Differs from every earlier one when what the sandbox is answered may do; 0 without a view."""
        sight = self._sights.get(sandbox)
        if sight is None:
            return 0
        return max([sight.generation, *(network.generation for network in self.networks(sight))])
