"""What is taken before a change is decided: an endpoint's name and addresses, a sandbox's host ports.

Nothing is written here.  Whoever reserves gives the leases back, or has the change do it (change.py: ``taken``); the callers hold
the network's or the sandbox's turn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from ..ipam.driver import Lease, Wanted
from ..ipam.errors import AddressInUse
from . import shaping
from .core import Core
from .decisions import decide_link_local, decide_mac, decide_sysctls, stable_mac
from .driver import directions, segment
from .errors import Forbidden, InvalidArgument, PortInUse, PynetError
from .model import EndpointRecord, NetworkRecord, PublishedPort, Room, new_id
from .ports.holders import holder_of
from .ports.portspec import PortBinding


def reserve_endpoint(
    core: Core,
    network: NetworkRecord,
    name: str,
    *,
    ip: str = "",
    ip6: str = "",
    mac: str = "",
    link_local: Sequence[str] = (),
    sysctls: Mapping[str, str],
    aliases: Sequence[str] = (),
    other_names: Sequence[str] = (),
    gw_priority: int = 0,
    options: Mapping[str, str],
    id: str = "",
    over: Collection[str] = (),
) -> tuple[EndpointRecord, tuple[EndpointRecord, ...]]:
    """The record of a new endpoint, with its leased addresses, and those of *over* that gave theirs; the errors are those
    of ``Network.create_endpoint``."""
    if not name.strip():
        raise InvalidArgument("invalid endpoint name: name is empty")
    if network.config_only:
        raise Forbidden(
            "cannot create endpoint on configuration-only network",
            hint=f"make a network from it: `pynet network create --config-from {network.name} NAME`",
        )
    driver = core.driver(network.driver)
    shaping.check(network, options, directions(driver))
    if mac and not driver.own_mac:
        raise InvalidArgument(f"{network.driver} interfaces do not support custom mac address assignment")
    record = EndpointRecord(
        id=id or new_id(),
        name=name,
        network=network.id,
        aliases=tuple(aliases),
        other_names=tuple(other_names),
        gw_priority=gw_priority,
        static=tuple(address for address in (ip, ip6) if address),
        options=dict(options),
        link_local=decide_link_local(link_local),
        sysctls=decide_sysctls(sysctls),
    )
    core.registry.check_name(record)
    known = stable_mac(network.id, name) if core.addressing.needs_wire(network) else ""
    link = segment(driver, network)
    wanted = Wanted(
        record.id,
        ip,
        ip6,
        decide_mac(mac, "") if mac else known,
        name,
        link,
        lambda address: _on_wire(core, link, address),
    )
    lease, displaced = _lease(core, network, wanted, over)
    record = replace(record, address=lease.address, address6=lease.address6, lease=dict(lease.data))
    if record.addresses and driver.own_mac:
        record = replace(record, mac=wanted.mac or decide_mac("", record.address))
    return record, displaced


def _lease(
    core: Core, network: NetworkRecord, wanted: Wanted, over: Collection[str]
) -> tuple[Lease, tuple[EndpointRecord, ...]]:
    displaced: list[EndpointRecord] = []
    try:
        while True:
            try:
                return core.addressing.lease(network, wanted), tuple(displaced)
            except AddressInUse as error:
                holder = _address_holder(core, network, error.address)
                if holder is None or holder.id not in over or holder.sandbox:
                    _name_address_holder(error, holder)
                    raise
                core.addressing.release(network, holder)
                displaced.append(holder)
    except BaseException:
        lease_back(core, network, displaced)
        raise


def lease_back(core: Core, network: NetworkRecord, displaced: Iterable[EndpointRecord]) -> None:
    """What endpoints gave up is theirs again: nothing came of it.  In the network's turn, so nobody had it meanwhile."""
    for one in displaced:
        core.addressing.lease(network, Wanted(one.id, one.ip, one.ip6, one.mac, one.name))


def _on_wire(core: Core, link: str, address: str) -> str:
    """Who on this host has an address of an interface's wire; "" for nobody."""
    if core.tools.rtnl.local([address]):
        return "this host"
    with core.lock:
        for network in core.registry.networks.values():
            if _link(core, network) != link:
                continue
            if address in (aux for config in network.ipam for aux in config.aux.values()):
                return f"network {network.name}"
            for endpoint in core.registry.endpoints_of_network(network.id):
                if address == endpoint.ip:
                    return f"endpoint {endpoint.name} of network {network.name}"
    return ""


def _link(core: Core, network: NetworkRecord) -> str:
    try:
        return segment(core.driver(network.driver), network)
    except PynetError:
        return ""  # its driver is away


def _address_holder(core: Core, network: NetworkRecord, address: str) -> EndpointRecord | None:
    known = core.registry.endpoints_of_network(network.id)
    return next((endpoint for endpoint in known if address in (endpoint.ip, endpoint.ip6)), None)


def _name_address_holder(error: AddressInUse, holder: EndpointRecord | None) -> None:
    if holder is not None:
        resting = "" if holder.sandbox else ", and keeps it while it is stopped"
        error.hint = f"{holder.name} has it{resting}; choose another address, or give none"


def reserve_ports(
    core: Core, room: Room, bindings: Sequence[PortBinding], *, bound: bool = True
) -> tuple[PublishedPort, ...]:
    """Leases, and where they are *bound* sockets, for a sandbox's ports; none while it is on no network that publishes.

    PortInUse names who has a port: an endpoint, or a program.
    """
    wanted, opened = core.wanted_ports(room, bindings)
    if not wanted:
        return opened
    try:
        return opened + core.tools.ports.lease(room.sandbox.id, wanted, bound=bound)
    except PortInUse as error:
        holder = _holder(core, error)
        if holder:
            error.hint = f"{holder} holds it; {PortInUse.hint}"
        raise


def _holder(core: Core, error: PortInUse) -> str:
    """Leases know ids; people know names."""
    registry = core.registry
    if not error.holder:
        return core.tools.at_home(holder_of, error.proto, error.host_ip, error.port)
    with core.lock:
        if error.holder not in registry.sandboxes:
            return ""
        members = registry.room(error.holder).members
    if not members:
        return f"sandbox {error.holder[:12]}"
    return f"endpoint {members[-1].endpoint.name} of network {members[-1].network.name}"
