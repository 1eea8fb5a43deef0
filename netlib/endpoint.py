"""An endpoint, as its user holds it: one attachment of a sandbox to a network, with its addresses and published ports."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .applier import Attempts
from .errors import Forbidden, NotFound, PortInUse, PynetError
from .gateway import Candidate, choose, free_ifname
from .model import EndpointRecord, NetworkRecord, PublishedPort, SandboxRecord
from .resources import DefaultRoute, Resource

if TYPE_CHECKING:
    from .controller import Controller
    from .network import Network
    from .ports.portspec import PortBinding
    from .sandbox import Sandbox


@dataclass(frozen=True)
class Endpoint:
    controller: Controller
    id: str

    @property
    def record(self) -> EndpointRecord:
        """What is known of the endpoint; NotFound after it was deleted."""
        with self.controller.lock:
            record = self.controller.registry.endpoints.get(self.id)
        if record is None:
            raise NotFound(f"endpoint {self.id} not found")
        return record

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def network(self) -> Network:
        from .network import Network

        return Network(self.controller, self.record.network)

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
        """IPv4 next hop that it offers for the default route, or ""."""
        network = self.network
        return network.driver.gateways(network.record, self.record)[0]

    @property
    def gateway6(self) -> str:
        network = self.network
        return network.driver.gateways(network.record, self.record)[1]

    @property
    def ports(self) -> tuple[PublishedPort, ...]:
        return self.record.ports

    def plan(self) -> list[Resource]:
        """What is in the kernel for the endpoint, its published ports included; nothing while it is not joined."""
        controller = self.controller
        with controller.lock:
            record = self.record
            return self._plan(record, controller.registry.sandboxes[record.sandbox]) if record.sandbox else []

    def _plan(self, record: EndpointRecord, room: SandboxRecord) -> list[Resource]:
        controller = self.controller
        network = controller.registry.networks[record.network]
        plan = list(controller.driver(network.driver).endpoint_plan(network, record, room))
        return plan + controller.publisher.plan(controller.registry, controller.driver, record)

    # -- joining and leaving ---------------------------------------------------------------------------------

    def join(self, sandbox: Sandbox, *, ifname: str = "") -> None:
        """Make the interface in the sandbox; on return it is up, addressed and reachable.

        Forbidden when the endpoint is joined already; on any failure the endpoint is as it was.
        """
        from .sandbox import sandbox_key

        with self.controller.turns.of(self._key, sandbox_key(sandbox.id)):
            self._join(sandbox, ifname)

    def _join(self, sandbox: Sandbox, ifname: str) -> None:
        controller = self.controller
        with controller.lock:
            before, room = self.record, sandbox.record
            network = controller.registry.networks[before.network]
            driver = controller.driver(network.driver)
            if before.sandbox:
                raise Forbidden("another container is attached to the same network endpoint")
            peers = controller.registry.endpoints_of_sandbox(room.id)
            if any(peer.network == before.network for peer in peers):
                raise Forbidden(f"container {room.id} is already connected to network {network.name}")
            name = ""
            if driver.needs_addresses:
                name = ifname or free_ifname((p.ifname for p in peers), _prefix(network))
            record = replace(before, sandbox=room.id, ifname=name)
            moved = self._choose_gateways(room, [*peers, record])
            # the interface brings its default routes where there are none; where there are, they are replaced after it
            brings = replace(
                moved, gateway="" if room.gateway else moved.gateway, gateway6="" if room.gateway6 else moved.gateway6
            )
            plan = list(driver.endpoint_plan(network, record, brings))
            plan += route_moves(controller, room, moved, [*peers, record], skip=record.id)
            back = route_moves(controller, moved, room, peers)
            controller.registry.save(record, moved)
        try:
            controller.applier.apply(plan)
        except BaseException as error:
            with controller.lock:
                controller.registry.save(before, room)
            try:
                controller.applier.apply(back)
            except PynetError as problem:
                error.add_note(f"while undoing: {problem}")
            raise

    def leave(self) -> None:
        """Withdraw the ports and remove the interface; addresses stay reserved.  Nothing happens when not joined.

        Errors come at the end: the endpoint has left all the same, and ``repair`` removes what stayed in the kernel.
        """
        with self._turn():
            self._leave()

    def _leave(self) -> None:
        controller = self.controller
        with controller.lock:
            before = self.record
            room = controller.registry.sandboxes.get(before.sandbox)
            if room is None:
                return
            plan = self._plan(before, room)
            record = replace(before, sandbox="", ifname="", ports=())
            peers = [p for p in controller.registry.endpoints_of_sandbox(room.id) if p.id != self.id]
            moved = self._choose_gateways(room, peers)
            routes = route_moves(controller, room, moved, peers)
            controller.registry.save(record, moved)
        attempt = Attempts(f"could not remove everything of endpoint {before.name}")
        attempt(controller.applier.undo, plan)
        controller.publisher.release(self.id, before.ports)
        attempt(controller.applier.apply, routes)
        attempt.finish()

    def delete(self) -> None:
        """Leave, and give the addresses back.  Nothing happens when it is gone already.

        As with ``leave``, the endpoint is gone even when an error says that something of it stayed in the kernel.
        """
        controller = self.controller
        with self._turn():
            with controller.lock:
                record = controller.registry.endpoints.get(self.id)
            if record is None:
                return
            attempt = Attempts(f"could not remove everything of endpoint {record.name}")
            attempt(self._leave)
            if record.static:
                # the next one with this very address must not meet the old interface on the bridge
                attempt(controller.actions.settle)
            with controller.lock:
                record = self.record
                controller.registry.remove(record)
                controller.addressing.release(record)
            attempt.finish()

    @property
    def _key(self) -> str:
        return f"endpoint {self.id}"

    @contextmanager
    def _turn(self) -> Generator[None]:
        """The endpoint's turn, and inside it that of the sandbox it is joined to, if any (see turns.py)."""
        from .sandbox import sandbox_key

        controller = self.controller
        with controller.turns.of(self._key):
            with controller.lock:
                record = controller.registry.endpoints.get(self.id)
            while record is not None and record.sandbox:
                sandbox = record.sandbox
                with controller.turns.of(sandbox_key(sandbox)):
                    with controller.lock:
                        record = controller.registry.endpoints[self.id]
                    if record.sandbox == sandbox:
                        yield
                        return
            yield

    def _choose_gateways(self, room: SandboxRecord, endpoints: Sequence[EndpointRecord]) -> SandboxRecord:
        registry = self.controller.registry
        candidates = []
        for endpoint in endpoints:
            network = registry.networks[endpoint.network]
            hop, hop6 = self.controller.driver(network.driver).gateways(network, endpoint)
            candidates.append(Candidate(endpoint.id, network.name, endpoint.gw_priority, hop, hop6))
        gateway, gateway6 = choose(candidates)
        return replace(room, gateway=gateway, gateway6=gateway6)

    # -- publishing ------------------------------------------------------------------------------------------

    def publish(self, bindings: Sequence[PortBinding]) -> tuple[PublishedPort, ...]:
        """Publish ports of a joined endpoint, in addition to those it has; all of them, or none on any failure.

        Returns one value for each host address and port; PortInUse when one is taken.
        """
        with self._turn():
            return self._publish(bindings)

    def _publish(self, bindings: Sequence[PortBinding]) -> tuple[PublishedPort, ...]:
        controller = self.controller
        with controller.lock:
            before = self.record
            network = controller.registry.networks[before.network]
            if not before.sandbox:
                raise Forbidden(f"endpoint {before.name} is not joined to a sandbox")
            if not controller.driver(network.driver).bridge(network) or network.internal:
                return ()  # as Docker: ports of host, none and internal networks are exposed, not published
        try:
            ports = controller.publisher.bind(before, network, bindings)
        except PortInUse as error:
            self._name_holder(error)
            raise
        try:
            with controller.lock:
                controller.registry.save(replace(before, ports=before.ports + ports))
                plan = controller.publisher.plan(controller.registry, controller.driver, replace(before, ports=ports))
            controller.applier.apply(plan)
        except BaseException:
            with controller.lock:
                controller.registry.save(before)
            controller.publisher.release(self.id, ports)
            raise
        return ports

    def _name_holder(self, error: PortInUse) -> None:
        """Leases know ids; people know names."""
        registry = self.controller.registry
        with self.controller.lock:
            holder = registry.endpoints.get(error.holder)
            if holder is not None:
                network = registry.networks[holder.network].name
                error.hint = f"endpoint {holder.name} of network {network} holds it; {PortInUse.hint}"

    def unpublish(self, ports: Sequence[PublishedPort] | None = None) -> None:
        """Withdraw some published ports, or all; those that are not published are passed over.

        As with ``leave``, they are unpublished even when an error says that something stayed in the kernel or the proxy.
        """
        with self._turn():
            self._unpublish(ports)

    def _unpublish(self, ports: Sequence[PublishedPort] | None) -> None:
        controller = self.controller
        with controller.lock:
            before = self.record
            gone = before.ports if ports is None else tuple(port for port in before.ports if port in ports)
            if not gone:
                return
            plan = controller.publisher.plan(controller.registry, controller.driver, replace(before, ports=gone))
            controller.registry.save(replace(before, ports=tuple(p for p in before.ports if p not in gone)))
        try:
            controller.applier.undo(plan)
        finally:
            controller.publisher.release(self.id, gone)


def _prefix(network: NetworkRecord) -> str:
    return network.option("com.docker.network.container_iface_prefix", "ifname_prefix", "eth")


def route_moves(
    controller: Controller,
    before: SandboxRecord,
    after: SandboxRecord,
    endpoints: Sequence[EndpointRecord],
    skip: str = "",
) -> list[Resource]:
    """Default routes that an endpoint other than *skip* takes over, or that *skip* takes from another.

    A route that an interface brings itself (``Veth.gateways``) needs no move, except where an older default route is in
    its place.
    """
    moves: list[Resource] = []
    for family, (old, new) in enumerate(((before.gateway, after.gateway), (before.gateway6, after.gateway6))):
        if new and new != old and not (new == skip and not old):
            endpoint = next(e for e in endpoints if e.id == new)
            network = controller.registry.networks[endpoint.network]
            hop = controller.driver(network.driver).gateways(network, endpoint)[family]
            moves.append(DefaultRoute(after.path, endpoint.ifname, hop))
    return moves
