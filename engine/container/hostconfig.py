"""``HostConfig`` of a create or update request: checked, every key there, as inspect shows it.  Pure.

An option that this engine can not honour is an error when leaving it out would make the container less safe or wrong, and a
warning of the create answer when it is a mere preference.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from ...netlib.errors import InvalidArgument
from ...runtime.spec import DEFAULT_CAPABILITIES
from ..fields import Fields

MIN_MEMORY = 6 << 20
RUNTIME = "pynet"
RESTART_NAMES = ("no", "on-failure", "always", "unless-stopped")
ALL_CAPABILITIES = (
    *DEFAULT_CAPABILITIES, "DAC_READ_SEARCH", "LINUX_IMMUTABLE", "NET_BROADCAST", "NET_ADMIN", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME",
    "SYS_TTY_CONFIG", "LEASE", "AUDIT_CONTROL", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND",
    "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
"""capabilities(7), all 41."""

_SYSCTL_NAMESPACED = re.compile(
    r"(net\..+|fs\.mqueue\..+|kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced|domainname))\Z"
)


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


def _capability(text: str) -> str:
    name = text.upper().removeprefix("CAP_")
    if name != "ALL" and name not in ALL_CAPABILITIES:
        raise InvalidArgument(f'invalid capability: "{text}"', hint="capabilities(7) lists them; ALL means all")
    return name


def capabilities(add: list[str], drop: list[str], privileged: bool = False) -> list[str]:
    """The container's set, in the order of ALL_CAPABILITIES (moby, oci/caps TweakCapabilities)."""
    if privileged:
        return list(ALL_CAPABILITIES)
    added, dropped = {_capability(text) for text in add}, {_capability(text) for text in drop}
    base = set(ALL_CAPABILITIES if "ALL" in added else DEFAULT_CAPABILITIES)
    if "ALL" in dropped:
        base = set()
    if "ALL" in added and "ALL" not in dropped:
        chosen = base - dropped
    else:
        chosen = (base - dropped) | (added - {"ALL"})
    return [name for name in ALL_CAPABILITIES if name in chosen]


def security(options: list[str]) -> tuple[bool, str, list[str]]:
    """``SecurityOpt`` to (no_new_privileges, seccomp, warnings)."""
    no_new_privileges, seccomp, warnings = False, "default", list[str]()
    for option in options:
        key, separator, value = option.partition("=")
        if not separator:
            key, separator, value = option.partition(":")
        if key == "no-new-privileges":
            if value not in ("", "true", "false"):
                raise InvalidArgument(
                    f'invalid --security-opt 2: "{option}"',
                    hint="no-new-privileges, seccomp=unconfined and seccomp=builtin are known",
                )
            no_new_privileges = value != "false"
        elif key == "seccomp":
            if value not in ("unconfined", "builtin", "default"):
                raise InvalidArgument(
                    "custom seccomp profiles are not supported; use unconfined or builtin",
                    hint="seccomp=unconfined and seccomp=builtin are known",
                )
            seccomp = "unconfined" if value == "unconfined" else "default"
        elif key in ("apparmor", "label", "systempaths", "writable-cgroups"):
            if key == "systempaths" and value == "unconfined":
                raise InvalidArgument("systempaths=unconfined is not supported; use --privileged")
            warnings.append(f"security option {option} has no effect: {key} is not used by this engine")
        else:
            raise InvalidArgument(
                f'invalid --security-opt 2: "{option}"',
                hint="no-new-privileges, seccomp=unconfined and seccomp=builtin are known",
            )
    return no_new_privileges, seccomp, warnings


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
        if not host or not separator:
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


def _limits(host: Fields) -> dict[str, Any]:
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
    pids = host.integer("PidsLimit")
    return {
        "Memory": memory, "MemorySwap": swap, "MemoryReservation": host.integer("MemoryReservation"),
        "MemorySwappiness": host.body.get("MemorySwappiness"), "NanoCpus": nano, "CpuShares": host.integer("CpuShares"),
        "CpuPeriod": period, "CpuQuota": quota, "CpusetCpus": cpuset, "CpusetMems": host.text("CpusetMems"),
        "PidsLimit": pids if pids > 0 else None,
    }  # fmt: skip


def _ulimits(host: Fields) -> list[dict[str, Any]]:
    limits: list[dict[str, Any]] = []
    for limit in host.objects("Ulimits"):
        name, soft, hard = limit.text("Name"), limit.integer("Soft"), limit.integer("Hard")
        if not re.fullmatch(r"[a-z]+", name):
            raise InvalidArgument(f"invalid ulimit type: {name}")
        if hard != -1 and (soft > hard or soft == -1):
            raise InvalidArgument(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
        limits.append({"Name": name, "Hard": hard, "Soft": soft})
    return limits


def _devices(host: Fields) -> list[dict[str, str]]:
    devices: list[dict[str, str]] = []
    for device in host.objects("Devices"):
        path, target = device.text("PathOnHost"), device.text("PathInContainer")
        rights = device.text("CgroupPermissions") or "rwm"
        if not (path.startswith("/") and (target or path).startswith("/")):
            raise InvalidArgument(f"invalid device {path!r}: paths are absolute", hint="`ls -l /dev` shows the devices")
        if not set(rights) <= set("rwm"):
            raise InvalidArgument(f"invalid device mode: {rights}", hint="some of r, w and m (mknod)")
        devices.append({"PathOnHost": path, "PathInContainer": target, "CgroupPermissions": rights})
    return devices


def network_mode(host: Fields) -> str:
    """ "default", "bridge", "host", "none", "container:REF" or a network's name or id."""
    mode = host.text("NetworkMode") or "default"
    if mode == "container:":
        raise InvalidArgument("invalid container format container:<name|id>")
    return "bridge" if mode == "default" else mode


def complete_host_config(body: Any) -> tuple[dict[str, Any], list[str]]:
    """The full ``HostConfig`` and the warnings that go with it."""
    host = Fields(body, "HostConfig.")
    auto_remove, privileged = host.boolean("AutoRemove"), host.boolean("Privileged")
    log = host.object("LogConfig")
    log_type = log.text("Type") or "json-file"
    if log_type not in ("json-file", "none"):
        raise InvalidArgument(
            f"logger: no log driver named '{log_type}' is registered", hint="json-file and none are known"
        )
    runtime = host.text("Runtime") or RUNTIME
    if runtime not in (RUNTIME, "runc"):  # runc: what Docker's clients name when they mean the usual one
        raise InvalidArgument(f"unknown or invalid runtime name: {runtime}", hint="leave --runtime out")
    _, _, warnings = security(host.strings("SecurityOpt"))
    capabilities(host.strings("CapAdd"), host.strings("CapDrop"))
    sysctls = host.string_map("Sysctls")
    mode = network_mode(host)
    for key in sysctls:
        if not _SYSCTL_NAMESPACED.match(key):
            raise InvalidArgument(
                f"sysctl '{key}' is not in a separate kernel namespace",
                hint="set it for the whole host, with sysctl(8)",
            )
        if key.startswith("net.") and mode == "host":
            raise InvalidArgument(
                f"sysctl '{key}' not allowed in host network namespace",
                hint="set it for the whole host, with sysctl(8)",
            )
    if host.object("DeviceRequests").body:
        raise InvalidArgument("device requests are not supported")
    oom = host.integer("OomScoreAdj")
    if not -1000 <= oom <= 1000:
        raise InvalidArgument(f"Invalid value {oom}, range for oom score adj is [-1000, 1000]")
    shm = host.integer("ShmSize")
    if shm < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    config: dict[str, Any] = {
        "Binds": host.strings("Binds") or None,
        "ContainerIDFile": host.text("ContainerIDFile"),
        "LogConfig": {"Type": log_type, "Config": log.string_map("Config")},
        "NetworkMode": mode,
        "PortBindings": dict(host.object("PortBindings").body),
        "RestartPolicy": restart_policy(host.object("RestartPolicy"), auto_remove),
        "AutoRemove": auto_remove,
        "VolumeDriver": host.text("VolumeDriver"),
        "VolumesFrom": host.strings("VolumesFrom") or None,
        "ConsoleSize": [0, 0],
        "CapAdd": host.strings("CapAdd") or None,
        "CapDrop": host.strings("CapDrop") or None,
        "CgroupnsMode": host.text("CgroupnsMode") or "private",
        "Dns": _addresses("DNS address", host.strings("Dns")),
        "DnsOptions": host.strings("DnsOptions"),
        "DnsSearch": host.strings("DnsSearch"),
        "ExtraHosts": _extra_hosts(host.strings("ExtraHosts")) or None,
        "GroupAdd": host.strings("GroupAdd") or None,
        "IpcMode": _namespace(host, "IpcMode", ("", "private", "none", "shareable")) or "private",
        "Cgroup": "",
        "Links": host.strings("Links") or None,
        "OomScoreAdj": oom,
        "PidMode": _namespace(host, "PidMode", ("", "private")),
        "Privileged": privileged,
        "PublishAllPorts": host.boolean("PublishAllPorts"),
        "ReadonlyRootfs": host.boolean("ReadonlyRootfs"),
        "SecurityOpt": host.strings("SecurityOpt") or None,
        "UTSMode": _namespace(host, "UTSMode", ("",)),
        "UsernsMode": _namespace(host, "UsernsMode", ("", "host")),
        "ShmSize": shm or 64 << 20,
        "Runtime": RUNTIME,
        "Isolation": "",
        "CgroupParent": "",
        "BlkioWeight": 0,
        "Devices": _devices(host),
        "DeviceCgroupRules": host.strings("DeviceCgroupRules") or None,
        "DeviceRequests": None,
        "OomKillDisable": False,
        "Ulimits": _ulimits(host),
        **_limits(host),
    }  # fmt: skip
    if config["VolumesFrom"]:
        raise InvalidArgument("volumes-from is not supported; name the volumes with -v")
    if config["Links"]:
        raise InvalidArgument("links are not supported; put both containers on a network of their own")
    if config["CgroupnsMode"] not in ("private", "host"):
        raise InvalidArgument(f"invalid CgroupnsMode: {config['CgroupnsMode']}")
    for mount in ("Mounts", "Tmpfs", "Sysctls"):
        if host.body.get(mount):
            config[mount] = host.body[mount]
    if host.body.get("Init") is not None:
        config["Init"] = host.boolean("Init")
    config |= {"MaskedPaths": None, "ReadonlyPaths": None}
    return config, warnings


def resource_update(body: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of an update request that are given (non-zero, as Docker reads them) and checked."""
    given = {key: value for key, value in _limits(Fields(body)).items() if value}
    policy = Fields(body).object("RestartPolicy")
    if policy.text("Name"):
        given["RestartPolicy"] = restart_policy(policy)
    return given


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
