"""From the library's networks to the Engine API's JSON, and from its create request to the library's arguments.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ..drivers.options import boolean
from ..netlib import shaping
from ..netlib.driver import load_driver, short_names
from ..netlib.errors import Forbidden, InvalidArgument
from ..netlib.kernel.traffic import LinkCounters
from ..netlib.model import EndpointRecord, IpamConfig, NetworkRecord
from ..netlib.shaping import Limits
from .fields import Fields
from .times import rfc3339
from .versions import Version

NO_DEFAULTS: Mapping[str, Mapping[str, str]] = {}


def network_shape(record: NetworkRecord) -> dict[str, Any]:
    """One entry of ``GET /networks``."""
    return {
        "Name": record.name,
        "Id": record.id,
        "Created": rfc3339(record.created),
        "Scope": record.scope,
        "Driver": record.driver,
        "EnableIPv4": record.ipv4,
        "EnableIPv6": record.ipv6,
        "IPAM": {
            # Docker says so of host and none as well
            "Driver": "default" if record.driver in ("host", "null") else record.ipam_driver,
            "Options": record.ipam_options or None,
            "Config": [_ipam_shape(config) for config in record.ipam],
        },
        "Internal": record.internal,
        "Attachable": record.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": record.config_from},
        "ConfigOnly": record.config_only,
        "Containers": {},
        "Options": record.options,
        "Labels": record.labels,
    }


def _ipam_shape(config: IpamConfig) -> dict[str, Any]:
    shape: dict[str, Any] = {"Subnet": config.subnet}
    if config.ip_range:
        shape["IPRange"] = config.ip_range
    if config.gateway:
        shape["Gateway"] = config.gateway
    if config.aux:
        shape["AuxiliaryAddresses"] = config.aux
    return shape


def containers_shape(endpoints: Iterable[EndpointRecord]) -> dict[str, Any]:
    """``Containers`` of an inspect: the joined endpoints, by their sandbox, which has the container's id."""
    return {
        endpoint.sandbox: {
            "Name": endpoint.name,
            "EndpointID": endpoint.id,
            "MacAddress": endpoint.mac,
            "IPv4Address": endpoint.address,
            "IPv6Address": endpoint.address6,
        }
        for endpoint in endpoints
        if endpoint.sandbox
    }


def statistics_shape(network: str, endpoint: EndpointRecord, counted: LinkCounters, limits: Limits) -> dict[str, Any]:
    """One entry of ``GET /pynet/networks/stats``; the numbers have the names of Docker's ``stats``, limits are bytes a second."""
    return {
        "Network": network,
        "NetworkID": endpoint.network,
        "Container": endpoint.name,
        "ContainerID": endpoint.sandbox,
        "EndpointID": endpoint.id,
        "Interface": endpoint.ifname,
        "Counters": asdict(counted),
        "Limits": asdict(limits),
    }


def status_shape(usage: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """``Status`` of an inspect (API 1.52): counts are of 64 bits, so a vast subnet has "at least so many"."""
    most = (1 << 64) - 1
    return {
        "IPAM": {
            "Subnets": {
                subnet: {"IPsInUse": min(used, most), "DynamicIPsAvailable": min(free, most)}
                for subnet, (used, free) in usage.items()
            }
        }
    }


def ipam_configs(ipam: Fields) -> list[IpamConfig]:
    return [
        IpamConfig(
            subnet=config.text("Subnet"),
            ip_range=config.text("IPRange"),
            gateway=config.text("Gateway"),
            aux=config.string_map("AuxiliaryAddresses"),
        )
        for config in ipam.objects("Config")
    ]


FAMILIES = {4: "com.docker.network.enable_ipv4", 6: "com.docker.network.enable_ipv6"}


def families(options: Mapping[str, str]) -> dict[int, bool]:
    """The IP versions that a network's options switch on or off, where they say so."""
    found: dict[int, bool] = {}
    for version, name in FAMILIES.items():
        if name in options:
            try:
                found[version] = boolean(options[name])
            except ValueError:
                raise InvalidArgument(f'driver-opt "{name}" is not a valid bool', hint="true or false") from None
    return found


def create_arguments(
    body: Mapping[str, Any], version: Version, defaults: Mapping[str, Mapping[str, str]] = NO_DEFAULTS
) -> tuple[str, dict[str, Any]]:
    """The name and the keyword arguments of ``Controller.create_network``; *defaults* are options by driver, for networks that
    name no other value and have no configuration of another network."""
    fields = Fields(body)
    name = fields.text("Name")
    if not name.strip():
        raise InvalidArgument("invalid network name: name is empty")
    scope = fields.text("Scope")
    if scope and fields.boolean("ConfigOnly"):
        raise Forbidden(
            "configuration network can only contain network specific fields. Network operator fields like "
            "[ ingress | internal | attachable | scope ] are not supported."
        )
    if scope not in ("", "local"):
        raise Forbidden(f"cannot create a {scope} scoped network when swarm is not active")
    driver = fields.text("Driver") or "bridge"
    config_from = fields.object("ConfigFrom").text("Network")
    options = fields.string_map("Options")
    if driver in defaults and not config_from:
        options = _completed(driver, options, defaults[driver])
    on = {4: True, 6: False} | families(options)
    # API < 1.48 knows no EnableIPv4
    ipv4 = fields.boolean("EnableIPv4", on[4]) if version >= (1, 48) else on[4]
    ipam = fields.object("IPAM")
    return name, {
        "driver": driver,
        "ipam": ipam_configs(ipam),
        "ipam_driver": ipam.text("Driver"),
        "ipam_options": ipam.string_map("Options"),
        "ipv4": ipv4,
        "ipv6": fields.boolean("EnableIPv6", on[6]),
        "internal": fields.boolean("Internal"),
        "attachable": fields.boolean("Attachable"),
        "options": options,
        "labels": fields.string_map("Labels"),
        "config_only": fields.boolean("ConfigOnly"),
        "config_from": config_from,
    }


def _completed(driver: str, options: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """The options, and the defaults of those that they name by neither of their two names."""
    long = {short: name for name, short in shaping.OPTIONS.items()} | short_names(load_driver(driver))
    given = {long.get(name, name) for name in options}
    return {**{name: text for name, text in defaults.items() if long.get(name, name) not in given}, **options}
