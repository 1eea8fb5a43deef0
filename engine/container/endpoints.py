"""``EndpointSettings`` of a request: what a user may choose of a container's place on a network.  Pure.

    {"IPAMConfig": {"IPv4Address", "IPv6Address", "LinkLocalIPs"}, "Links", "Aliases", "MacAddress", "DriverOpts", "GwPriority"}

The rules and their texts are moby's (daemon/container_operations.go and network.go; api/types/network/endpoint.go).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from ...netlib import shaping
from ...netlib.decisions import decide_link_local, decide_mac, decide_sysctls
from ...netlib.errors import InvalidArgument
from ...netlib.ifname import check_ifname
from ...netlib.model import NetworkRecord
from ..fields import Fields, is_word

PREDEFINED = frozenset({"bridge", "host", "none"})
IFNAME = "com.docker.network.endpoint.ifname"
SYSCTLS = "com.docker.network.endpoint.sysctls"


def endpoint_settings(body: Any) -> dict[str, Any]:
    """One EndpointSettings: checked, and only the keys that are the user's to choose."""
    fields = Fields(body, "EndpointSettings.")
    options = fields.string_map("DriverOpts")
    if options.get(IFNAME):
        check_ifname(options[IFNAME])
    sysctls(options)
    shaping.parse(options)  # whether the network can is known when it is joined
    mac = fields.text("MacAddress")
    return {
        "IPAMConfig": _addresses(fields.object("IPAMConfig")) if fields.object("IPAMConfig").body else None,
        "Links": ["{}:{}".format(*parse_link(text)) for text in fields.words("Links")] or None,
        "Aliases": list(dict.fromkeys(fields.words("Aliases"))) or None,
        "MacAddress": decide_mac(mac, "") if mac else "",
        "DriverOpts": options or None,
        "GwPriority": fields.integer("GwPriority"),
    }


def _addresses(ipam: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, version in (("IPv4Address", 4), ("IPv6Address", 6)):
        if text := ipam.text(key):
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                address = None
            if address is None or address.version != version or address.is_unspecified or "%" in text:
                raise InvalidArgument(f"invalid endpoint settings: invalid IPv{version} address: {text}")
            found[key] = text
    if local := ipam.strings("LinkLocalIPs"):
        try:
            decide_link_local(local)
        except InvalidArgument as error:
            raise InvalidArgument(f"invalid endpoint settings: {error}", hint=error.hint) from None
        found["LinkLocalIPs"] = local
    return found


def sysctls(options: Mapping[str, str]) -> dict[str, str]:
    """``com.docker.network.endpoint.sysctls``: "net.ipv4.conf.IFNAME.log_martians=1,..." to names and values."""
    text = options.get(SYSCTLS, "")
    try:
        return decide_sysctls({name: value for name, _, value in (word.partition("=") for word in _split(text))})
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid endpoint settings: {error}", hint=error.hint) from None


def _split(text: str) -> list[str]:
    return text.split(",") if text else []


def parse_link(text: str) -> tuple[str, str]:
    """``NAME[:ALIAS]``, or as inspect shows it, ``/NAME:/CONTAINER/ALIAS``: a container and the name it is to be known by."""
    name, colon, alias = text.partition(":")
    name, alias = name.removeprefix("/"), alias.rpartition("/")[2] if colon else name.removeprefix("/")
    if not text:
        raise InvalidArgument("empty string specified for links", hint="write NAME or NAME:ALIAS")
    if not is_word(name) or not is_word(alias) or ":" in alias:
        raise InvalidArgument(f"bad format for links: {text}", hint="write NAME or NAME:ALIAS")
    return name, alias


def check_settings(network: str, settings: Mapping[str, Any], record: NetworkRecord | None = None) -> None:
    """What a network does not offer; *record* is the network's, where it is there already."""
    ipam: Mapping[str, Any] = settings.get("IPAMConfig") or {}
    if network in PREDEFINED:
        if ipam.get("IPv4Address") or ipam.get("IPv6Address"):
            raise InvalidArgument(
                "invalid endpoint settings: user-specified IP address is supported on user-defined networks only",
                hint="make one with `pynet network create --subnet CIDR NAME`, and use --network NAME",
            )
        if settings.get("Aliases"):
            raise InvalidArgument(
                "network-scoped aliases are only supported for user-defined networks",
                hint="make one with `pynet network create NAME`, and use --network NAME",
            )
    if record is None or record.ipam_driver != "default":
        return
    for key in ("IPv4Address", "IPv6Address"):
        if (text := ipam.get(key)) and not any(
            ipaddress.ip_address(text) in ipaddress.ip_network(config.subnet) for config in record.ipam
        ):
            raise InvalidArgument(
                f"invalid endpoint settings: no configured subnet contains IP address {text}",
                hint=f"network {record.name} has {_listed(config.subnet for config in record.ipam)}",
            )


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words) or "no subnet"


def check_mode(mode: str, config: Mapping[str, Any], host: Mapping[str, Any], *, published: bool) -> None:
    """What a container can not choose whose network is another's or the host's (moby, runconfig/hostconfig_unix.go).

    *config* is the request's own: what its image exposes is no choice of the user's.
    """
    if mode == "host" and host["Links"]:
        raise InvalidArgument(
            "conflicting options: host type networking can't be used with links. This would result in undefined behavior"
        )
    if not mode.startswith("container:"):
        return
    for what, chosen in {
        "hostname and the network mode": config.get("Hostname"),
        "container type network can't be used with links. This would result in undefined behavior": host["Links"],
        "dns and the network mode": host["Dns"],
        "custom host-to-IP mapping and the network mode": host["ExtraHosts"],
        "mac-address and the network mode": config.get("MacAddress"),
        "port publishing and the container type network mode": published,
        "port exposing and the container type network mode": config.get("ExposedPorts"),
    }.items():
        if chosen:
            raise InvalidArgument(
                f"conflicting options: {what}", hint="choose it for the container whose network it shares"
            )


def requested_networks(mode: str, body: Any, mac: str = "", links: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """``NetworkingConfig`` and the network mode to name -> settings, the primary network first.

    *links* are ``HostConfig.Links``; on a network made by a user they hold there, as those of its settings.
    """
    asked = Fields(body, "NetworkingConfig.").object("EndpointsConfig").body
    if mode.startswith("container:"):
        if asked:
            raise InvalidArgument("conflicting options: a container that shares another's network has none of its own")
        return {}
    networks: dict[str, dict[str, Any]] = {mode: endpoint_settings(None)}
    for name, settings in asked.items():
        networks["bridge" if name == "default" else str(name)] = endpoint_settings(settings)
    if len(networks) > 1 and mode in ("host", "none"):
        raise InvalidArgument(f"conflicting options: cannot attach a container in {mode} mode to other networks")
    if mac and not networks[mode]["MacAddress"]:
        networks[mode]["MacAddress"] = decide_mac(mac, "")
    if mode not in PREDEFINED and (linked := list(links)):
        networks[mode]["Links"] = list(dict.fromkeys([*(networks[mode]["Links"] or ()), *linked]))
    for name, settings in networks.items():
        check_settings(name, settings)
    return networks
