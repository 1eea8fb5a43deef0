"""What a controller and its handles share: records, turns, leases, plans, tools; and the way from a verb to a change.

    handle.verb()  ->  turns.of(...)          nobody else changes the same objects meanwhile
                       leases                 addresses, host ports: taken, or an error
                       decisions.py           pure: the records that should be
                       plans.py               pure: the difference in the kernel
                       core.carry_out(change) change.py: store, kernel, leases

``planned`` is the same way up to the last step: the change is shown, what was taken for it is given back, and nothing was
written or made.  That works for every verb alike, because each of them ends in one change.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..ipam import driver as ipam
from ..ipam.defaults import DefaultPool
from . import change as changes
from .addressing import Addressing
from .applier import Applier
from .change import AddressLease, Change, HostPortLease, Lease, PoolLease, Step
from .decisions import decide_leased
from .driver import Driver, Reserved, load_driver
from .errors import Forbidden, InvalidArgument, PynetError
from .firewall.intents import is_loopback
from .host_uses import HostUse, HostUses
from .kinds.resource import Key, Resource
from .model import EndpointRecord, NetworkRecord, PublishedPort, Room
from .plans import Plans, Target
from .ports.hostports import ANY
from .ports.portspec import PortBinding
from .registry import Registry
from .renewal import Renewal
from .tools import Tools
from .turns import Turns

log = logging.getLogger("pynet.netlib")


class _Shown(Exception):
    """Ends a verb that was only to be shown."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.change = change


class Core:
    def __init__(
        self, registry: Registry, tools: Tools, pools: Sequence[DefaultPool], *, host_input: bool = False
    ) -> None:
        self.registry, self.tools = registry, tools
        self.lock = registry.lock
        self.turns = Turns()
        self.applier = Applier(tools)
        self.addressing = Addressing(pools, tools.wire)
        self.renewal = Renewal(self._leases, self._ipam_of, self._renewed)
        self.address_changed: Callable[[EndpointRecord], object] = lambda endpoint: None
        """Who wants to know that an endpoint's address went with its lease, or came back; told in the endpoint's turn."""
        self.plans = Plans(
            self.driver, has_proxy=tools.proxy is not None, host_input=host_input, has_names=tools.names is not None
        )
        self._uses = HostUses()
        self._drivers: dict[str, Driver] = {}
        self._claims: dict[Key, str] | None = None
        self._shares: dict[Key, set[str]] = {}
        self._showing = threading.local()

    def close(self) -> None:
        self.renewal.close()
        self._uses.close()

    def restore(self) -> None:
        """The leases that stand in the records.  A network whose IPAM driver is away gives no addresses until it is back."""
        for network in self.registry.networks.values():
            try:
                self.addressing.driver(network.ipam_driver)
            except PynetError:
                continue
            self.addressing.restore(network, self.registry.endpoints_of_network(network.id), self._reserved(network))
        for sandbox in self.registry.sandboxes.values():
            self.tools.ports.restore(sandbox.id, sandbox.ports)

    def _reserved(self, network: NetworkRecord) -> Reserved:
        """What the network's driver sets aside; nothing while it is away, or of a record that it can not read."""
        try:
            return self.driver(network.driver).reserves(network)
        except Exception as error:  # whatever a stranger's driver raises must not keep all networks from starting
            log.warning("the driver of network %s: %s", network.name, error)
            return Reserved()

    # -- leases that are renewed (renewal.py) -----------------------------------------------------------------

    def _leases(self) -> list[EndpointRecord]:
        with self.lock:
            return [record for record in self.registry.endpoints.values() if record.lease]

    def _ipam_of(self, endpoint: EndpointRecord) -> object:
        network = self.registry.networks.get(endpoint.network)
        try:
            return self.addressing.driver(network.ipam_driver) if network is not None else None
        except PynetError:
            return None  # it is away

    def _renewed(self, endpoint: EndpointRecord, lease: ipam.Lease) -> None:
        """What a lease gives now, in the place of what the endpoint had, if that is so still."""
        with self.turns.of(endpoint_key(endpoint.id)):
            with self.lock:
                known = self.registry.endpoints.get(endpoint.id)
            if known is None or (known.lease, known.lapsed) != (endpoint.lease, endpoint.lapsed):
                return
            address, lapsed = ("", lease.address) if lease.lapsed else (lease.address, "")
            record = replace(known, address=address, lapsed=lapsed, lease=dict(lease.data))
            if not known.sandbox:
                self.registry.save(record)
                return
            try:
                with self.turns.of(sandbox_key(known.sandbox)):
                    self._follow_lease(known, record, removal=lease.lapsed)
            finally:
                if self.registry.endpoints[record.id].address != known.address:
                    self.address_changed(record)

    def _follow_lease(self, known: EndpointRecord, record: EndpointRecord, *, removal: bool) -> None:
        """The sandbox follows: the kernel takes no default route before the address, and drops it with the address."""
        room = self.registry.room(known.sandbox)
        network = self.registry.networks[record.network]
        joined = self.driver(network.driver).join(network, record, room.sandbox)
        if record.address != known.address:
            after = decide_leased(room, replace(record, gateway=""))
            self.carry_out(self.plans.change(room, after, removal=removal))
            room = after
        self.carry_out(self.plans.change(room, decide_leased(room, replace(record, gateway=joined.gateway))))

    def driver(self, name: str) -> Driver:
        driver = self._drivers.get(name)
        if driver is None:
            driver = self._drivers[name] = load_driver(name)
        return driver

    # -- changes ---------------------------------------------------------------------------------------------

    def carry_out(self, change: Change) -> None:
        """The end of every verb."""
        if self.is_showing:
            for lease in change.taken:
                self.give_back(lease, shown=True)
            raise _Shown(change)
        changes.carry_out(change, self.registry, self.applier, self.give_back)

    def planned(self, verb: Callable[..., object], *args: Any, **kwargs: Any) -> tuple[Step, ...]:
        """What *verb* with these arguments would do, in order, or its error; nothing is done."""
        self._showing.on = True
        try:
            verb(*args, **kwargs)
        except _Shown as shown:
            return shown.change.steps
        finally:
            self._showing.on = False
        return ()

    @property
    def is_showing(self) -> bool:
        """Whether the calling thread's verb is only to be shown."""
        return getattr(self._showing, "on", False)

    def give_back(self, lease: Lease, *, shown: bool = False) -> None:
        """One that is no longer needed, or was *shown* alone and is as if never taken."""
        match lease:
            case PoolLease(network):
                self.addressing.close(network)
                self._uses.forget()
            case AddressLease(network, endpoint):
                self.addressing.release(network, endpoint, shown=shown)
            case HostPortLease(sandbox, ports):
                self.tools.ports.give_back(sandbox, ports)

    # -- what two networks can not both have ---------------------------------------------------------------------

    def claims(self) -> dict[Key, str]:
        """What networks have for themselves (interfaces, rules), and whose it is; a driver that is away claims nothing."""
        with self.lock:
            if self._claims is None:
                self._claims, self._shares = {}, {}
                for network in self.registry.networks.values():
                    try:
                        self.claim(network, self.plans.network(network))
                    except PynetError:
                        continue
            return self._claims

    def host_uses(self, version: int) -> list[HostUse]:
        """What of the address space the host uses; see host_uses.py."""
        return self.tools.at_home(self._uses.look, version, self.addressing.is_own, self.own_links)

    def own_links(self) -> frozenset[str]:
        """Names of the host's interfaces that networks claim."""
        with self.lock:
            return frozenset(key[1] for key in self.claims() if key[0] == "link")

    def check_conflicts(self, driver: Driver, record: NetworkRecord, plan: Sequence[Resource]) -> None:
        """Forbidden when the network can not be there beside those that are."""
        with self.lock:
            if driver.singleton and self.registry.network_of_driver(driver.name) is not None:
                raise Forbidden(f'only one instance of "{record.driver}" network is allowed')
            claims = self.claims()
            for resource in plan:
                holders = {claims.get(resource.key, "")} if resource.exclusive or resource.shared else set[str]()
                if resource.exclusive:
                    holders |= self._shares.get(resource.key, set())
                for holder in sorted(holders - {record.id}):
                    if (other := self.registry.networks.get(holder)) is not None:
                        raise _conflict(record, other, resource.key)

    def claim(self, record: NetworkRecord, plan: Sequence[Resource]) -> None:
        with self.lock:
            self.claims().update(dict.fromkeys(exclusive(plan), record.id))
            for key in shared(plan):
                self._shares.setdefault(key, set()).add(record.id)

    def give_up(self, record: NetworkRecord, plan: Sequence[Resource]) -> None:
        """The network is gone, or was never made."""
        with self.lock:
            claims = self.claims()
            for key in exclusive(plan):
                if claims.get(key) == record.id:
                    del claims[key]
            for key in shared(plan):
                holders = self._shares.get(key, set())
                holders.discard(record.id)
                if not holders:
                    self._shares.pop(key, None)

    def others_have(self, record: NetworkRecord, resource: Resource) -> bool:
        """Whether other networks have the resource too, so that it stays when this one goes."""
        with self.lock:
            self.claims()
            return resource.shared and bool(self._shares.get(resource.key, set()) - {record.id})

    # -- published ports -------------------------------------------------------------------------------------

    def wanted_ports(
        self, room: Room, bindings: Sequence[PortBinding]
    ) -> tuple[list[tuple[PortBinding, tuple[str, ...]]], tuple[PublishedPort, ...]]:
        """Each binding with the host addresses that it means, and the ports that need none, because packets come to the
        container's own address (routed networks); nothing for a sandbox that publishes nothing."""
        targets = {version: self.plans.target(room, version) for version in (4, 6)}
        first = targets[4] or targets[6]
        if first is None:
            return [], ()  # as Docker: ports of host, none and internal networks are exposed, not published
        versions = [version for version, target in targets.items() if target is not None and target.address]
        wanted: list[tuple[PortBinding, tuple[str, ...]]] = []
        opened: dict[PublishedPort, None] = {}
        for binding in bindings:
            addresses = self.tools.ports.host_addresses(binding, first.publishing.host_ip, versions)
            leased = [a for a in addresses if not _routed(targets[_version(a)])]
            if leased:
                wanted.append((binding, tuple(leased)))
            for address in addresses:
                target = targets[_version(address)]
                if address in leased or target is None:
                    continue
                if binding.proxy_protocol:
                    raise InvalidArgument(
                        f"the PROXY protocol needs a host port, and the network of {target.endpoint.name} is routed"
                    )
                if target.address:
                    host_ip = address if is_loopback(address) else ANY[_version(address)]
                    opened[PublishedPort(binding.proto, host_ip, 0, binding.container_port)] = None
                elif len(addresses) == 1:  # it was asked for
                    version = _version(address)
                    raise InvalidArgument(
                        f"can not publish on {address}: the container has no IPv{version} address, and its network is routed"
                    )
        return wanted, tuple(port for port in opened if port not in room.sandbox.ports)


def exclusive(plan: Sequence[Resource]) -> list[Key]:
    return [resource.key for resource in plan if resource.exclusive]


def shared(plan: Sequence[Resource]) -> list[Key]:
    return [resource.key for resource in plan if resource.shared]


def _conflict(record: NetworkRecord, other: NetworkRecord, key: Key) -> Forbidden:
    if key[0] == "parent":
        return Forbidden(
            f"network {other.name} is already using parent interface {key[1]}",
            hint=f"choose another parent, or remove the network {other.name}",
        )
    what = "networks have same bridge name" if key[0] == "link" else f"both have {' '.join(key)}"
    return Forbidden(
        f"cannot create network {record.id} ({record.name}): conflicts with network {other.id} ({other.name}): {what}",
        hint=f"choose another name for it, or remove the network {other.name}",
    )


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _routed(target: Target | None) -> bool:
    return target is not None and target.routed


def network_key(network: str) -> str:
    """Whose turn it is; see turns.py."""
    return f"network {network}"


def endpoint_key(endpoint: str) -> str:
    return f"endpoint {endpoint}"


def sandbox_key(sandbox: str) -> str:
    return f"sandbox {sandbox}"


def claim_keys(plan: Sequence[Resource], driver: Driver) -> list[str]:
    """Two networks may ask for the same interface, or to be the only one of their driver."""
    return [
        *(f"claim {key}" for key in (*exclusive(plan), *shared(plan))),
        *([f"driver {driver.name}"] if driver.singleton else []),
    ]
