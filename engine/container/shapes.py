"""From our objects to the Engine API's JSON: containers.  Pure; the networks' are in network_shapes.py.

Values are computed by the caller (a ``Look`` at the live part of a container), so these functions are tables, tested
without a daemon.  Field names and the meaning of absent values are moby's (api/types/container).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...netlib.durations import human_duration
from ..times import rfc3339
from .config import command_line
from .record import RUNNING, Container, State

Ports = dict[str, list[dict[str, str]] | None]


@dataclass(frozen=True)
class NetworkLook:
    """One network of a container as it is now; the texts are empty while it does not run."""

    settings: Mapping[str, Any]
    network_id: str = ""
    endpoint_id: str = ""
    address: str = ""
    address6: str = ""
    gateway: str = ""
    gateway6: str = ""
    mac: str = ""
    dns_names: Sequence[str] = ()


@dataclass(frozen=True)
class Look:
    """What an inspect shows beyond the record."""

    sandbox_id: str = ""
    sandbox_key: str = ""
    networks: Mapping[str, NetworkLook] = field(default_factory=dict)
    ports: Sequence[tuple[str, str, int, int]] = ()
    """(proto, host_ip, host_port, container_port) of each published port."""
    links: Sequence[str] = ()
    """As Docker shows them: "/NAME:/CONTAINER/ALIAS"."""


def status_text(state: State, now: float) -> str:
    """moby's State.String: "Up 5 minutes (Paused)", "Exited (0) 2 hours ago", ..."""
    if state.status == "created":
        return "Created"
    if state.status == "removing":
        return "Removal In Progress"
    if state.status == "restarting":
        return f"Restarting ({state.exit_code}) {human_duration(now - state.finished)} ago"
    if state.status in RUNNING:
        up = f"Up {human_duration(now - state.started)}"
        return f"{up} (Paused)" if state.status == "paused" else up
    return f"Exited ({state.exit_code}) {human_duration(now - state.finished)} ago"


def state_shape(state: State) -> dict[str, Any]:
    running = state.status in RUNNING
    return {
        "Status": state.status,
        "Running": running,
        "Paused": state.status == "paused",
        "Restarting": state.status == "restarting",
        "OOMKilled": state.oom_killed,
        "Dead": False,
        "Pid": state.pid if running else 0,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": rfc3339(state.started),
        "FinishedAt": rfc3339(state.finished),
    }


def port_map(look: Look, exposed: Sequence[str]) -> Ports:
    """``NetworkSettings.Ports``: what is published, and null for what is only exposed."""
    ports: Ports = dict.fromkeys(exposed)
    for proto, host_ip, host_port, container_port in look.ports:
        entry = {"HostIp": host_ip, "HostPort": str(host_port or "")}  # none leads to a routed network's ports
        listed = ports.get(f"{container_port}/{proto}")
        if listed is None:
            ports[f"{container_port}/{proto}"] = [entry]
        else:
            listed.append(entry)
    return ports


def port_list(look: Look, exposed: Sequence[str]) -> list[dict[str, Any]]:
    """``Ports`` of a list entry."""
    result: list[dict[str, Any]] = [
        {"IP": ip, "PrivatePort": private, **({"PublicPort": public} if public else {}), "Type": proto}
        for proto, ip, public, private in look.ports
    ]
    published = {(entry["PrivatePort"], entry["Type"]) for entry in result}
    for key in exposed:
        port, _, proto = key.partition("/")
        if (int(port), proto) not in published:
            result.append({"PrivatePort": int(port), "Type": proto})
    return sorted(result, key=lambda entry: (entry["PrivatePort"], entry.get("PublicPort", 0), entry.get("IP", "")))


def _address(text: str) -> tuple[str, int]:
    address, _, prefix = text.partition("/")
    return address, int(prefix or 0)


def attachment_shape(attachment: NetworkLook) -> dict[str, Any]:
    settings = attachment.settings
    (ip, prefix), (ip6, prefix6) = _address(attachment.address), _address(attachment.address6)
    return {
        "IPAMConfig": settings.get("IPAMConfig"),
        "Links": settings.get("Links"),
        "Aliases": settings.get("Aliases"),
        "MacAddress": attachment.mac or settings.get("MacAddress", ""),
        "DriverOpts": settings.get("DriverOpts"),
        "GwPriority": settings.get("GwPriority", 0),
        "NetworkID": attachment.network_id,
        "EndpointID": attachment.endpoint_id,
        "Gateway": attachment.gateway,
        "IPAddress": ip,
        "IPPrefixLen": prefix,
        "IPv6Gateway": attachment.gateway6,
        "GlobalIPv6Address": ip6,
        "GlobalIPv6PrefixLen": prefix6,
        "DNSNames": list(attachment.dns_names) or None,
    }


def network_settings(look: Look, exposed: Sequence[str]) -> dict[str, Any]:
    networks = {name: attachment_shape(attachment) for name, attachment in look.networks.items()}
    default = networks.get("bridge", {})
    return {
        "Bridge": "",
        "SandboxID": look.sandbox_id,
        "SandboxKey": look.sandbox_key,
        "Ports": port_map(look, exposed) if look.sandbox_id else {},
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": default.get("EndpointID", ""),
        "Gateway": default.get("Gateway", ""),
        "GlobalIPv6Address": default.get("GlobalIPv6Address", ""),
        "GlobalIPv6PrefixLen": default.get("GlobalIPv6PrefixLen", 0),
        "IPAddress": default.get("IPAddress", ""),
        "IPPrefixLen": default.get("IPPrefixLen", 0),
        "IPv6Gateway": default.get("IPv6Gateway", ""),
        "MacAddress": default.get("MacAddress", ""),
        "Networks": networks,
    }


def exposed_ports(container: Container) -> list[str]:
    """Exposed ports and those with bindings, which are exposed by that."""
    bound = [key if "/" in key else f"{key}/tcp" for key in container.host_config["PortBindings"]]
    return list(dict.fromkeys([*container.config.get("ExposedPorts", {}), *bound]))


def inspect_shape(
    container: Container, look: Look, *, directory: str, mounts: list[dict[str, Any]], execs: list[str]
) -> dict[str, Any]:
    """``GET /containers/{id}/json``."""
    line = command_line(container.config)
    rootfs = container.rootfs
    return {
        "Id": container.id,
        "Created": rfc3339(container.created),
        "Path": line[0],
        "Args": line[1:],
        "State": state_shape(container.state),
        "Image": container.image_id,
        "ResolvConfPath": f"{directory}/resolv.conf",
        "HostnamePath": f"{directory}/hostname",
        "HostsPath": f"{directory}/hosts",
        "LogPath": f"{directory}/log.json",
        "Name": f"/{container.name}",
        "RestartCount": container.state.restarts,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": execs or None,
        "HostConfig": {**container.host_config, "Links": list(look.links) or None},
        "GraphDriver": {
            "Name": "overlay2",
            "Data": {
                "ID": container.id,
                "LowerDir": ":".join(rootfs["lower"]),
                "UpperDir": rootfs["upper"],
                "WorkDir": rootfs["work"],
                "MergedDir": "",
            },
        },
        "Mounts": mounts,
        "Config": container.config,
        "NetworkSettings": network_settings(look, exposed_ports(container)),
    }


def summary_shape(container: Container, look: Look, *, mounts: list[dict[str, Any]], now: float) -> dict[str, Any]:
    """One entry of ``GET /containers/json``."""
    return {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": container.config["Image"],
        "ImageID": container.image_id,
        "Command": " ".join(_quoted(word) for word in command_line(container.config)),
        "Created": int(container.created),
        "Ports": port_list(look, exposed_ports(container)) if container.running else [],
        "Labels": container.labels,
        "State": container.state.status,
        "Status": status_text(container.state, now),
        "HostConfig": {"NetworkMode": container.network_mode},
        "NetworkSettings": {"Networks": {n: attachment_shape(a) for n, a in look.networks.items()}},
        "Mounts": mounts,
    }


def _quoted(word: str) -> str:
    return f"'{word}'" if " " in word and "'" not in word else word
