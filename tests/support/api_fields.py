"""The Engine API's own fields, as version 1.51 has them: moby's Go structures, read by hand, file by file.

Embedded structures are written out; deprecated fields that the daemon still decodes are there as well.
"""

from __future__ import annotations

from pynet.engine.options import documented

RESOURCES = (
    "CpuShares Memory NanoCpus CgroupParent BlkioWeight BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps "
    "BlkioDeviceReadIOps BlkioDeviceWriteIOps CpuPeriod CpuQuota CpuRealtimePeriod CpuRealtimeRuntime CpusetCpus CpusetMems "
    "Devices DeviceCgroupRules DeviceRequests KernelMemory KernelMemoryTCP MemoryReservation MemorySwap MemorySwappiness "
    "OomKillDisable PidsLimit Ulimits CpuCount CpuPercent IOMaximumIOps IOMaximumBandwidth"
)
"""api/types/container/hostconfig.go, Resources."""

RATES = (
    "com.docker.network.endpoint.rate_in com.docker.network.endpoint.rate_out com.docker.network.endpoint.burst "
    "rate_in rate_out burst"
)

FIELDS: dict[str, str] = {
    # api/types/container/config.go, and CreateRequest of create_request.go around it
    "Config": (
        "Hostname Domainname User AttachStdin AttachStdout AttachStderr ExposedPorts Tty OpenStdin StdinOnce Env Cmd "
        "Healthcheck ArgsEscaped Image Volumes WorkingDir Entrypoint NetworkDisabled MacAddress OnBuild Labels StopSignal "
        "StopTimeout Shell HostConfig NetworkingConfig"
    ),
    # the OCI image specification's HealthcheckConfig, which moby uses
    "Healthcheck": "Test Interval Timeout StartPeriod StartInterval Retries",
    # api/types/container/hostconfig.go
    "HostConfig": (
        "Binds ContainerIDFile LogConfig NetworkMode PortBindings RestartPolicy AutoRemove VolumeDriver VolumesFrom "
        "ConsoleSize Annotations CapAdd CapDrop CgroupnsMode Dns DnsOptions DnsSearch ExtraHosts GroupAdd IpcMode Cgroup "
        "Links OomScoreAdj PidMode Privileged PublishAllPorts ReadonlyRootfs SecurityOpt StorageOpt Tmpfs UTSMode UsernsMode "
        f"ShmSize Sysctls Runtime Isolation Mounts MaskedPaths ReadonlyPaths Init {RESOURCES}"
    ),
    "LogConfig": "Type Config",
    # daemon/logger/jsonfilelog/jsonfilelog.go, ValidateLogOpt; daemon/logger/factory.go
    "LogConfig.Config": "max-file max-size compress labels labels-regex env env-regex tag mode max-buffer-size",
    "RestartPolicy": "Name MaximumRetryCount",
    "Devices": "PathOnHost PathInContainer CgroupPermissions",
    # docker/go-units, Ulimit
    "Ulimits": "Name Hard Soft",
    # api/types/mount/mount.go
    "Mounts": (
        "Type Source Target ReadOnly Consistency BindOptions VolumeOptions ImageOptions TmpfsOptions ClusterOptions"
    ),
    "BindOptions": "Propagation NonRecursive CreateMountpoint ReadOnlyNonRecursive ReadOnlyForceRecursive",
    "VolumeOptions": "NoCopy Labels Subpath DriverConfig",
    "DriverConfig": "Name Options",
    "TmpfsOptions": "SizeBytes Mode Options",
    # api/types/network/network.go and endpoint.go
    "NetworkingConfig": "EndpointsConfig",
    "EndpointSettings": (
        "IPAMConfig Links Aliases MacAddress DriverOpts GwPriority NetworkID EndpointID Gateway IPAddress IPPrefixLen "
        "IPv6Gateway GlobalIPv6Address GlobalIPv6PrefixLen DNSNames"
    ),
    "EndpointIPAMConfig": "IPv4Address IPv6Address LinkLocalIPs",
    # ifname and sysctls are moby's; the rest is pynet's own (docs/traffic.md)
    "DriverOpts": f"com.docker.network.endpoint.ifname com.docker.network.endpoint.sysctls {RATES}",
    "Rates": RATES,
    "Limit": "Container DriverOpts",
    # api/types/container/hostconfig.go, UpdateConfig; Init is in the API's description of it (api/swagger.yaml, Resources)
    "Update": f"{RESOURCES} RestartPolicy Init",
    # ours: docs/live.md
    "Ports": "PortBindings",
    # api/types/container/exec.go; Detach was in ExecConfig until 1.41
    "Exec": (
        "User Privileged Tty ConsoleSize AttachStdin AttachStderr AttachStdout DetachKeys Env WorkingDir Cmd Detach"
    ),
    "ExecStart": "Detach Tty ConsoleSize",
    # api/types/network/create_options.go, CreateRequest; ipam.go
    "Network": (
        "Name CheckDuplicate Driver Scope EnableIPv4 EnableIPv6 IPAM Internal Attachable Ingress ConfigOnly ConfigFrom "
        "Options Labels"
    ),
    "ConfigFrom": "Network",
    "IPAM": "Driver Options Config",
    "IPAMConfig": "Subnet IPRange Gateway AuxiliaryAddresses",
    "Connect": "Container EndpointConfig",
    "Disconnect": "Container Force",
    "Volume": "Name Driver DriverOpts Labels ClusterVolumeSpec",
}


def markdown() -> str:
    """The tables as docs/engine-api.md shows them: fields that are simply honoured on a line, the others a row each."""
    lines: list[str] = []
    for table, rules in documented().items():
        plain = [f"`{name}`" for name, word in rules.items() if word == "honoured"]
        lines += [f"**{table}**" + (f": honoured {', '.join(plain)}." if plain else ""), ""]
        others = [(name, word) for name, word in rules.items() if word != "honoured"]
        if others:
            lines += [
                "| | |",
                "|---|---|",
                *(f"| `{name}` | {word.replace('|', '&#124;')} |" for name, word in others),
                "",
            ]
    return "\n".join(lines)
