"""The nftables back end: every change is one transaction, through libnftables or, for ports, by hand; without a process.

Text and elements are render.py's.  This module keeps a mirror of what it put into the kernel, for two reasons: a port whose
target changes is deleted and added in one transaction (an element's data can not be changed in place), and when the
kernel refuses a change because somebody flushed or altered our table, the whole table is written anew from the mirror
with the change in it.  The mirror is read from the kernel by ``ensure``.

A change may be more than one transaction: pieces, where the kernel takes no larger ones, and the ACCEPTs in the chains
of others (coexist.py).  When a later one fails, what came before is put right from the mirror, which learns of a change
last; should even that fail, the next change does it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from ...errors import NotSupported
from ...ifname import check_ifname
from ...kernel.libnftables import Nft, NftError
from ...kernel.netlink import NetlinkError
from ...kernel.nft_elements import AT_ONCE, ElementSocket, SetElement
from ..coexist import Coexistence
from ..intents import NetworkRules, PortKey, PortRule, check_instance, check_network, check_port
from ..mirror import Mirrored
from . import listing, render

_NO_KERNEL = (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ENOENT, errno.EINVAL)


class NftablesBackend(Mirrored):
    """FirewallBackend over one table of family inet."""

    name = "nftables"

    def __init__(self, instance: str = "") -> None:
        super().__init__()
        self.table = render.table_name(check_instance(instance))
        self._nft = Nft()
        self._elements = ElementSocket()
        self._fixed: list[Any] | None = None
        """How the kernel listed our chains and rules when they were made."""
        try:
            self._probe()
            self._others = Coexistence(self.table, self._nft, legacy=True)
        except BaseException:
            self._elements.close()
            self._nft.close()
            raise

    def _probe(self) -> None:
        """Ask the kernel whether it would take our rules."""
        try:
            self._nft.run(render.base(render.table_name("0")), check=True)
        except NftError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise NotSupported(
                    "no permission to change nftables rules here",
                    hint="run as root (CAP_NET_ADMIN), or in `unshare -Urnm`",
                ) from error
            if error.errno in _NO_KERNEL:
                raise NotSupported(
                    f"this kernel can not do what pynet needs of nftables ({error.strerror})",
                    hint="use Linux 5.7 or newer with nf_tables, nft_nat, nft_masq, nft_ct and nft_fib_inet",
                ) from error
            raise

    def close(self) -> None:
        with self._lock:
            self._others.close()
            self._elements.close()
            self._nft.close()

    # -- changes ------------------------------------------------------------------------------------------------

    def ensure(self) -> None:
        with self._lock:
            self._make()
            self._stale, self._fixed = False, None
            objects = self._listed()
            if listing.is_complete(objects):
                self._fixed = listing.fixed(objects)
            networks, ports = self._parsed(objects)
            self._networks = {rules.bridge: rules for rules in networks}
            self._ports = {rule.key: rule for rule in ports}
            self._ready = True
            self._others.sync(self._networks)
            self._note()

    def add_network(self, rules: NetworkRules) -> None:
        rules = check_network(rules)
        with self._lock:
            self._begin()
            old = self._networks.get(rules.bridge)
            if (old is not None and old != rules) or self._changes_ports(rules):
                self._write({**self._networks, rules.bridge: rules}, self._ports)
                return
            added = list(render.network_elements(rules))
            self._change([("add", added)], {**self._networks, rules.bridge: rules})

    def remove_network(self, bridge: str) -> None:
        check_ifname(bridge)
        with self._lock:
            self._begin()
            old = self._networks.get(bridge)
            if old is None:
                return
            networks = {name: rules for name, rules in self._networks.items() if name != bridge}
            self._change([("delete", list(render.network_elements(old)))], networks)

    def add_ports(self, rules: Iterable[PortRule]) -> None:
        with self._lock:
            self._begin()
            new = {rule.key: rule for rule in map(check_port, rules)}
            if not new:
                return
            changed = [old for key, rule in new.items() if (old := self._ports.get(key)) not in (None, rule)]
            self._change(
                [("delete", self._port_elements(changed)), ("add", self._port_elements(new.values()))], ports=new
            )

    def remove_ports(self, rules: Iterable[PortRule]) -> None:
        with self._lock:
            self._begin()
            gone = {rule.key: rule for rule in map(check_port, rules) if self._ports.get(rule.key) == rule}
            if gone:
                self._change([("delete", self._port_elements(gone.values()))], ports=dict.fromkeys(gone))

    def destroy(self) -> None:
        with self._lock:
            self._others.sync(())
            self._nft.run(render.destroy(self.table))
            self._networks, self._ports, self._ready = {}, {}, False

    # -- reading ------------------------------------------------------------------------------------------------

    def state(self) -> tuple[list[NetworkRules], list[PortRule]]:
        with self._lock:
            return self._parsed(self._listed())

    def _listed(self) -> list[dict[str, Any]]:
        try:
            return self._nft.list(f"list table inet {self.table}")
        except NftError as error:
            if error.errno != errno.ENOENT:
                raise
            return []

    def _parsed(self, objects: list[dict[str, Any]]) -> tuple[list[NetworkRules], list[PortRule]]:
        altered = self._fixed is not None and listing.fixed(objects) != self._fixed
        if altered or not listing.is_complete(objects):
            # elements that no rule looks at have no effect; the next change makes the rules anew
            self._stale = True
            return [], []
        return listing.parse(objects)

    def connections(self) -> dict[PortKey, int]:
        with self._lock:
            found: dict[PortKey, int] = {}
            for name in render.COUNTED:
                try:
                    objects = self._nft.list(f"list map inet {self.table} {name}")
                except NftError as error:
                    if error.errno != errno.ENOENT:
                        raise
                    return {}  # nothing is there yet
                for key, count in listing.counts(objects):
                    found[key] = found.get(key, 0) + count
            return found

    # -- how ----------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        try:
            self._nft.run(render.base(self.table))
        except NftError as error:
            if error.errno != errno.EEXIST:
                raise
            # an older pynet's table has sets that are declared otherwise: all of it is made anew, and its elements come back
            # by the first repair
            self._nft.run(render.destroy(self.table) + render.base(self.table))

    def _changes_ports(self, rules: NetworkRules) -> bool:
        """Whether ports that are there already are written differently with this network."""
        return rules.loopback != _loopback(self._networks, rules.bridge) and any(
            port.bridge == rules.bridge for port in self._ports.values()
        )

    def _port_elements(self, rules: Iterable[PortRule]) -> list[render.Element]:
        return list(_elements(self._networks, rules))

    def _change(
        self,
        changes: Sequence[render.Elements],
        networks: dict[str, NetworkRules] | None = None,
        ports: dict[PortKey, PortRule] | dict[PortKey, None] | None = None,
    ) -> None:
        """Do *changes*; if the kernel does not hold what the mirror says, write all of it anew, with the change.

        *networks* are all that shall be, *ports* only those that change (None: go), so that a change does not cost a
        copy of all ports.
        """
        try:
            self._alter(changes)
        except (NftError, NetlinkError) as error:
            if error.errno not in (errno.ENOENT, errno.EEXIST, errno.EBUSY):
                if self._stale:  # pieces of it are in
                    with self._as_before():
                        raise
                raise
            merged = {**self._ports, **(ports or {})}
            kept = {key: rule for key, rule in merged.items() if rule is not None}
            self._write(self._networks if networks is None else networks, kept)
            return
        if networks is not None:
            with self._as_before():
                self._others.sync(networks)
            self._networks = networks
            self._note()
        for key, rule in (ports or {}).items():
            if rule is None:
                self._ports.pop(key, None)
            else:
                self._ports[key] = rule

    def _alter(self, changes: Sequence[render.Elements]) -> None:
        elements = [element for _, its in changes for element in its]
        if len(elements) > AT_ONCE:
            self._run(render.text(self.table, changes))
        else:
            packed: list[tuple[Literal["add", "delete"], list[SetElement]]] = [
                (verb, [one for element in its for one in render.packed(element)]) for verb, its in changes
            ]
            self._elements.change(self.table, packed)

    def _run(self, text: str) -> None:
        """One transaction, unless the kernel takes none of that size.

        Who is not root outside may not go beyond net.core.wmem_max (socket(7), SO_SNDBUFFORCE), which holds some
        thousand elements.
        """
        try:
            self._nft.run(text)
        except NftError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            self._stale = True  # until the last piece is in
            for part in render.parts(text):
                self._nft.run(part)
            self._stale = False

    def _put(self, networks: dict[str, NetworkRules], ports: dict[PortKey, PortRule]) -> None:
        elements = [element for rules in networks.values() for element in render.network_elements(rules)]
        elements += _elements(networks, ports.values())
        self._run(render.base(self.table) + render.flush(self.table) + render.add(self.table, elements))
        self._stale = False


def _loopback(networks: Mapping[str, NetworkRules], bridge: str) -> bool:
    network = networks.get(bridge)
    return network is not None and network.loopback


def _elements(networks: Mapping[str, NetworkRules], rules: Iterable[PortRule]) -> Iterable[render.Element]:
    for rule in rules:
        yield from render.port_elements(rule, loopback=_loopback(networks, rule.bridge))
