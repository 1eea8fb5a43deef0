"""What a user holds: networks, endpoints, sandboxes.  A handle is an id; what it knows stands in the registry.

They name one another (a network has endpoints, an endpoint its network and its sandbox), which is why they share a module.
What the verbs do is in membership.py, creation.py and reserving.py.  Every verb comes down to one change (core.py), and can be
shown in place of being done: ``controller.planned(endpoint.join, sandbox)``.

An error of a verb that makes something means that nothing was done.  A verb that removes goes on after failures: the object is
gone all the same, the error at the end says what stayed in the kernel, and ``repair`` removes it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from . import membership, shaping
from .applier import step
from .capture import Capture
from .change import AddressLease, Change
from .core import Core, endpoint_key, network_key, sandbox_key
from .creation import remove_network
from .decisions import decide_naming
from .driver import Driver, directions
from .errors import Forbidden, InvalidArgument
from .kernel.traffic import LinkCounters
from .kinds.bridge import Bridge
from .kinds.resource import Resource
from .model import EndpointRecord, Link, Naming, NetworkRecord, PublishedPort, Room, SandboxRecord
from .ports.paths import PortPath
from .ports.portspec import PortBinding
from .registry import NetworkNotFound
from .reserving import lease_back, reserve_endpoint
from .statistics import Meter


@dataclass(frozen=True)
class Network:
    core: Core
    id: str

    @property
    def record(self) -> NetworkRecord:
        """What is known of the network; NotFound after it was deleted."""
        with self.core.lock:
            record = self.core.registry.networks.get(self.id)
        if record is None:
            raise NetworkNotFound(self.id)
        return record

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def driver(self) -> Driver:
        return self.core.driver(self.record.driver)

    @property
    def bridge(self) -> str:
        """Name of its bridge on the host; "" when its driver makes none."""
        return next((resource.name for resource in self.plan() if isinstance(resource, Bridge)), "")

    @property
    def routed(self) -> frozenset[int]:
        """IP versions in which published ports are open at the container's own address, and no host port leads there."""
        record = self.record
        publishing = self.driver.publishing(record, EndpointRecord(id="", name="", network=record.id))
        has = {version for version, own in ((4, record.ipv4), (6, record.ipv6)) if own}
        return publishing.routed & has if publishing is not None else frozenset()

    def plan(self) -> list[Resource]:
        """What is in the kernel for the network itself; ``str()`` of each is a line that says it."""
        return self.core.plans.network(self.record)

    def usage(self) -> dict[str, tuple[int, int]]:
        """Of each subnet: how many addresses are in use or reserved, and how many can still be chosen; nothing of an IPAM
        driver that does not count."""
        return self.core.addressing.usage(self.record)

    def endpoints(self) -> list[Endpoint]:
        with self.core.lock:
            return [Endpoint(self.core, e.id) for e in self.core.registry.endpoints_of_network(self.id)]

    def create_endpoint(
        self,
        name: str,
        *,
        ip: str | None = None,
        ip6: str | None = None,
        mac: str | None = None,
        link_local: Sequence[str] = (),
        sysctls: Mapping[str, str] | None = None,
        aliases: Sequence[str] = (),
        other_names: Sequence[str] = (),
        gw_priority: int = 0,
        options: Mapping[str, str] | None = None,
        id: str | None = None,
        over: Collection[str] = (),
    ) -> Endpoint:
        """Reserve a name and addresses on the network; nothing is made in the kernel before ``join``.

        *link_local* addresses are given beside the leased ones; *sysctls* are set on the interface, with IFNAME in the place
        of its name ("net.ipv4.conf.IFNAME.log_martians"); *options* limit its rates (shaping.py).  Endpoints with one of the ids
        *over* that have an address which is asked for by value, and are joined to nothing, make way: they are gone then.
        Others on the network find it by *name*, by *aliases* (which several may have) and by *other_names*, where names are
        served (naming.py).

        Raises InvalidArgument (an address outside the network, an option), Forbidden (an address or name that is taken),
        Conflict (no address is left).
        """
        core = self.core
        with core.turns.of(network_key(self.id), *map(endpoint_key, over)):
            network = self.record
            record, displaced = reserve_endpoint(
                core,
                network,
                name,
                ip=ip or "",
                ip6=ip6 or "",
                mac=mac or "",
                link_local=link_local,
                sysctls=sysctls or {},
                aliases=aliases,
                other_names=other_names,
                gw_priority=gw_priority,
                options=options or {},
                id=id or "",
                over=over,
            )
            chosen = ("" if ip else record.ip, "" if ip6 else record.ip6)
            last = tuple(new or old for new, old in zip(chosen, network.last or ("", "")))
            try:
                core.carry_out(
                    Change(
                        save=(record, *([replace(network, last=last)] if any(chosen) else [])),
                        forget=displaced,
                        taken=(AddressLease(network, record),),
                    )
                )
            except BaseException:
                lease_back(core, network, displaced)
                raise
        if record.lease:
            core.renewal.expect()
        return Endpoint(core, record.id)

    def delete(self) -> None:
        """Remove the network; ActiveEndpoints while it has endpoints."""
        remove_network(self.core, self.record, self.plan())


@dataclass(frozen=True)
class Endpoint:
    """One attachment of a sandbox to a network."""

    core: Core
    id: str

    @property
    def record(self) -> EndpointRecord:
        """What is known of the endpoint; NotFound after it was deleted."""
        return self.core.registry.endpoint(self.id)

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def network(self) -> Network:
        return Network(self.core, self.record.network)

    @property
    def address(self) -> str:
        """IPv4 address with its prefix length ("10.1.0.2/24"), or ""."""
        return self.record.address

    @property
    def address6(self) -> str:
        return self.record.address6

    @property
    def mac(self) -> str:
        return self.record.mac

    @property
    def ifname(self) -> str:
        return self.record.ifname

    @property
    def gateway(self) -> str:
        """IPv4 next hop that it offers for the default route; "" while it is not joined."""
        return self.record.gateway

    @property
    def gateway6(self) -> str:
        return self.record.gateway6

    @property
    def ports(self) -> tuple[PublishedPort, ...]:
        """Of its sandbox's published ports, those that lead to this endpoint."""
        room = self._room()
        return self.core.plans.ports_of(room, self.id) if room is not None else ()

    def plan(self) -> list[Resource]:
        """What is in the kernel for the endpoint, its published ports included; nothing while it is not joined."""
        room = self._room()
        return self.core.plans.endpoint(room, self.id) if room is not None else []

    def _room(self) -> Room | None:
        with self.core.lock:
            sandbox = self.record.sandbox
            return self.core.registry.room(sandbox) if sandbox else None

    # -- joining and leaving ---------------------------------------------------------------------------------

    def join(self, sandbox: Sandbox, *, ifname: str = "") -> None:
        """Make the interface in the sandbox; on return it is up, addressed and reachable.

        Published ports of the sandbox lead to it if it takes over the default route.  Forbidden when the endpoint is joined
        already; on any failure everything is as it was.
        """
        membership.join(self.core, self.id, sandbox.id, ifname)

    def rename(
        self, name: str | None = None, *, aliases: Sequence[str] | None = None, other_names: Sequence[str] | None = None
    ) -> None:
        """Give it another name, other aliases, other names beside them; None leaves what there is.  Others on its network find it
        by the new ones when this returns.  Forbidden when the network has an endpoint of that name."""
        if name is not None and not name.strip():
            raise InvalidArgument("invalid endpoint name: name is empty")
        with membership.turn(self.core, self.id) as room:
            before = self.record
            after = replace(
                before,
                name=before.name if name is None else name,
                aliases=before.aliases if aliases is None else tuple(aliases),
                other_names=before.other_names if other_names is None else tuple(other_names),
            )
            if after != before:
                self.core.registry.check_name(after)
                self._replace(after, room)

    def _replace(self, after: EndpointRecord, room: Room | None) -> None:
        """Have this record in the place of its own, and the difference made where it is joined."""
        if room is None:
            self.core.carry_out(Change(save=(after,)))
            return
        members = tuple(replace(m, endpoint=after) if m.endpoint.id == self.id else m for m in room.members)
        self.core.carry_out(self.core.plans.change(room, Room(room.sandbox, members)))

    def leave(self) -> None:
        """Remove the interface; addresses stay reserved, and the sandbox's ports lead to another endpoint of it, if any.

        Nothing happens when it is not joined.
        """
        membership.leave(self.core, self.id)

    def delete(self) -> None:
        """Leave, and give the addresses back.  Nothing happens when it is gone already."""
        membership.delete(self.core, self.id)

    # -- rates -----------------------------------------------------------------------------------------------

    @property
    def limits(self) -> shaping.Limits:
        """What holds for it now: its network's limits, and its own in their place."""
        record = self.record
        return shaping.limits(Network(self.core, record.network).record, record.options)

    def limit(self, **options: str) -> None:
        """Change its own limits, live where it is joined: ``rate_in``, ``rate_out``, ``burst``, written as in shaping.py.

        "0" is no limit, "" what the network's options say; what is not given stays.  InvalidArgument, and all as it was.
        """
        with membership.turn(self.core, self.id) as room:
            record = self.record
            network = Network(self.core, record.network).record
            changed = shaping.changed(record.options, options)
            shaping.check(network, changed, directions(self.core.driver(network.driver)))
            self._replace(replace(record, options=changed), room)

    # -- links -----------------------------------------------------------------------------------------------

    def link(self, links: Sequence[Link]) -> None:
        """Open the way to these other endpoints of its network, and to no others, where the network's containers are apart.

        Each end is told of the other.  Nothing happens while it is not joined; a leave ends them all.
        """
        with membership.turn(self.core, self.id) as room:
            if room is None or self.record.links == tuple(links):
                return
            self._replace(replace(self.record, links=tuple(links)), room)

    def statistics(self, meter: Meter | None = None) -> LinkCounters:
        """Bytes, packets, errors and drops each way since it joined, as the sandbox sees them; all zero while it is not joined.

        A *meter* that several endpoints are asked with looks at the kernel once for all of them.
        """
        room = self._room()
        member = room.member(self.id) if room is not None else None
        if room is None or member is None:
            return LinkCounters()
        with step("read", "the interfaces' counters"):
            plan = self.core.plans.interfaces(member, room.sandbox)
            return (meter or Meter(self.core.tools)).of(plan, room.sandbox.path, member.endpoint.ifname)

    # -- publishing ------------------------------------------------------------------------------------------

    def publish(self, bindings: Sequence[PortBinding]) -> tuple[PublishedPort, ...]:
        """Publish ports of the sandbox that it is joined to (``Sandbox.publish``); Forbidden when it is joined to none."""
        return self._joined().publish(bindings)

    def unpublish(self, ports: Sequence[PublishedPort] | None = None) -> None:
        """Withdraw some of the ports that lead to this endpoint, or all."""
        sandbox = membership.sandbox_of(self.core, self.id)
        if sandbox:
            Sandbox(self.core, sandbox).unpublish(self.ports if ports is None else ports)

    def _joined(self) -> Sandbox:
        record = self.record
        if not record.sandbox:
            raise Forbidden(f"endpoint {record.name} is not joined to a sandbox")
        return Sandbox(self.core, record.sandbox)


@dataclass(frozen=True)
class Sandbox:
    """A network namespace that endpoints join, with the ports that are published for it."""

    core: Core
    id: str

    @property
    def record(self) -> SandboxRecord:
        """What is known of the sandbox; NotFound after it was deleted."""
        return self.core.registry.sandbox(self.id)

    @property
    def path(self) -> str:
        """Where the namespace is pinned (a file that setns(2) takes); "" for the host's own."""
        return self.record.path

    @property
    def ports(self) -> tuple[PublishedPort, ...]:
        """Its published ports.  They lead to the endpoint that has the default route, and stay when that changes."""
        return self.record.ports

    @property
    def port_paths(self) -> tuple[PortPath, ...]:
        """By which way each of its published ports leads where, and why."""
        return self.core.plans.paths(self.core.registry.room(self.id))

    @property
    def naming(self) -> Naming | None:
        """What it resolves beside what is on its networks; None where names are not served in it."""
        return self.record.naming

    def set_naming(self, naming: Naming | None) -> None:
        """Have it resolve so from now on, while it lives; None: names are served in it no more."""
        core = self.core
        with core.turns.of(sandbox_key(self.id)):
            room = core.registry.room(self.id)
            after = decide_naming(naming) if naming is not None and room.sandbox.path else None
            if after != room.sandbox.naming:
                core.carry_out(core.plans.change(room, replace(room, sandbox=replace(room.sandbox, naming=after))))

    def plan(self) -> list[Resource]:
        """What is in the kernel for the sandbox and all that is joined to it."""
        return self.core.plans.room(self.core.registry.room(self.id))

    def endpoints(self) -> list[Endpoint]:
        with self.core.lock:
            return [Endpoint(self.core, e.id) for e in self.core.registry.endpoints_of_sandbox(self.id)]

    def publish(self, bindings: Sequence[PortBinding]) -> tuple[PublishedPort, ...]:
        """Publish ports, in addition to those it has; all of them, or none on any failure.

        Returns one value for each host address and port; PortInUse when one is taken.  A routed network has no host port (0):
        the container's port is opened at its own address.  Nothing is published for a sandbox
        whose networks publish nothing (host, none, internal ones): such ports are exposed, as Docker has it.
        """
        return membership.publish(self.core, self.id, bindings)

    def unpublish(self, ports: Sequence[PublishedPort] | None = None) -> None:
        """Withdraw some published ports, or all; those that are not published are passed over."""
        membership.unpublish(self.core, self.id, ports)

    def capture(
        self, *, interfaces: Sequence[str] = (), snaplen: int = 0, expression: str = "", count: int = 0
    ) -> Capture:
        """Begin to capture what passes its interfaces, as pcapng; see capture.py.  Close it.

        InvalidArgument for a sandbox that is the host's own namespace: whose packets would these be?
        """
        path = self.path
        if not path:
            raise InvalidArgument(
                "the sandbox is the host's own namespace: its packets are not a container's",
                hint="capture on the host, with tcpdump",
            )
        with step("capture from", f"sandbox {self.id}"):
            return Capture(
                self.core.tools, path, interfaces=interfaces, snaplen=snaplen, expression=expression, count=count
            )

    def delete(self) -> None:
        """Remove the sandbox with all that is joined to it; the endpoints stay, with their addresses, and can join again.

        The namespace takes the interfaces in it along, which is far cheaper than removing each first; their host ends are
        out of the way at once, and out of the kernel a little later (reaper.py).
        """
        membership.end(self.core, self.id)
