"""Errors of address management, in the words of Docker's IPAM (moby: daemon/libnetwork/ipamapi/contract.go).

Clients and scripts match on these texts, so the message keeps them; which pool, address or holder is meant stands in
the fields and in the hint.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..netlib.errors import Conflict, Forbidden, InvalidArgument


class InvalidAddress(InvalidArgument):
    """Not an IPv4 or IPv6 address in its usual notation."""

    hint = "write an IPv4 address as 192.0.2.7, an IPv6 address as 2001:db8::7"

    def __init__(self, text: str) -> None:
        super().__init__(f"invalid IP address: {text}")
        self.text = text


class InvalidPool(InvalidArgument):
    """The subnet of a pool request can not be read or used."""

    hint = "write a subnet as 172.30.0.0/24 or fd00:1234::/64"

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f"invalid pool request: invalid address pool: {why}")
        self.text = text


class InvalidSubPool(InvalidArgument):
    """The ip-range of a pool request can not be read, or is no part of the subnet."""

    hint = "give --ip-range a part of --subnet, written as 172.30.0.64/26"

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f"invalid pool request: invalid address subpool: {why}")
        self.text = text


class PoolOverlap(Forbidden):
    """The requested subnet shares addresses with a pool in use."""

    def __init__(self, requested: str, holder: str) -> None:
        super().__init__(
            "invalid pool request: Pool overlaps with other one on this address space",
            hint=f"{requested} overlaps {holder}, which is in use; choose another subnet or remove that network",
        )
        self.requested, self.holder = requested, holder


class NoMoreSubnets(InvalidArgument):
    """Every default pool is in use or collides with something on the host."""

    hint = "remove unused networks (network prune), or give --subnet"

    def __init__(self, version: int) -> None:
        super().__init__("all predefined address pools have been fully subnetted")
        self.version = version


class AddressInUse(Forbidden):
    """The address is leased, or reserved by the protocol (network, broadcast, subnet-router anycast)."""

    def __init__(self, address: str, subnet: str, *, reserved: bool = False) -> None:
        why = f"{address} is reserved in {subnet}" if reserved else f"{address} of {subnet} is taken"
        super().__init__("Address already in use", hint=f"{why}; choose another address, or give none")
        self.address, self.subnet, self.reserved = address, subnet, reserved


class AddressOutOfRange(InvalidArgument):
    """The address does not belong to the pool."""

    def __init__(self, address: str, subnet: str) -> None:
        super().__init__("requested address is out of range", hint=f"choose an address of {subnet}; {address} is none")
        self.address, self.subnet = address, subnet


class NoAvailableAddresses(Conflict):
    """No free address is left where the pool may choose one (Docker answers 503)."""

    status = 503

    def __init__(self, subnet: str) -> None:
        super().__init__(
            "no available addresses on this pool",
            hint=f"{subnet} is full: remove an endpoint, or create the network with a larger subnet",
        )
        self.subnet = subnet


class AuxiliaryAddressOutside(Forbidden):
    """An auxiliary address does not belong to the pool it was given with."""

    hint = "give --aux-address an address of --subnet"

    def __init__(self, name: str, address: str, subnet: str) -> None:
        super().__init__(f"auxiliary address: ({name}:{address}) must belong to the master pool: {subnet}")
        self.name, self.address, self.subnet = name, address, subnet


class ReservationFailed(Forbidden):
    """The gateway or an auxiliary address could not be set aside when the pool was opened."""

    def __init__(self, what: str, shown: str, reason: Forbidden | Conflict | InvalidArgument) -> None:
        super().__init__(f"failed to allocate {what} ({shown}): {reason.message}", hint=reason.hint)
        self.what, self.shown, self.reason = what, shown, reason


class InvalidNetworkConfig(InvalidArgument):
    """The addresses of a network to create do not fit together; ``reasons`` holds every finding.

    The one message of ours that has several lines: it is what Docker's clients show.
    """

    hint = "give a subnet without host bits, and a range, gateway and auxiliary addresses inside it"

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("invalid network config:\n" + "\n".join(f"* {reason}" for reason in reasons))
        self.reasons = tuple(reasons)
