"""Plans: from records to the resources that must exist, for one object or for everything.  Pure.

    network      the driver's plan, and what published ports need of its interface where there is no proxy
    room         a sandbox: its namespace, its endpoints' interfaces, routes, published ports
    whole        all of the store

Every change of a sandbox is the difference of two of its plans: an endpoint that joins adds its interface, may move a default
route, and with it where the published ports lead; an endpoint that leaves the same backwards.  Nobody computes that twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .change import Change
from .driver import Driver, Publishing
from .errors import PynetError
from .firewall.intents import NetworkRules, PortRule, is_loopback
from .kinds.flows import Flows
from .kinds.listeners import Listeners
from .kinds.names import SandboxNames
from .kinds.namespace import Netns
from .kinds.proxy_ports import ProxyPort, ProxyPorts
from .kinds.resolver import Resolver
from .kinds.resource import Resource
from .kinds.route import Route
from .kinds.rules import NetworkFirewall, PortForwards
from .kinds.sysctl import Sysctl
from .model import EndpointRecord, Member, NetworkRecord, PublishedPort, Record, Room, SandboxRecord
from .ports.leases import UNSPECIFIED
from .ports.paths import PortPath, path_of
from .shaping import shapers
from .views import names_of, view_of

IFNAME = "IFNAME"
"""What stands for the name of an endpoint's interface in names of its kernel parameters."""


@dataclass(frozen=True, slots=True)
class Target:
    """The endpoint that published ports of one address family lead to."""

    endpoint: EndpointRecord
    publishing: Publishing
    address: str
    """"" when the endpoint has none of the family: the proxy leads to its other one."""
    version: int
    """Of the ports' host addresses."""

    @property
    def routed(self) -> bool:
        """Whether no host port leads there, because packets come to the container's own address."""
        return (self.version if self.address else 10 - self.version) in self.publishing.routed


@dataclass(frozen=True)
class Plans:
    driver_of: Callable[[str], Driver]
    """The driver with a name; NotFound or NotSupported when it is away."""
    has_proxy: bool = False
    has_names: bool = False
    """Whether somebody serves names in sandboxes."""
    host_input: bool = False
    """Whether the host's INPUT rules judge who reaches published ports: then the proxy alone serves them, at the host."""

    # -- networks --------------------------------------------------------------------------------------------

    def network(self, network: NetworkRecord) -> list[Resource]:
        plan: list[Resource] = []
        for resource in self.driver_of(network.driver).network_plan(network):
            if isinstance(resource, NetworkFirewall) and not self.has_proxy and _translates(resource.rules):
                # without a proxy, loopback is NAT's business as well
                bridge = resource.rules.bridge
                plan.append(Sysctl(("net", "ipv4", "conf", bridge, "route_localnet"), "1"))
                resource = replace(resource, rules=replace(resource.rules, loopback=True))
            plan.append(resource)
        return plan

    # -- sandboxes -------------------------------------------------------------------------------------------

    def room(self, room: Room, away: list[PynetError] | None = None) -> list[Resource]:
        """What must exist for a sandbox.  With *away*, endpoints whose drivers are not to be had are passed over, and why
        stands there."""
        sandbox = room.sandbox
        plan: list[Resource] = [Netns(sandbox.path)] if sandbox.path else []
        if sandbox.path and sandbox.naming is not None and self.has_names:
            plan.append(SandboxNames(view_of(room, sandbox.naming), names_of(room)))
            plan.append(Resolver(sandbox.id, sandbox.path))
        members: list[Member] = []
        for member in room.members:
            try:
                plan += self.interfaces(member, sandbox)
                members.append(member)
            except PynetError as error:
                if away is None:
                    raise
                away.append(error)
        return [*plan, *self._routes(sandbox, members), *self._ports(Room(sandbox, tuple(members)))]

    def endpoint(self, room: Room, endpoint_id: str) -> list[Resource]:
        """Of a sandbox's plan, what is there for one endpoint, the routes and ports that lead through it included."""
        without = Room(room.sandbox, tuple(m for m in room.members if m.endpoint.id != endpoint_id))
        rest = {resource.key for resource in self.room(replace(without, sandbox=replace(room.sandbox, ports=())))}
        ports = {port.id for port in self.ports_of(room, endpoint_id)}
        plan: list[Resource] = []
        for resource in self.room(room):
            if isinstance(resource, (Listeners, PortForwards, ProxyPorts)) and not getattr(resource, "linked", False):
                if ports:
                    plan.append(resource)
            elif resource.key not in rest:
                plan.append(resource)
        return plan

    def interfaces(self, member: Member, sandbox: SandboxRecord) -> list[Resource]:
        """What must exist for one endpoint alone, without routes and ports."""
        return list(self._interfaces(member, sandbox))

    def _interfaces(self, member: Member, sandbox: SandboxRecord) -> Iterator[Resource]:
        endpoint = member.endpoint
        own = tuple(address for address in (endpoint.ip, endpoint.ip6) if address)
        if own and endpoint.ifname:
            yield Flows(own)
        plan = list(self.driver_of(member.network.driver).endpoint_plan(member.network, endpoint, sandbox))
        yield from plan
        if endpoint.ifname:
            for name, value in endpoint.sysctls.items():
                path = tuple(endpoint.ifname if word.upper() == IFNAME else word for word in name.split("."))
                yield Sysctl(path, value, netns=sandbox.path)
        yield from shapers(member.network, endpoint, sandbox, plan)

    @staticmethod
    def _routes(sandbox: SandboxRecord, members: Sequence[Member]) -> Iterator[Resource]:
        for member in members:
            endpoint = member.endpoint
            for route in endpoint.routes:
                yield Route(sandbox.path, endpoint.ifname, route.gateway, route.destination)
            if endpoint.gateway and sandbox.gateway == endpoint.id:
                yield Route(sandbox.path, endpoint.ifname, endpoint.gateway)
            if endpoint.gateway6 and sandbox.gateway6 == endpoint.id:
                yield Route(sandbox.path, endpoint.ifname, endpoint.gateway6)

    # -- published ports -------------------------------------------------------------------------------------

    def target(self, room: Room, version: int) -> Target | None:
        """Where ports of host addresses of this family lead: to the endpoint with the default route, else to any that
        publishes; the family's own default route and address come first."""
        sandbox = room.sandbox
        carriers = (sandbox.gateway, sandbox.gateway6) if version == 4 else (sandbox.gateway6, sandbox.gateway)
        members = [m for id in carriers if id and (m := room.member(id)) is not None] or list(room.members)
        found: list[Target] = []
        for member in members:
            publishing = self.driver_of(member.network.driver).publishing(member.network, member.endpoint)
            if publishing is not None:
                address = member.endpoint.ip if version == 4 else member.endpoint.ip6
                found.append(Target(member.endpoint, publishing, address, version))
        return next((target for target in found if target.address), found[0] if found else None)

    def ports_of(self, room: Room, endpoint_id: str) -> tuple[PublishedPort, ...]:
        """Of the sandbox's ports, those that lead to this endpoint."""
        targets = {version: self.target(room, version) for version in {_version(p.host_ip) for p in room.sandbox.ports}}
        return tuple(
            port
            for port in room.sandbox.ports
            if (target := targets[_version(port.host_ip)]) is not None and target.endpoint.id == endpoint_id
        )

    def _ports(self, room: Room) -> list[Resource]:
        ports = room.sandbox.ports
        if not ports:
            return []
        targets = {version: self.target(room, version) for version in {_version(p.host_ip) for p in ports}}
        rules: list[PortRule] = []
        proxied: list[ProxyPort] = []
        leading: list[str] = []
        for port in ports:
            target = targets[_version(port.host_ip)]
            if target is None or target.routed or not port.host_port:
                continue
            leading.append(port.id)
            # what NAT leads past the proxy has no header and meets no INPUT chain; a rule for a loopback address only guards it
            by_proxy_alone = port.proxy_protocol or self.host_input
            if target.address and (not by_proxy_alone or is_loopback(port.host_ip)):
                rules.append(_rule(port, target))
            address = target.address or target.endpoint.ip or target.endpoint.ip6
            proxied.append(ProxyPort(port.id, port.proto, address, port.container_port, port.proxy_protocol))
        rules += self._open_ports(room)
        plan: list[Resource] = [Listeners(room.sandbox.id, tuple(leading))] if leading else []
        if rules:
            plan.append(PortForwards(room.sandbox.id, tuple(rules)))
        if self.has_proxy and proxied:
            plan.append(ProxyPorts(room.sandbox.id, tuple(proxied)))
        return plan

    def paths(self, room: Room) -> tuple[PortPath, ...]:
        """By which way each published port leads where: read off the plan, so that it is what was made."""
        plan = self._ports(room)
        rules = [rule for resource in plan if isinstance(resource, PortForwards) for rule in resource.rules]
        served = {p.id: (p.target_ip, p.target_port) for one in plan if isinstance(one, ProxyPorts) for p in one.ports}
        ports = room.sandbox.ports
        return tuple(path_of(port, rules, served.get(port.id), host_input=self.host_input) for port in ports)

    def _open_ports(self, room: Room) -> list[PortRule]:
        """What is published is open at each address to which packets may come straight, whichever endpoint has the default
        route."""
        rules: dict[PortRule, None] = {}
        for member in room.members:
            publishing = self.driver_of(member.network.driver).publishing(member.network, member.endpoint)
            for version, address in ((4, member.endpoint.ip), (6, member.endpoint.ip6)):
                if publishing is None or not address or not (version in publishing.routed or publishing.trusting):
                    continue
                for port in room.sandbox.ports:
                    if version in publishing.routed and is_loopback(port.host_ip):
                        continue  # for this host alone, which reaches every container
                    if _version(port.host_ip) == version:
                        rules[PortRule(port.proto, "", 0, address, port.container_port, publishing.interface)] = None
        return list(rules)

    # -- changes ---------------------------------------------------------------------------------------------

    def change(self, before: Room | None, after: Room | None, *, removal: bool = False) -> Change:
        """What leads from one state of a sandbox to another; records that *after* has no more are the caller's business.

        A *removal* is not held up by drivers that are away: why they are stands in its ``problems``.
        """
        problems: list[PynetError] = []
        away = problems if removal else None
        old = {r.key: r for r in self.room(before, away)} if before is not None else {}
        new = {r.key: r for r in self.room(after, away)} if after is not None else {}
        known: tuple[Record, ...] = before.records if before is not None else ()
        return Change(
            save=tuple(record for record in (after.records if after is not None else ()) if record not in known),
            make=tuple(resource for key, resource in new.items() if key not in old),
            alter=tuple((old[key], resource) for key, resource in new.items() if key in old and old[key] != resource),
            unmake=tuple(resource for key, resource in old.items() if key not in new),
            problems=tuple(dict.fromkeys(problems)),
            removal=removal,
        )

    # -- everything ------------------------------------------------------------------------------------------

    def whole(self, networks: Iterable[NetworkRecord], rooms: Iterable[Room]) -> tuple[list[Resource], list[str]]:
        """The plan of all of these, and the names of networks whose drivers are away."""
        plan: list[Resource] = []
        away: list[str] = []
        for network in networks:
            try:
                plan += self.network(network)
            except PynetError:
                away.append(network.name)
        for room in rooms:
            plan += self.room(room, [])
        return plan, away


def _version(host_ip: str) -> int:
    return 6 if ":" in host_ip else 4


def _translates(rules: NetworkRules) -> bool:
    return not rules.internal and rules.mode4 != "routed"


def _rule(port: PublishedPort, target: Target) -> PortRule:
    return PortRule(
        proto=port.proto,
        host_ip="" if port.host_ip in UNSPECIFIED else port.host_ip,
        host_port=port.host_port,
        target_ip=target.address,
        target_port=port.container_port,
        bridge=target.publishing.interface,
    )
