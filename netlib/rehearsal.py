"""What several verbs on one sandbox would do together, shown and not done: to make it, join networks, publish ports.

``Controller.planned`` shows one verb, because a verb that is only shown leaves no record for the next one to go on from.  Here
each decision goes on from the room that the last one gave, as the verbs do; the difference of the first and the last room's
plans is what would be done (plans.py), and everything that was reserved for it is given back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from .change import AddressLease, HostPortLease, Lease, Step
from .core import Core, network_key, sandbox_key
from .decisions import decide_join, decide_publish, decide_sandbox
from .handles import Network
from .model import EndpointRecord, Member, Naming, NetworkRecord, Room
from .ports.portspec import PortBinding
from .reserving import lease_back, reserve_endpoint, reserve_ports


@dataclass(frozen=True, slots=True)
class Attachment:
    """An endpoint to create on a network and join: the arguments of ``Network.create_endpoint`` and ``Endpoint.join``."""

    network: Network
    name: str
    ip: str = ""
    ip6: str = ""
    mac: str = ""
    link_local: Sequence[str] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict[str, str])
    aliases: Sequence[str] = ()
    other_names: Sequence[str] = ()
    gw_priority: int = 0
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    ifname: str = ""
    over: Collection[str] = ()


def rehearse(
    core: Core,
    sandbox: str,
    path: str,
    attachments: Sequence[Attachment],
    bindings: Sequence[PortBinding] = (),
    *,
    naming: Naming | None = None,
) -> tuple[Step, ...]:
    """The steps, or the error of the first verb that would fail.  A *sandbox* that is not there is one to be made at *path*."""
    leases: list[Lease] = []
    displaced: list[tuple[NetworkRecord, Sequence[EndpointRecord]]] = []
    with core.turns.of(sandbox_key(sandbox), *{network_key(one.network.id) for one in attachments}):
        known = sandbox in core.registry.sandboxes
        before = core.registry.room(sandbox) if known else None
        room = before if before is not None else Room(decide_sandbox(sandbox, path, naming))
        try:
            for one in attachments:
                room = _joined(core, room, one, leases, displaced)
            if bindings and (ports := reserve_ports(core, room, bindings, bound=False)):
                leases.append(HostPortLease(sandbox, ports))
                room = decide_publish(room, ports)
            return core.plans.change(before, room).steps
        finally:
            for lease in reversed(leases):
                core.give_back(lease, shown=True)
            for network, endpoints in displaced:
                lease_back(core, network, endpoints)


def _joined(
    core: Core,
    room: Room,
    one: Attachment,
    leases: list[Lease],
    displaced: list[tuple[NetworkRecord, Sequence[EndpointRecord]]],
) -> Room:
    network = one.network.record
    record, over = reserve_endpoint(
        core,
        network,
        one.name,
        ip=one.ip,
        ip6=one.ip6,
        mac=one.mac,
        link_local=one.link_local,
        sysctls=one.sysctls,
        aliases=one.aliases,
        other_names=one.other_names,
        gw_priority=one.gw_priority,
        options=one.options,
        over=one.over,
    )
    displaced.append((network, over))
    leases.append(AddressLease(network, record))
    joined = core.driver(network.driver).join(network, record, room.sandbox)
    return decide_join(room, Member(record, network), joined, one.ifname)
