"""What a user may ask of a network's addresses, checked before anything is made.

The findings are worded and ordered as Docker's ValidateIPAM (moby: api/types/network/ipam.go) and all reported at once
in one InvalidNetworkConfig; what comes out is canonical text that fits together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from .errors import InvalidAddress, InvalidNetworkConfig
from .prefix import Prefix, format_address, parse_address, parse_loose


@dataclass(frozen=True, slots=True)
class PoolRequest:
    """The addresses of a network in one family, in canonical form.  ``subnet`` None means any default one."""

    version: int = 4
    subnet: str | None = None
    ip_range: str | None = None
    gateway: str | None = None
    auxiliary: tuple[tuple[str, str], ...] = ()
    """Name and address; "" leaves the choice of the address."""
    has_gateway: bool = True
    """Whether one is chosen where ``gateway`` is None."""
    shared_wire: bool = False
    """Whether machines of others have addresses there: the first one, customarily a router's, is not chosen then, unless the
    ``gateway`` or the ``ip_range`` says where the router is or what may be chosen."""

    @property
    def any_of_size(self) -> bool:
        """Whether ``subnet`` only says how large a chosen one is to be ("0.0.0.0/26", "::/96")."""
        return self.subnet is not None and self.subnet.partition("/")[0] in ("0.0.0.0", "::")


class SubnetConfig(Protocol):
    """What a user asks of one subnet; "" leaves a choice.  netlib/model.py's IpamConfig is one."""

    @property
    def subnet(self) -> str: ...
    @property
    def ip_range(self) -> str: ...
    @property
    def gateway(self) -> str: ...
    @property
    def aux(self) -> Mapping[str, str]: ...


def check_request(configs: Iterable[SubnetConfig], *, ipv6: bool = True) -> tuple[PoolRequest, ...]:
    """What was asked, in canonical form; InvalidNetworkConfig with every finding.

    Without ``ipv6`` entries of that family are passed over, as Docker does.
    """
    requests: list[PoolRequest] = []
    reasons: list[str] = []
    for config in configs:
        request, found = _check(config.subnet, config.ip_range, config.gateway, config.aux)
        if not ipv6 and ":" in config.subnet:
            continue
        reasons += found
        if request is not None:
            requests.append(request)
    if reasons:
        raise InvalidNetworkConfig(reasons)
    return tuple(requests)


def _check(subnet: str, ip_range: str, gateway: str, aux: Mapping[str, str]) -> tuple[PoolRequest | None, list[str]]:
    """The request, and what is wrong with it; no request when not even the subnet can be read."""
    if not (subnet or ip_range or gateway or aux):
        return PoolRequest(), []
    try:
        pool, exact = parse_loose(subnet)
    except ValueError:
        return None, [f"invalid subnet {subnet}: invalid CIDR block notation"]
    reasons: list[str] = []
    if not exact:
        reasons.append(f"invalid subnet {_as_given(subnet)}: it should be {pool}")
    canonical_range = _check_range(ip_range, pool, reasons)
    canonical_gateway = _check_address(gateway, pool, f"invalid gateway {gateway}", reasons)
    auxiliary = tuple(
        (name, _check_address(address, pool, f"invalid auxiliary address {name}", reasons, required=True) or "")
        for name, address in aux.items()
    )
    return PoolRequest(pool.version, str(pool), canonical_range, canonical_gateway, auxiliary), reasons


def _check_range(text: str, subnet: Prefix, reasons: list[str]) -> str | None:
    if not text:
        return None
    try:
        prefix, exact = parse_loose(text)
    except ValueError:
        reasons.append(f"invalid ip-range {text}: invalid CIDR block notation")
        return None
    if prefix.version != subnet.version:
        reasons.append(f"invalid ip-range {text}: parent subnet is an IPv{subnet.version} block")
        return None
    if prefix.length < subnet.length:
        reasons.append(f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}")
    if not exact:
        reasons.append(f"invalid ip-range {_as_given(text)}: it should be {prefix}")
    if not subnet.contains(prefix) and not prefix.contains(subnet):
        reasons.append(f"invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range")
    return str(prefix)


def _check_address(
    text: str, subnet: Prefix, subject: str, reasons: list[str], *, required: bool = False
) -> str | None:
    if not text and not required:
        return None
    try:
        version, value = parse_address(text)
    except InvalidAddress:
        reasons.append(f"{subject}: invalid address")
        return None
    if version != subnet.version:
        reasons.append(f"{subject}: parent subnet is an IPv{subnet.version} block")
    elif not subnet.first <= value <= subnet.last:
        reasons.append(f"{subject}: parent subnet {subnet} doesn't contain this address")
    return format_address(version, value)


def _as_given(text: str) -> str:
    """A prefix with its host bits, the address in canonical form, as Go prints a netip.Prefix."""
    address, _, length = text.partition("/")
    return f"{format_address(*parse_address(address))}/{length}"
