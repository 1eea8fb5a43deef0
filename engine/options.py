"""Every field of the requests that make and change things, and what this engine does with it: one table an object.

    HONOURED     it means here what it means to Docker
    ANSWER       what the engine itself answers in this place (an address, an id); passed over in a request, as by Docker
    Warned       a preference that is not met, or something for another kind of host: told in the answer's ``Warnings``
    Refused      leaving it out would make the result less safe, or wrong: an error that says so
    Within       an object, a list of objects or (each) a map of them, with a table of its own

"*" stands for every other name in a map that users fill.

A field that says nothing (absent, null, false, 0, "", empty) is never warned about or refused, nor is one with a value in
``but``, which means the same as nothing.  A field that no table has is not the API's: it is warned about where there is an
answer to warn in, else refused, so that neither a slip of the pen nor a newer API's field is dropped in silence.

docs/engine-api.md shows these tables; a test compares both, and these with the API's own list of fields
(tests/support/api_fields.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..netlib import shaping
from ..netlib.errors import Forbidden, InvalidArgument, PynetError
from .fields import Fields


@dataclass(frozen=True)
class Honoured:
    note: str = ""


@dataclass(frozen=True)
class Answer:
    pass


@dataclass(frozen=True)
class Warned:
    text: str
    but: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Refused:
    text: str
    hint: str = ""
    but: tuple[Any, ...] = ()
    error: type[PynetError] = InvalidArgument


@dataclass(frozen=True)
class Within:
    table: str
    each: bool = False
    """A map of name to object."""


Rule = Honoured | Answer | Warned | Refused | Within
HONOURED: Final = Honoured()
ANSWER: Final = Answer()


def _no_effect(name: str, why: str, but: tuple[Any, ...] = ()) -> Warned:
    return Warned(f"{name} has no effect: {why}", but)


def _windows(name: str) -> Warned:
    return _no_effect(name, "it is for Windows containers")


def _all(*names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, HONOURED)


_IO = "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
_BPS = "Your kernel does not support BPS Block I/O {0} limit or the cgroup is not mounted. Block I/O BPS {0} limit discarded."
_IOPS = (
    "Your kernel does not support IOPS Block {0} limit in IO or the cgroup is not mounted. "
    "Block I/O IOPS {0} limit discarded."
)
_RESOURCES: dict[str, Rule] = {
    **_all("CpuShares", "Memory", "NanoCpus", "CpuPeriod", "CpuQuota", "CpusetCpus", "MemorySwap", "PidsLimit"),
    "CgroupParent": Refused("CgroupParent is not supported: containers are in the engine's own cgroup"),
    "BlkioWeight": Warned(_IO),
    "BlkioWeightDevice": Warned(_IO.replace("Weight", "Weight device").replace("weight", "weight_device")),
    "BlkioDeviceReadBps": Warned(_BPS.format("read")),
    "BlkioDeviceWriteBps": Warned(_BPS.format("write")),
    "BlkioDeviceReadIOps": Warned(_IOPS.format("read")),
    "BlkioDeviceWriteIOps": Warned(_IOPS.format("write")),
    "CpuRealtimePeriod": _no_effect("CpuRealtimePeriod", "CPU real-time scheduling is not limited"),
    "CpuRealtimeRuntime": _no_effect("CpuRealtimeRuntime", "CPU real-time scheduling is not limited"),
    "CpusetMems": _no_effect("CpusetMems", "memory nodes are not limited"),
    "KernelMemory": _no_effect("KernelMemory", "kernels since 5.4 have no such limit"),
    "KernelMemoryTCP": _no_effect("KernelMemoryTCP", "kernel memory is not limited"),
    "MemoryReservation": _no_effect("MemoryReservation", "soft limits of memory are not kept"),
    "MemorySwappiness": _no_effect("MemorySwappiness", "swapping is the host's to tune", (-1,)),
    "OomKillDisable": Warned("OomKillDisable has no effect: the kernel's OOM killer can not be disabled here"),
    "CpuCount": _windows("CpuCount"),
    "CpuPercent": _windows("CpuPercent"),
    "IOMaximumIOps": _windows("IOMaximumIOps"),
    "IOMaximumBandwidth": _windows("IOMaximumBandwidth"),
}
_DEVICES: dict[str, Rule] = {
    "Devices": Within("Devices"),
    "DeviceCgroupRules": Refused(
        "device cgroup rules are not supported", "name the devices themselves with --device, or use --privileged"
    ),
    "DeviceRequests": Refused('could not select device driver "" with capabilities: [[gpu]]', "devices can be given by path"),
    "Ulimits": Within("Ulimits"),
}  # fmt: skip
_LOG_OPTIONS = {
    "the log is one file, and not rotated": ("max-size", "max-file", "compress"),
    "the log has the output alone": ("labels", "labels-regex", "env", "env-regex", "tag"),
    "a container waits until its output is written": ("mode", "max-buffer-size"),
}
_AT_CREATE = "it is chosen when a container is created"

TABLES: dict[str, dict[str, Rule]] = {
    # -- container create ------------------------------------------------------------------------------------
    "Config": {
        **_all("Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr", "ExposedPorts", "Tty"),
        **_all("OpenStdin", "StdinOnce", "Env", "Cmd", "Image", "Volumes", "WorkingDir", "Entrypoint", "MacAddress"),
        **_all("Labels", "StopSignal", "StopTimeout"),
        "NetworkDisabled": Honoured("as the network mode none"),
        "OnBuild": Honoured("kept for inspect; builds alone use it"),
        "Shell": Honoured("kept for inspect; builds alone use it"),
        "Healthcheck": Within("Healthcheck"),
        "ArgsEscaped": _windows("ArgsEscaped"),
        "HostConfig": Within("HostConfig"),
        "NetworkingConfig": Within("NetworkingConfig"),
    },
    "Healthcheck": {
        "Test": Warned("Healthcheck has no effect: health checks are not run", (["NONE"],)),
        **_all("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"),
    },
    "HostConfig": {
        **_RESOURCES,
        **_DEVICES,
        **_all("Binds", "NetworkMode", "AutoRemove", "ConsoleSize", "Annotations", "CapAdd", "CapDrop", "Dns"),
        **_all("DnsOptions", "DnsSearch", "ExtraHosts", "GroupAdd", "OomScoreAdj", "Privileged", "PublishAllPorts"),
        **_all("ReadonlyRootfs", "SecurityOpt", "Tmpfs", "ShmSize", "Sysctls", "Runtime", "MaskedPaths"),
        **_all("ReadonlyPaths", "Init", "UsernsMode", "PidMode", "UTSMode"),
        "PortBindings": Honoured('with our own "ProxyProtocol": 1 or 2'),
        "ContainerIDFile": Honoured("kept for inspect; the client writes it"),
        "LogConfig": Within("LogConfig"),
        "RestartPolicy": Within("RestartPolicy"),
        "Mounts": Within("Mounts"),
        "IpcMode": Warned("IpcMode none has no effect: the container has a /dev/shm of its own", ("private", "shareable")),
        "CgroupnsMode": Refused(
            "CgroupnsMode host is not supported: a container has a cgroup namespace of its own", but=("private",)
        ),
        "Cgroup": Refused("Cgroup is not supported: a container has a cgroup of its own"),
        "VolumeDriver": Refused("volume drivers are not supported", "leave --volume-driver out", ("local",)),
        "VolumesFrom": Refused("volumes-from is not supported; name the volumes with -v"),
        "Links": Honoured(
            "as names in /etc/hosts and, on a default bridge with --icc=false, ways to exposed ports; no environment "
            "variables are set"
        ),
        "StorageOpt": Refused("--storage-opt is supported only for overlay over xfs with 'pquota' mount option"),
        "Isolation": Refused("isolation of Windows containers is not supported", but=("default",)),
    },
    "LogConfig": {"Type": HONOURED, "Config": Within("LogConfig.Config")},
    "LogConfig.Config": {
        **{name: _no_effect(f"log option {name}", why) for why, names in _LOG_OPTIONS.items() for name in names},
        "*": Refused("unknown log opt '{name}' for json-file log driver"),
    },
    "RestartPolicy": _all("Name", "MaximumRetryCount"),
    "Devices": _all("PathOnHost", "PathInContainer", "CgroupPermissions"),
    "Ulimits": _all("Name", "Soft", "Hard"),
    "Mounts": {
        **_all("Type", "Source", "Target", "ReadOnly"),
        "Consistency": Honoured("nothing to do on Linux"),
        "BindOptions": Within("BindOptions"),
        "VolumeOptions": Within("VolumeOptions"),
        "ImageOptions": Refused('invalid mount config for type "image": mount type unknown'),
        "TmpfsOptions": Within("TmpfsOptions"),
        "ClusterOptions": Refused('invalid mount config for type "cluster": mount type unknown'),
    },
    "BindOptions": {
        **_all("Propagation", "NonRecursive", "CreateMountpoint", "ReadOnlyForceRecursive"),
        "ReadOnlyNonRecursive": Refused(
            "mounts below a read-only bind are read-only as well", "leave bind-recursive=writable out"
        ),
    },
    "VolumeOptions": {
        "NoCopy": Honoured("a new volume never gets the image's content"),
        "Labels": HONOURED,
        "DriverConfig": Within("DriverConfig"),
        "Subpath": Refused("a subpath of a volume can not be mounted", "mount the whole volume"),
    },
    "DriverConfig": {
        "Name": Refused("volume drivers are not supported", "leave volume-driver out", ("local",)),
        "Options": Refused("the local volume driver takes no options here", "leave volume-opt out"),
    },
    "TmpfsOptions": _all("SizeBytes", "Mode", "Options"),
    "NetworkingConfig": {"EndpointsConfig": Within("EndpointSettings", each=True)},
    "EndpointSettings": {
        **_all("Aliases", "MacAddress", "GwPriority"),
        "IPAMConfig": Within("EndpointIPAMConfig"),
        "DriverOpts": Within("DriverOpts"),
        "Links": Honoured("as names in /etc/hosts"),
        **dict.fromkeys(
            ("NetworkID", "EndpointID", "Gateway", "IPAddress", "IPPrefixLen", "IPv6Gateway", "GlobalIPv6Address",
             "GlobalIPv6PrefixLen", "DNSNames"), ANSWER
        ),
    },
    "EndpointIPAMConfig": {
        **_all("IPv4Address", "IPv6Address", "LinkLocalIPs"),
    },
    "DriverOpts": {
        **_all("com.docker.network.endpoint.ifname", "com.docker.network.endpoint.sysctls"),
        **_all(*shaping.OPTIONS, *shaping.OPTIONS.values()),
        "*": Refused("unknown option of an endpoint: {name}"),
    },
    # -- container update ------------------------------------------------------------------------------------
    "Update": {
        **_RESOURCES,
        "RestartPolicy": Within("RestartPolicy"),
        **{name: _no_effect(name, _AT_CREATE) for name in ("Devices", "DeviceCgroupRules", "DeviceRequests", "Ulimits")},
        "Init": _no_effect("Init", _AT_CREATE),
    },
    # -- published ports of a container that is there (ours) -------------------------------------------------
    "Ports": {"PortBindings": Honoured('with our own "ProxyProtocol": 1 or 2')},
    # -- exec ------------------------------------------------------------------------------------------------
    "Exec": {
        **_all("User", "Privileged", "Tty", "ConsoleSize", "AttachStdin", "AttachStderr", "AttachStdout", "DetachKeys"),
        **_all("Env", "WorkingDir", "Cmd"),
        "Detach": Honoured("said again, and decided, at the start"),
    },
    "ExecStart": {"Detach": HONOURED, "ConsoleSize": HONOURED, "Tty": Honoured("decided at the create")},
    # -- networks --------------------------------------------------------------------------------------------
    "Network": {
        **_all("Name", "Driver", "Internal", "Attachable", "EnableIPv4", "EnableIPv6", "Options", "Labels"),
        "ConfigOnly": HONOURED,
        "CheckDuplicate": Honoured("names are always unique"),
        "Scope": Honoured("local; Swarm's are refused"),
        "Ingress": Refused("cannot create an ingress network when swarm is not active", error=Forbidden),
        "ConfigFrom": Within("ConfigFrom"),
        "IPAM": Within("IPAM"),
    },
    "ConfigFrom": _all("Network"),
    "IPAM": {
        **_all("Driver", "Options"),
        "Config": Within("IPAMConfig"),
    },
    "IPAMConfig": _all("Subnet", "IPRange", "Gateway", "AuxiliaryAddresses"),
    "Limit": {"Container": HONOURED, "DriverOpts": Within("Rates")},
    "Rates": {
        **_all(*shaping.OPTIONS, *shaping.OPTIONS.values()),
        "*": Refused("only rates can be changed while a container is connected, not {name}"),
    },
    "Connect": {"Container": HONOURED, "EndpointConfig": Within("EndpointSettings")},
    "Disconnect": {"Container": HONOURED, "Force": Honoured("an endpoint whose container nobody knows goes, too")},
    # -- volumes ---------------------------------------------------------------------------------------------
    "Volume": {
        "Name": HONOURED,
        "Labels": HONOURED,
        "Driver": Honoured("local; others are not found"),
        "DriverOpts": Honoured("the local driver takes none here"),
        "ClusterVolumeSpec": Refused("cluster volumes are not supported: this engine has no swarm mode"),
    },
}  # fmt: skip


def judge(fields: Fields, table: str, *, warn: bool = True) -> list[str]:
    """The warnings for a request's object; InvalidArgument for a field that is refused.

    Without *warn* there is nowhere to tell a warning: what would be warned about is refused then.
    """
    found: dict[str, None] = {}
    for text in _judged(fields, table):
        found[text] = None
    if found and not warn:
        raise InvalidArgument(next(iter(found)), hint="leave it out")
    return list(found)


def _judged(fields: Fields, table: str) -> Iterable[str]:
    rules = TABLES[table]
    for name, value in fields.body.items():
        if value is None or value is False or value in (0, "", [], {}):
            continue
        rule = rules.get(name) or rules.get("*")
        if rule is None:
            yield f"{fields.where}{name} has no effect: it is no field that this engine knows"
        elif isinstance(rule, Within):
            for inner in _objects(fields, name, each=rule.each):
                yield from _judged(inner, rule.table)
        elif isinstance(rule, Warned) and value not in rule.but:
            yield rule.text
        elif isinstance(rule, Refused) and value not in rule.but:
            raise rule.error(rule.text.replace("{name}", name), hint=rule.hint or "leave it out")


def _objects(fields: Fields, name: str, *, each: bool) -> list[Fields]:
    if isinstance(fields.body[name], list):
        return fields.objects(name)
    inner = fields.object(name)
    return [inner.object(key) for key in inner.body] if each else [inner]


def documented() -> Mapping[str, Mapping[str, str]]:
    """Table to field to a word and its reason, for docs/engine-api.md."""
    words: dict[type[Any], str] = {
        Honoured: "honoured",
        Answer: "the engine's answer",
        Warned: "warning",
        Refused: "refused",
    }
    shown: dict[str, dict[str, str]] = {}
    for table, rules in TABLES.items():
        shown[table] = {}
        for name, rule in rules.items():
            if isinstance(rule, Within):
                shown[table][name] = f"see {rule.table}"
                continue
            more = rule.note if isinstance(rule, Honoured) else rule.text if isinstance(rule, (Warned, Refused)) else ""
            shown[table][name] = words[type(rule)] + (f": {more}" if more else "")
    return shown
