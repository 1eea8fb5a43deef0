"""The firewall's rules: a network's, and those of a sandbox's published ports.

Both kinds are in one back end and one module, because they are mended together: ``replace`` makes all of them, and nothing else,
be there in one transaction.  A UDP client that keeps its source port would go on being sent where its flow went before a rule
changed, so such flows are forgotten: those to the port at the address that was published, and nobody else's.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..firewall.intents import NetworkRules, PortRule, check_network
from ..kernel.conntrack import ANY
from ..tools import Tools
from .kind import Kind, register
from .resource import Key, Resource, joined
from .sight import Sight


@dataclass(frozen=True)
class NetworkFirewall(Resource):
    rules: NetworkRules

    @property
    def key(self) -> Key:
        return ("firewall-network", self.rules.bridge)

    @property
    def title(self) -> str:
        return f"firewall rules of {self.rules.bridge}"

    @property
    def details(self) -> str:
        rules = self.rules
        said = {
            "internal": rules.internal,
            "masquerade" + "".join(f" as {source}" for source in rules.source): rules.masquerade,
            "containers apart": not rules.icc,
        }
        modes = {f"IPv{version} {rules.mode(version)}": rules.mode(version) != "nat" for version in (4, 6)}
        said |= modes | {"trusts " + ", ".join(rules.trusted): bool(rules.trusted)}
        return ", ".join([*rules.subnets, *(text for text, holds in said.items() if holds)])


class NetworkRulesKind(Kind[NetworkFirewall]):
    noun = "rule"

    def make(self, tools: Tools, resource: NetworkFirewall) -> None:
        tools.firewall.add_network(check_network(resource.rules))

    def unmake(self, tools: Tools, resource: NetworkFirewall) -> None:
        tools.firewall.remove_network(resource.rules.bridge)

    def alter(self, tools: Tools, old: NetworkFirewall, new: NetworkFirewall) -> None:
        self.make(tools, new)  # the back end changes the network with this bridge

    def missing(
        self, tools: Tools, sight: Sight, wanted: Sequence[NetworkFirewall]
    ) -> Iterable[tuple[str, NetworkFirewall]]:
        for one in wanted:
            if check_network(one.rules) not in sight.network_rules:
                yield one.rules.bridge, one

    def strays(self, tools: Tools, sight: Sight) -> Iterable[str]:
        wanted = {check_network(one.rules) for one in sight.wanted(NetworkFirewall)}
        return sorted(rules.bridge for rules in sight.network_rules - wanted)

    def remove(self, tools: Tools, sight: Sight, names: Sequence[str]) -> None:
        for name in names:
            tools.firewall.remove_network(name)

    def mend(self, tools: Tools, sight: Sight) -> None:
        _replace(tools, sight)


@dataclass(frozen=True)
class PortForwards(Resource):
    """Published ports that NAT carries; all of a sandbox in one transaction."""

    owner: str
    """Id of the sandbox."""
    rules: tuple[PortRule, ...]
    linked: bool = False
    """Whether they are not published, but open to those neighbours that the sandbox is linked with."""

    @property
    def key(self) -> Key:
        return ("firewall-links" if self.linked else "firewall-ports", self.owner)

    @property
    def title(self) -> str:
        return f"{'links' if self.linked else 'NAT of the published ports'} of sandbox {self.owner[:12]}"

    @property
    def details(self) -> str:
        return ", ".join(
            f"{_port_name(r)} -> {joined(r.target_ip, r.target_port)}"
            if r.host_port
            else f"{_port_name(r)} open" + (f" to {r.source}" if r.source else "")
            for r in self.rules
        )


class PortRulesKind(Kind[PortForwards]):
    noun = "rule"

    def make(self, tools: Tools, resource: PortForwards) -> None:
        self._change(tools, (), resource.rules)

    def unmake(self, tools: Tools, resource: PortForwards) -> None:
        self._change(tools, resource.rules, ())

    def alter(self, tools: Tools, old: PortForwards, new: PortForwards) -> None:
        self._change(tools, old.rules, new.rules)

    def _change(self, tools: Tools, old: Sequence[PortRule], new: Sequence[PortRule]) -> None:
        """A rule of *new* takes the place of the one with its key in one transaction: nobody finds the port closed between."""
        keys = {rule.key for rule in new}
        added = [rule for rule in new if rule not in old]
        gone = [rule for rule in old if rule.key not in keys]
        try:
            if added:
                tools.firewall.add_ports(added)
            if gone:
                tools.firewall.remove_ports(gone)
            _forget_flows(tools, [*added, *gone])
        except BaseException:
            if added:  # to make fails as a whole; what is to go may be gone all the same
                tools.firewall.remove_ports(added)
                tools.firewall.add_ports(list(old))
            raise

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[PortForwards]) -> Iterable[tuple[str, PortForwards]]:
        for one in wanted:
            for rule in sorted(set(one.rules) - sight.port_rules, key=str):
                yield _port_name(rule), one

    def strays(self, tools: Tools, sight: Sight) -> Iterable[str]:
        return [_port_name(rule) for rule in self._astray(sight)]

    def remove(self, tools: Tools, sight: Sight, names: Sequence[str]) -> None:
        tools.firewall.remove_ports([rule for rule in self._astray(sight) if _port_name(rule) in names])

    def _astray(self, sight: Sight) -> list[PortRule]:
        wanted = {rule for one in sight.wanted(PortForwards) for rule in one.rules}
        return sorted(sight.port_rules - wanted, key=str)

    def mend(self, tools: Tools, sight: Sight) -> None:
        _replace(tools, sight)


def _replace(tools: Tools, sight: Sight) -> None:
    networks = sorted((check_network(one.rules) for one in sight.wanted(NetworkFirewall)), key=str)
    ports = sorted({rule for one in sight.wanted(PortForwards) for rule in one.rules}, key=str)
    tools.firewall.replace(networks, ports)


def _forget_flows(tools: Tools, rules: Sequence[PortRule]) -> None:
    published = {
        (rule.host_ip or ANY[rule.version], rule.host_port) if rule.host_port else (rule.target_ip, rule.target_port)
        for rule in rules
        if rule.proto == "udp"
    }
    tools.conntrack.flush_ports(socket.IPPROTO_UDP, published, local=tools.rtnl.local)


def _port_name(rule: PortRule) -> str:
    at = joined(rule.host_ip, rule.host_port) if rule.host_port else joined(rule.target_ip, rule.target_port)
    return f"{at}/{rule.proto}"


register(NetworkFirewall, NetworkRulesKind())
register(PortForwards, PortRulesKind())
