"""``HostConfig`` of a create or update request: checked, every key there, as inspect shows it.  Pure.

An option that this engine can not honour is an error when leaving it out would make the container less safe or wrong, and a
warning of the create answer when it is a mere preference.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from ...netlib.errors import InvalidArgument
from ...netlib.ports.portspec import PortBinding, parse_port, parse_port_bindings
from ...runtime.grammar.sysctls import check as check_sysctl
from ...runtime.grammar.ulimits import check as check_ulimit
from ..fields import Fields, is_word
from ..options import judge
from .confinement import Confinement, confine


class HostConfig(NamedTuple):
    """A judged ``HostConfig``."""

    config: dict[str, Any]
    """Every key there, as inspect shows it."""
    warnings: list[str]
    confinement: Confinement


MIN_MEMORY = 6 << 20
RUNTIME = "pynet"
UPDATABLE = frozenset(
    {"Memory", "MemorySwap", "NanoCpus", "CpuShares", "CpuPeriod", "CpuQuota", "CpusetCpus", "PidsLimit"}
)
RESTART_NAMES = ("no", "on-failure", "always", "unless-stopped")


def restart_policy(fields: Fields, auto_remove: bool = False) -> dict[str, Any]:
    """``{Name, MaximumRetryCount}``; an empty name is "no"."""
    name, retries = fields.text("Name") or "no", fields.integer("MaximumRetryCount")
    if name not in RESTART_NAMES:
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if retries < 0:
        text = "maximum retry count cannot be negative"
        if name != "on-failure":
            text = "maximum retry count can only be used with 'on-failure' and cannot be negative"
        raise InvalidArgument(f"invalid restart policy: {text}")
    if retries and name != "on-failure":
        raise InvalidArgument("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if auto_remove and name != "no":
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy", hint="leave one of them out")
    return {"Name": name, "MaximumRetryCount": retries}


def port_bindings(container_config: Mapping[str, Any], host_config: Mapping[str, Any]) -> list[PortBinding]:
    """What to publish: PortBindings, and with PublishAllPorts an ephemeral port for each other exposed one."""
    wanted: dict[str, object] = dict(host_config["PortBindings"])
    if host_config["PublishAllPorts"]:
        for key in container_config.get("ExposedPorts", {}):
            wanted.setdefault(key, [{"HostIp": "", "HostPort": ""}])
    return parse_port_bindings(wanted)


def _bindings_by_port(asked: Mapping[str, Any]) -> dict[str, Any]:
    """As it was asked for, each port by one name ("80/tcp"), however it was written ("080", "80/TCP")."""
    found: dict[str, Any] = {}
    for text, entries in asked.items():
        key = "{}/{}".format(*parse_port(text))
        if key in found and all(isinstance(one, list | None) for one in (entries, found[key])):
            entries = [*(found[key] or [{}]), *(entries or [{}])]
        found[key] = entries
    return found


def _addresses(name: str, values: list[str]) -> list[str]:
    for value in values:
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise InvalidArgument(f"invalid {name}: {value} is not an IP address") from None
    return values


def _extra_hosts(values: list[str]) -> list[str]:
    for value in values:
        host, separator, address = value.partition(":")
        if not is_word(host) or not separator:
            raise InvalidArgument(f"invalid extra host {value!r}: must be NAME:ADDRESS")
        if address != "host-gateway":
            try:
                ipaddress.ip_address(address.strip("[]"))
            except ValueError:
                raise InvalidArgument(f"invalid IP address in add-host: {address!r}".replace("'", '"')) from None
    return values


def _namespace(fields: Fields, name: str, allowed: tuple[str, ...]) -> str:
    value = fields.text(name)
    if value not in allowed:
        raise InvalidArgument(f"{name} {value!r} is not supported; use one of {', '.join(repr(a) for a in allowed)}")
    return value


def check_limits(host: Fields) -> dict[str, Any]:
    """The limits that *host* asks for, every key there; InvalidArgument when they make no sense, or not together."""
    memory, swap, nano = host.integer("Memory"), host.integer("MemorySwap"), host.integer("NanoCpus")
    quota, period = host.integer("CpuQuota"), host.integer("CpuPeriod")
    if memory < 0 or 0 < memory < MIN_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB", hint="give at least -m 6m")
    if swap > 0 and not memory:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if 0 < swap < memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if nano < 0:
        raise InvalidArgument("NanoCPUs cannot be negative")
    cpus = os.cpu_count() or 1
    if nano > cpus * 1_000_000_000:
        raise InvalidArgument(
            f"Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available",
            hint="give --cpus no more than there are",
        )
    if nano and (quota or period):
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU quota or period cannot both be set")
    if period and not 1000 <= period <= 1_000_000:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < quota < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.integer("CpuShares") < 0:
        raise InvalidArgument("invalid CPU shares: must not be negative")
    cpuset = host.text("CpusetCpus")
    if cpuset and not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", cpuset):
        raise InvalidArgument(f"Invalid value {cpuset} for cpuset cpus")
    pids, oom = host.integer("PidsLimit"), host.integer("OomScoreAdj")
    if not -1000 <= oom <= 1000:
        raise InvalidArgument(f"Invalid value {oom}, range for oom score adj is [-1000, 1000]")
    swappiness = host.integer("MemorySwappiness") if host.has("MemorySwappiness") else None
    return {
        "Memory": memory, "MemorySwap": swap, "MemoryReservation": host.integer("MemoryReservation"),
        "MemorySwappiness": swappiness, "NanoCpus": nano, "CpuShares": host.integer("CpuShares"),
        "CpuPeriod": period, "CpuQuota": quota, "CpusetCpus": cpuset, "CpusetMems": host.text("CpusetMems"),
        "PidsLimit": pids if pids > 0 else None, "OomScoreAdj": oom, "OomKillDisable": False, "BlkioWeight": 0,
        "Ulimits": _ulimits(host),
    }  # fmt: skip


def _ulimits(host: Fields) -> list[dict[str, Any]]:
    limits: list[dict[str, Any]] = []
    for limit in host.objects("Ulimits"):
        name, soft, hard = limit.text("Name"), limit.integer("Soft"), limit.integer("Hard")
        try:
            check_ulimit(name, soft, hard)
        except ValueError as error:
            raise InvalidArgument(str(error), hint="setrlimit(2) says what there is, as in nofile=1024:2048") from None
        limits.append({"Name": name, "Hard": hard, "Soft": soft})
    return limits


def network_mode(host: Fields) -> str:
    """ "default", "bridge", "host", "none", "container:REF" or a network's name or id."""
    mode = host.text("NetworkMode") or "default"
    if mode == "container:":
        raise InvalidArgument("invalid container format container:<name|id>")
    return "bridge" if mode == "default" else mode


def complete_host_config(body: Any) -> HostConfig:
    """Everything that a create request says of the host, or InvalidArgument."""
    host = Fields(body, "HostConfig.")
    warnings = judge(host, "HostConfig")
    confinement, more = confine(host)
    config = {
        **_isolation(host),
        **_networking(host),
        **_storage(host),
        **_life(host),
        **check_limits(host),
        **_devices(host),
    }
    config["MaskedPaths"] = confinement.masked_paths or None
    config["ReadonlyPaths"] = confinement.readonly_paths or None
    return HostConfig(config, [*warnings, *more], confinement)


def _isolation(host: Fields) -> dict[str, Any]:
    runtime = host.text("Runtime") or RUNTIME
    if runtime not in (RUNTIME, "runc"):  # runc: what Docker's clients name when they mean the usual one
        raise InvalidArgument(f"unknown or invalid runtime name: {runtime}", hint="leave --runtime out")
    found: dict[str, Any] = {
        "CapAdd": host.strings("CapAdd") or None,
        "CapDrop": host.strings("CapDrop") or None,
        "SecurityOpt": host.strings("SecurityOpt") or None,
        "Privileged": host.boolean("Privileged"),
        "CgroupnsMode": host.text("CgroupnsMode") or "private",
        "IpcMode": _namespace(host, "IpcMode", ("", "private", "none", "shareable")) or "private",
        "PidMode": _namespace(host, "PidMode", ("", "private")),
        "UTSMode": _namespace(host, "UTSMode", ("",)),
        "UsernsMode": _namespace(host, "UsernsMode", ("", "host")),
        "GroupAdd": host.strings("GroupAdd") or None,
        "Cgroup": "",
        "CgroupParent": "",
        "Runtime": runtime,
        "Isolation": host.text("Isolation"),
    }
    return found


def _networking(host: Fields) -> dict[str, Any]:
    mode, sysctls = network_mode(host), host.string_map("Sysctls")
    for key in sysctls:
        try:
            check_sysctl(key, own_network=mode != "host")
        except ValueError as error:
            raise InvalidArgument(str(error), hint="set it for the whole host, with sysctl(8)") from None
    found: dict[str, Any] = {
        "NetworkMode": mode,
        "PortBindings": _bindings_by_port(host.object("PortBindings").body),
        "PublishAllPorts": host.boolean("PublishAllPorts"),
        "Dns": _addresses("DNS address", host.strings("Dns")),
        "DnsOptions": host.words("DnsOptions"),
        "DnsSearch": host.words("DnsSearch"),
        "ExtraHosts": _extra_hosts(host.strings("ExtraHosts")) or None,
        "Links": host.words("Links") or None,
    }
    return {**found, "Sysctls": sysctls} if sysctls else found


def _storage(host: Fields) -> dict[str, Any]:
    shm = host.integer("ShmSize")
    if shm < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    found: dict[str, Any] = {
        "Binds": host.strings("Binds") or None,
        "VolumeDriver": host.text("VolumeDriver"),
        "VolumesFrom": None,
        "ReadonlyRootfs": host.boolean("ReadonlyRootfs"),
        "ShmSize": shm or 64 << 20,
    }
    for name in ("Mounts", "Tmpfs"):
        if host.body.get(name):
            found[name] = host.body[name]
    return found


def _life(host: Fields) -> dict[str, Any]:
    log = host.object("LogConfig")
    log_type, auto_remove = log.text("Type") or "json-file", host.boolean("AutoRemove")
    if log_type not in ("json-file", "none"):
        raise InvalidArgument(
            f"logger: no log driver named '{log_type}' is registered", hint="json-file and none are known"
        )
    found: dict[str, Any] = {
        "AutoRemove": auto_remove,
        "RestartPolicy": restart_policy(host.object("RestartPolicy"), auto_remove),
        "LogConfig": {"Type": log_type, "Config": log.string_map("Config")},
        "ContainerIDFile": host.text("ContainerIDFile"),
        "ConsoleSize": list(console_size(host.body.get("ConsoleSize")) or (0, 0)),
    }
    if host.has("Annotations"):
        found["Annotations"] = host.string_map("Annotations")
    if host.has("Init"):
        found["Init"] = host.boolean("Init")
    return found


def console_size(size: Any) -> tuple[int, int] | None:
    """``[height, width]``, or None when absent or nonsense."""
    if isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and 0 < n < 65536 for n in size):
        return size[0], size[1]
    return None


def _device(device: Fields) -> dict[str, str]:
    path, target = device.text("PathOnHost"), device.text("PathInContainer")
    rights = device.text("CgroupPermissions") or "rwm"
    if not (path.startswith("/") and (target or path).startswith("/")):
        raise InvalidArgument(f"invalid device {path!r}: paths are absolute", hint="`ls -l /dev` shows the devices")
    if not set(rights) <= set("rwm"):
        raise InvalidArgument(f"invalid device mode: {rights}", hint="some of r, w and m (mknod)")
    return {"PathOnHost": path, "PathInContainer": target, "CgroupPermissions": rights}


def _devices(host: Fields) -> dict[str, Any]:
    return {
        "Devices": [_device(device) for device in host.objects("Devices")],
        "DeviceRequests": None,
        "DeviceCgroupRules": None,
    }  # fmt: skip


def resource_update(body: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The keys of an update request that are given (non-zero, as Docker reads them) and checked; and warnings."""
    fields = Fields(body)
    warnings = judge(fields, "Update")
    given = {key: value for key, value in check_limits(fields).items() if value and key in UPDATABLE}
    if fields.has("PidsLimit") and fields.integer("PidsLimit") <= 0:
        given["PidsLimit"] = None  # a pointer in Docker's API: 0 and -1 are values, and mean no limit
    policy = fields.object("RestartPolicy")
    if policy.text("Name"):
        given["RestartPolicy"] = restart_policy(policy)
    return given, warnings


_LIMITS = (
    ("memory", "memory limit capabilities", "Limitation", ("Memory", "MemorySwap", "MemoryReservation")),
    ("cpu", "CPU CFS scheduler", "Limitation", ("NanoCpus", "CpuQuota", "CpuPeriod")),
    ("cpu", "CPU shares", "Shares", ("CpuShares",)),
    ("cpuset", "cpuset", "Cpuset", ("CpusetCpus", "CpusetMems")),
    ("pids", "pids limit capabilities", "PIDs limit", ("PidsLimit",)),
)


def discarded_limits(host_config: Mapping[str, Any], controllers: Collection[str]) -> list[str]:
    """Docker's warnings for limits that no cgroup controller of this host can keep."""
    return [
        f"Your kernel does not support {what} or the cgroup is not mounted. {lost} discarded."
        for controller, what, lost, keys in _LIMITS
        if controller not in controllers and any(host_config.get(key) not in (None, 0, -1, "") for key in keys)
    ]
