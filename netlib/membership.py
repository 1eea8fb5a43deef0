"""Who is in which sandbox, and with which published ports: what the verbs of endpoints and sandboxes (handles.py) do.

    join, leave, publish, unpublish     the room that should be is decided; what changes is the difference of two plans
    delete                              an endpoint leaves, and gives its addresses back
    end                                 a sandbox goes, with all that is joined to it

Each holds the turns of what it changes (turns.py) from the look at the records until the kernel has followed.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from .change import AddressLease, Change, HostPortLease
from .core import Core, endpoint_key, sandbox_key
from .decisions import check_join, decide_join, decide_leave, decide_publish, decide_unpublish
from .errors import NotFound
from .model import EndpointRecord, Member, PublishedPort, Room
from .ports.portspec import PortBinding
from .reserving import reserve_ports

# -- endpoints --------------------------------------------------------------------------------------------------------


def join(core: Core, endpoint: str, sandbox: str, ifname: str = "") -> None:
    with core.turns.of(endpoint_key(endpoint), sandbox_key(sandbox)):
        with core.lock:
            room, record = core.registry.room(sandbox), core.registry.endpoint(endpoint)
            member = Member(record, core.registry.networks[record.network])
        check_join(room, member)
        joined = core.driver(member.network.driver).join(member.network, record, room.sandbox)
        core.carry_out(core.plans.change(room, decide_join(room, member, joined, ifname)))


def leave(core: Core, endpoint: str) -> None:
    with turn(core, endpoint) as room:
        if room is not None:
            core.carry_out(_leaving(core, core.registry.endpoint(endpoint), room))


def delete(core: Core, endpoint: str) -> None:
    with turn(core, endpoint) as room:
        with core.lock:
            record = core.registry.endpoints.get(endpoint)
            if record is None:
                return
            network = core.registry.networks[record.network]
        change = Change(removal=True, of=f"endpoint {record.name}")
        if room is not None:
            change = _leaving(core, record, room)
        core.carry_out(
            replace(
                change,
                save=tuple(one for one in change.save if one.id != endpoint),
                forget=(record,),
                released=(AddressLease(network, record),),
            )
        )


def _leaving(core: Core, record: EndpointRecord, room: Room) -> Change:
    change = core.plans.change(room, decide_leave(room, record.id), removal=True)
    return replace(change, save=(*change.save, record.left()), of=f"endpoint {record.name}")


@contextmanager
def turn(core: Core, endpoint: str) -> Generator[Room | None]:
    """The endpoint's turn, and inside it that of the sandbox it is joined to, if any; that room."""
    with core.turns.of(endpoint_key(endpoint)):
        sandbox = sandbox_of(core, endpoint)  # nobody changes that without the endpoint's turn
        if not sandbox:
            yield None
            return
        with core.turns.of(sandbox_key(sandbox)):
            yield core.registry.room(sandbox)


def sandbox_of(core: Core, endpoint: str) -> str:
    """Id of the sandbox that an endpoint is joined to; "" for none, and for an endpoint that is gone."""
    with core.lock:
        record = core.registry.endpoints.get(endpoint)
    return record.sandbox if record is not None else ""


# -- sandboxes --------------------------------------------------------------------------------------------------------


def publish(core: Core, sandbox: str, bindings: Sequence[PortBinding]) -> tuple[PublishedPort, ...]:
    with core.turns.of(sandbox_key(sandbox)):
        room = core.registry.room(sandbox)
        ports = reserve_ports(core, room, bindings, bound=not core.is_showing)
        if ports:
            change = core.plans.change(room, decide_publish(room, ports))
            core.carry_out(replace(change, taken=(HostPortLease(sandbox, ports),)))
    return ports


def unpublish(core: Core, sandbox: str, ports: Sequence[PublishedPort] | None = None) -> None:
    with core.turns.of(sandbox_key(sandbox)):
        try:
            room = core.registry.room(sandbox)
        except NotFound:
            return  # and its ports with it
        after, gone = decide_unpublish(room, ports)
        if gone:
            change = core.plans.change(room, after, removal=True)
            core.carry_out(replace(change, released=(HostPortLease(sandbox, gone),), of="the published ports"))


def end(core: Core, sandbox: str) -> None:
    with _all_turns(core, sandbox):
        room = core.registry.room(sandbox)
        change = core.plans.change(room, None, removal=True)
        core.carry_out(
            replace(
                change,
                save=tuple(member.endpoint.left() for member in room.members),
                forget=(room.sandbox,),
                released=(HostPortLease(sandbox, room.sandbox.ports),),
                of=f"sandbox {sandbox[:12]}",
            )
        )


@contextmanager
def _all_turns(core: Core, sandbox: str) -> Generator[None]:
    """The sandbox's turn and those of its endpoints, which must not join elsewhere before their interfaces are away."""
    while True:
        keys = {endpoint_key(e.id) for e in core.registry.endpoints_of_sandbox(sandbox)}
        with core.turns.of(sandbox_key(sandbox), *keys):
            if {endpoint_key(e.id) for e in core.registry.endpoints_of_sandbox(sandbox)} <= keys:
                yield
                return
