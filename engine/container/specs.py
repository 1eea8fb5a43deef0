"""From a container's record to the supervisor's ContainerSpec.  Pure.

Every path that the spec names was made by the caller before; this module only arranges values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...runtime.spec import ContainerSpec, Limits, Mount
from .config import command_line, parse_signal
from .record import Container

SIGTERM = 15


def limits(host: Mapping[str, Any]) -> Limits:
    nano = host["NanoCpus"]
    if not nano and host["CpuQuota"] > 0:
        nano = host["CpuQuota"] * 1_000_000_000 // (host["CpuPeriod"] or 100_000)
    return {
        "memory": host["Memory"],
        "memory_swap": host["MemorySwap"],
        "nano_cpus": nano,
        "cpu_shares": host["CpuShares"],
        "cpuset_cpus": host["CpusetCpus"],
        "pids": host["PidsLimit"] or 0,
    }


def _mount(source: str, target: str, *, readonly: bool = False, propagation: str = "", recursive: bool = True) -> Mount:
    return {
        "type": "bind",
        "source": source,
        "target": target,
        "readonly": readonly,
        "recursive": recursive,
        "propagation": propagation,
        "options": "",
    }


def mounts(container: Container, files: Mapping[str, str], volume_path: Callable[[str], str]) -> list[Mount]:
    """Every mount: the engine's own *files* (target to host path) first, so that the user's may cover them."""
    result = [_mount(source, target) for target, source in files.items()]
    for point in container.mounts:
        if point.kind == "tmpfs":
            mount = _mount("", point.target, readonly=point.readonly)
            mount["type"], mount["options"] = "tmpfs", point.options
            result.append(mount)
        else:
            source = volume_path(point.name) if point.kind == "volume" else point.source
            more = {"readonly": point.readonly, "recursive": point.recursive}
            result.append(_mount(source, point.target, propagation=point.propagation, **more))
    return result


def keeps_output(config: Mapping[str, Any], host: Mapping[str, Any]) -> bool:
    """Whether the output is written down.  Attach reads it there, so a container that is attached to needs it anyhow."""
    return host["LogConfig"]["Type"] != "none" or bool(config["AttachStdout"] or config["AttachStderr"])


def sysctls(container: Container) -> dict[str, str]:
    """The user's; and the kernel's domain name, which Docker sets as one, too."""
    domain = container.config["Domainname"]
    return {**({"kernel.domainname": domain} if domain else {}), **(container.host_config.get("Sysctls") or {})}


def build_spec(
    container: Container,
    *,
    netns: str,
    cgroup_parent: str,
    log: str,
    files: Mapping[str, str],
    volume_path: Callable[[str], str],
) -> ContainerSpec:
    config, host = container.config, container.host_config
    confinement = container.confinement
    policy = host["RestartPolicy"]
    timeout = config.get("StopTimeout")
    return {
        "id": container.id,
        "name": container.name,
        "args": command_line(config),
        "env": [item for item in config["Env"] if "=" in item],
        "cwd": config["WorkingDir"] or "/",
        "user": config["User"],
        "groups": list(host["GroupAdd"] or ()),
        "hostname": config["Hostname"],
        "rootfs": {
            "lower": container.rootfs["lower"],
            "upper": container.rootfs["upper"],
            "work": container.rootfs["work"],
            "readonly": host["ReadonlyRootfs"],
        },
        "mounts": mounts(container, files, volume_path),
        "netns": netns,
        "limits": limits(host),
        "cgroup": f"{cgroup_parent}/{container.id}",
        "capabilities": confinement.capabilities,
        "privileged": host["Privileged"],
        "no_new_privileges": confinement.no_new_privileges,
        "seccomp": confinement.seccomp,
        "masked_paths": confinement.masked_paths,
        "readonly_paths": confinement.readonly_paths,
        "devices": [
            {"source": d["PathOnHost"], "target": d["PathInContainer"], "access": d["CgroupPermissions"]}
            for d in host["Devices"]
        ],
        "sysctls": sysctls(container),
        "rlimits": [(u["Name"].upper(), u["Soft"], u["Hard"]) for u in host["Ulimits"]],
        "oom_score_adj": host["OomScoreAdj"],
        "tty": config["Tty"],
        "open_stdin": config["OpenStdin"],
        "stdin_once": config["StdinOnce"],
        "init": bool(host.get("Init")),
        "shm_size": host["ShmSize"],
        "stop_signal": parse_signal(config["StopSignal"]) if config.get("StopSignal") else SIGTERM,
        "stop_timeout": 10 if timeout is None else timeout,
        "restart": {"name": policy["Name"], "max": policy["MaximumRetryCount"]},
        "log": log if keeps_output(config, host) else "",
        "hold": True,
    }
