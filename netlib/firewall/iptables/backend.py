"""The iptables back end: legacy tables, for hosts whose kernel lacks nf_tables.

What render.py makes of the intents is carried out by two processes (process.py): a few rules through
python-iptables, many through iptables-restore, whose cost is one commit for all.  A commit is a transaction of one
table of one family; a change that is refused half-way is put right by writing all that was there before.

As in nftables/backend.py there is a mirror of what is in the kernel, read by ``ensure``: rules have no identity in the
kernel, so only the mirror can tell what to remove, and adding twice would be two rules.  For the same reason an edit that
was sent and never answered (the process was killed) is not sent again: all is written anew, which can not do it twice.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from ...errors import NotSupported, PynetError
from ...ifname import check_ifname
from ...kernel.libnftables import Nft
from ..coexist import Coexistence
from ..intents import NetworkRules, PortKey, PortRule, check_instance, check_network, check_port
from ..mirror import Mirrored
from . import render
from .process import LegacyTables, Unanswered, check_installed

BULK = 3
"""From this many rules on, iptables-restore is cheaper than python-iptables (bench/bench_firewall.py)."""


class IptablesBackend(Mirrored):
    """FirewallBackend over legacy iptables."""

    name = "iptables"

    def __init__(self, instance: str = "", *, lock: str = "") -> None:
        super().__init__()
        self._names = render.Names(check_instance(instance))
        check_installed()
        self._tables = LegacyTables(lock)
        self._nft: Nft | None
        self._versions: tuple[int, ...] = (4, 6)
        # nf_tables may be there and somebody's, even if they are not what carries our own rules
        try:
            self._nft = Nft()
        except NotSupported:
            self._nft = None
        mark = f"pynet-{instance}" if instance else "pynet"
        self._others = Coexistence(mark, self._nft, legacy=False)
        try:
            self._probe()
        except BaseException:
            self.close()
            raise

    def _probe(self) -> None:
        """A kernel without IPv6 tables serves IPv4 alone.  No table is made by asking."""
        self._tables.save(4)
        try:
            self._tables.save(6)
        except (NotSupported, OSError):
            self._versions = (4,)

    def close(self) -> None:
        with self._lock:
            self._tables.close()
            self._others.close()
            if self._nft is not None:
                self._nft.close()

    # -- changes ------------------------------------------------------------------------------------------------

    def ensure(self) -> None:
        with self._lock:
            dumps = self._dumps()
            networks, ports = self._parse(dumps)
            if not all(self._complete(version, dump) for version, dump in dumps.items()):
                self._put(networks, ports)
            self._networks, self._ports, self._ready, self._stale = networks, ports, True, False
            self._others.sync(networks)
            self._note()

    def add_network(self, rules: NetworkRules) -> None:
        rules = check_network(rules)
        with self._lock:
            self._begin()
            old = self._networks.get(rules.bridge)
            networks = {**self._networks, rules.bridge: rules}
            if old == rules:
                self._check_hooks()
            elif old is not None or any(port.bridge == rules.bridge for port in self._ports.values()):
                self._write(networks, self._ports)
            else:
                self._change({v: list(self._names.network(rules, v)) for v in self._versions}, {}, networks)

    def remove_network(self, bridge: str) -> None:
        check_ifname(bridge)
        with self._lock:
            self._begin()
            old = self._networks.get(bridge)
            if old is not None:
                networks = {name: rules for name, rules in self._networks.items() if name != bridge}
                self._change({}, {v: list(self._names.network(old, v)) for v in self._versions}, networks)

    def add_ports(self, rules: Iterable[PortRule]) -> None:
        with self._lock:
            self._begin()
            wanted = {rule.key: rule for rule in map(check_port, rules)}
            new = {key: rule for key, rule in wanted.items() if self._ports.get(key) != rule}
            if not new:
                self._check_hooks()
                return
            changed = [old for key in new if (old := self._ports.get(key)) is not None]
            self._change(
                self._port_rules(new.values()), self._port_rules(changed), None, {**self._ports, **new}
            )  # fmt: skip

    def remove_ports(self, rules: Iterable[PortRule]) -> None:
        with self._lock:
            self._begin()
            gone = {rule.key: rule for rule in map(check_port, rules) if self._ports.get(rule.key) == rule}
            if gone:
                ports = {key: rule for key, rule in self._ports.items() if key not in gone}
                self._change({}, self._port_rules(gone.values()), None, ports)

    def destroy(self) -> None:
        with self._lock:
            self._others.sync(())
            for version in self._versions:
                self._tables.restore(version, render.destroy(self._names, version, self._tables.save(version)))
            self._networks, self._ports, self._ready = {}, {}, False

    # -- reading ------------------------------------------------------------------------------------------------

    def state(self) -> tuple[list[NetworkRules], list[PortRule]]:
        with self._lock:
            dumps = self._dumps()
            if not all(self._complete(version, dump) for version, dump in dumps.items()):
                # rules that no packet comes to have no effect; the next change makes the way to them anew
                self._stale = True
                return [], []
            return render.parse(self._names, dumps)

    def connections(self) -> dict[PortKey, int]:
        return {}  # a rule counts, but rules are written anew for reasons of others, and would count from zero

    # -- how ----------------------------------------------------------------------------------------------------

    def _dumps(self) -> dict[int, render.Dump]:
        return {version: self._tables.save(version) for version in self._versions}

    def _parse(self, dumps: dict[int, render.Dump]) -> tuple[dict[str, NetworkRules], dict[PortKey, PortRule]]:
        networks, ports = render.parse(self._names, dumps)
        return {rules.bridge: rules for rules in networks}, {rule.key: rule for rule in ports}

    def _complete(self, version: int, dump: render.Dump) -> bool:
        """Whether every chain, hook and fixed rule is there, once."""
        chains = [(table, self._names.chain(short)) for table, shorts in render.TABLES.items() for short in shorts]
        chains.append(("filter", self._names.user))
        rules = [*self._names.hooks(version), *self._names.fixed()]
        return all(chain in dump.chains for chain in chains) and all(dump.count(rule) == 1 for rule in rules)

    def _check_hooks(self) -> None:
        """Bring back what somebody else flushed."""
        if not all(self._complete(version, dump) for version, dump in self._dumps().items()):
            self._write(self._networks, self._ports)

    def _port_rules(self, rules: Iterable[PortRule], networks: dict[str, NetworkRules] | None = None) -> _Rules:
        networks = self._networks if networks is None else networks
        by_version: _Rules = {version: [] for version in self._versions}
        for rule in rules:
            if rule.version not in by_version:
                raise NotSupported("this kernel has no ip6tables", hint="publish IPv4 alone, or use nftables")
            network = networks.get(rule.bridge)
            loopback = network is not None and network.loopback
            by_version[rule.version] += self._names.port(rule, loopback=loopback)
        return by_version

    def _change(
        self,
        add: _Rules,
        delete: _Rules,
        networks: dict[str, NetworkRules] | None,
        ports: dict[PortKey, PortRule] | None = None,
    ) -> None:
        """Edit rules; when the tables do not hold what the mirror says, write all of it anew, with the change."""
        networks = self._networks if networks is None else networks
        ports = self._ports if ports is None else ports
        try:
            for version in self._versions:
                new, old = add.get(version, []), delete.get(version, [])
                hooks = self._hooks_of(version, [*new, *old])
                if len(new) + len(old) >= BULK:
                    self._tables.restore(version, render.edit(new, old, require=hooks))
                else:
                    self._tables.apply(version, add=new, delete=old, require=hooks)
        except (OSError, PynetError) as error:
            altered = isinstance(error, OSError) and error.errno == errno.ENOENT
            if altered or isinstance(error, Unanswered):
                self._write(networks, ports)
                return
            with self._as_before():
                raise
        if networks is not self._networks:
            with self._as_before():
                self._others.sync(networks)
        self._networks, self._ports = networks, ports
        self._note()

    def _hooks_of(self, version: int, rules: Iterable[render.Rule]) -> list[render.Rule]:
        """The jumps that lead to the rules' tables: they go when somebody flushes, and are few enough to look at."""
        tables = {rule.table for rule in rules}
        return [hook for hook in self._names.hooks(version) if hook.table in tables]

    def _put(self, networks: dict[str, NetworkRules], ports: dict[PortKey, PortRule]) -> None:
        """One iptables-restore a family."""
        published = self._port_rules(ports.values(), networks)
        for version in self._versions:
            rules = [rule for network in networks.values() for rule in self._names.network(network, version)]
            try:
                self._restore(version, [*rules, *published[version]])
            except Unanswered:
                self._restore(version, [*rules, *published[version]])
        self._stale = False

    def _restore(self, version: int, rules: list[render.Rule]) -> None:
        """Empty our chains and fill them anew; what others did to them, and what is there already, does not matter."""
        dump = self._tables.save(version)
        declare = [(table, self._names.chain(short)) for table, shorts in render.TABLES.items() for short in shorts]
        if ("filter", self._names.user) not in dump.chains:
            declare.append(("filter", self._names.user))
        hooks = self._names.hooks(version)
        missing = [hook for hook in hooks if not dump.count(hook)]
        surplus = [hook for hook in hooks for _ in range(dump.count(hook) - 1)]
        self._tables.restore(version, render.edit([*self._names.fixed(), *missing, *rules], surplus, declare))


_Rules = dict[int, list[render.Rule]]
