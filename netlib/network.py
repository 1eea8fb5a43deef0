"""A network, as its user holds it: a handle of an id; what it knows stands in the registry."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from .endpoint import Endpoint
from .errors import Forbidden, InvalidArgument
from .model import EndpointRecord, NetworkRecord
from .registry import NetworkNotFound
from .resources import Resource

if TYPE_CHECKING:
    from .controller import Controller
    from .driver import Driver


class ActiveEndpoints(Forbidden):
    """The network still has endpoints (Docker's wording)."""

    hint = "stop or disconnect the containers on it first"

    def __init__(self, network: NetworkRecord, endpoints: Sequence[EndpointRecord]) -> None:
        listed = ", ".join(f'name:"{endpoint.name}" id:"{endpoint.id[:12]}"' for endpoint in endpoints[:5])
        super().__init__(f"error while removing network: network {network.name} has active endpoints ({listed})")
        self.network, self.endpoints = network, tuple(endpoints)


@dataclass(frozen=True)
class Network:
    controller: Controller
    id: str

    @property
    def record(self) -> NetworkRecord:
        """What is known of the network; NotFound after it was deleted."""
        with self.controller.lock:
            record = self.controller.registry.networks.get(self.id)
        if record is None:
            raise NetworkNotFound(self.id)
        return record

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def driver(self) -> Driver:
        return self.controller.driver(self.record.driver)

    @property
    def bridge(self) -> str:
        """Name of its host interface; "" when the driver has none."""
        return self.driver.bridge(self.record)

    def plan(self) -> list[Resource]:
        """What is in the kernel for the network itself; ``str()`` of each is a line that says it."""
        return list(self.driver.network_plan(self.record))

    def endpoints(self) -> list[Endpoint]:
        with self.controller.lock:
            return [Endpoint(self.controller, e.id) for e in self.controller.registry.endpoints_of_network(self.id)]

    def create_endpoint(
        self,
        name: str,
        *,
        ip: str | None = None,
        ip6: str | None = None,
        mac: str | None = None,
        aliases: Sequence[str] = (),
        gw_priority: int = 0,
        id: str | None = None,
    ) -> Endpoint:
        """Reserve a name and addresses on the network; nothing is made in the kernel before ``join``.

        Raises InvalidArgument (an address outside the network), Forbidden (an address or name that is taken), Conflict
        (no address is left).
        """
        if not name.strip():
            raise InvalidArgument("invalid endpoint name: name is empty")
        controller = self.controller
        with controller.turns.of(network_key(self.driver, self.record)), controller.lock:
            network = self.record
            record = EndpointRecord(
                id=id or secrets.token_hex(32),
                name=name,
                network=network.id,
                aliases=tuple(aliases),
                gw_priority=gw_priority,
                static=tuple(address for address in (ip, ip6) if address),
            )
            if controller.registry.endpoint_named(network.id, name):
                controller.registry.save(record)  # raises, with the one text for this
            address = address6 = ""
            if self.driver.needs_addresses:
                address, address6 = controller.addressing.allocate(network, ip or "", ip6 or "")
            elif ip or ip6:
                raise InvalidArgument(
                    "invalid endpoint settings: user-specified IP address is supported on user-defined networks only",
                    hint="make one with `pynet network create --subnet CIDR NAME`, and use --network NAME",
                )
            made = replace(record, address=address, address6=address6)
            try:
                if self.driver.needs_addresses:
                    made = replace(made, mac=_mac(mac, address))
                chosen = ["" if ip else made.ip, "" if ip6 else made.ip6]
                last = tuple(new or old for new, old in zip(chosen, network.last or ("", "")))
                controller.registry.save(made, *([replace(network, last=last)] if any(chosen) else []))
            except BaseException:
                controller.addressing.release(made)
                raise
        return Endpoint(controller, made.id)

    def delete(self) -> None:
        """Remove the network; ActiveEndpoints while it has endpoints.

        When the kernel refuses a step, the rest is removed, the network is gone, and the error says what was left.
        """
        with self.controller.turns.of(network_key(self.driver, self.record)):
            self._delete()

    def _delete(self) -> None:
        controller = self.controller
        with controller.lock:
            record = self.record
            endpoints = controller.registry.endpoints_of_network(self.id)
            if endpoints:
                raise ActiveEndpoints(record, endpoints)
            controller.registry.remove(record)
        try:
            controller.applier.undo(controller.driver(record.driver).network_plan(record))
        finally:
            with controller.lock:
                controller.addressing.close(record.id)


def network_key(driver: Driver, record: NetworkRecord) -> str:
    """Whose turn it is; see turns.py.  The interface's name, because two networks may ask for the same one."""
    return f"network {driver.bridge(record) or record.id}"


def _mac(asked: str | None, address: str) -> str:
    """What was asked for; else 02:42 and the IPv4 address, so that an address that is used again keeps its place in the
    neighbours' ARP tables; else random and locally administered (IEEE 802: bit 1 of the first byte)."""
    if asked:
        digits = asked.replace("-", ":").lower().split(":")
        if len(digits) != 6 or any(len(d) != 2 or not set(d) <= set("0123456789abcdef") for d in digits):
            raise InvalidArgument(f"invalid MAC address: {asked}")
        if int(digits[0], 16) & 1:
            raise InvalidArgument(f"invalid MAC address: {asked} is a multicast address")
        return ":".join(digits)
    if address:
        raw = b"\x02\x42" + ip_address(address.partition("/")[0]).packed
    else:
        raw = b"\x02" + secrets.token_bytes(5)
    return raw.hex(":")
