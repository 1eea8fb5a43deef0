"""/version, /info and /system/df: what this engine and its machine are.  Reads, decides nothing."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..netlib.version import __version__
from .api.call import API_VERSION, MIN_API_VERSION, version_text

if TYPE_CHECKING:
    from .service import Engine

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


def architecture() -> str:
    """The machine's name as OCI writes it."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


def version() -> dict[str, Any]:
    kernel = os.uname().release
    api, minimum = version_text(API_VERSION), version_text(MIN_API_VERSION)
    python = platform.python_version()
    details = {
        "ApiVersion": api,
        "Arch": architecture(),
        "KernelVersion": kernel,
        "MinAPIVersion": minimum,
        "Os": "linux",
        "GoVersion": f"none (Python {python})",
        "GitCommit": "",
        "BuildTime": "",
        "Experimental": "false",
    }
    return {
        "Platform": {"Name": "pynet"},
        "Components": [{"Name": "Engine", "Version": __version__, "Details": details}],
        "Version": __version__,
        "ApiVersion": api,
        "MinAPIVersion": minimum,
        "GitCommit": "",
        "GoVersion": f"none (Python {python})",
        "Os": "linux",
        "Arch": architecture(),
        "KernelVersion": kernel,
        "BuildTime": "",
    }


def memory_total() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def operating_system() -> str:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            lines = Path(path).read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith("PRETTY_NAME="):
                return line.partition("=")[2].strip("\"'")
    return "Linux"


def _switch(path: str) -> bool:
    try:
        return Path(path).read_text().strip() == "1"
    except OSError:
        return False


def cgroup_version() -> str:
    return "2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "1"


def info(engine: Engine) -> dict[str, Any]:
    status = engine.containers.count_by_status()
    root = engine.instance.root
    return {
        "ID": hashlib.sha256(os.fsencode(root)).hexdigest()[:36],
        "Containers": sum(status.values()),
        "ContainersRunning": status.get("running", 0) + status.get("restarting", 0),
        "ContainersPaused": status.get("paused", 0),
        "ContainersStopped": status.get("created", 0) + status.get("exited", 0) + status.get("dead", 0),
        "Images": engine.images.count(),
        "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", "overlayfs"]],
        "Plugins": {
            "Volume": ["local"],
            "Network": engine.networks.drivers(),
            "Authorization": None,
            "Log": ["json-file", "none"],
        },
        "MemoryLimit": True,
        "SwapLimit": True,
        "CpuCfsPeriod": True,
        "CpuCfsQuota": True,
        "CPUShares": True,
        "CPUSet": True,
        "PidsLimit": True,
        "IPv4Forwarding": _switch("/proc/sys/net/ipv4/ip_forward"),
        "Debug": False,
        "NFd": len(os.listdir("/proc/self/fd")),
        "OomKillDisable": False,
        "NGoroutines": engine.threads(),
        "SystemTime": time.strftime("%Y-%m-%dT%H:%M:%S.000000000Z", time.gmtime()),
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": cgroup_version(),
        "NEventsListener": 0,
        "KernelVersion": os.uname().release,
        "OperatingSystem": operating_system(),
        "OSVersion": "",
        "OSType": "linux",
        "Architecture": os.uname().machine,
        "IndexServerAddress": "",
        "RegistryConfig": {"IndexConfigs": {}, "InsecureRegistryCIDRs": [], "Mirrors": []},
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": memory_total(),
        "GenericResources": None,
        "DockerRootDir": str(root),
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": os.uname().nodename,
        "Labels": [],
        "ExperimentalBuild": False,
        "ServerVersion": __version__,
        "Runtimes": {"pynet": {"path": sys.executable}},
        "DefaultRuntime": "pynet",
        "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False, "Error": "",
                  "RemoteManagers": None},
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": "",
        "ContainerdCommit": {"ID": ""},
        "RuncCommit": {"ID": ""},
        "InitCommit": {"ID": ""},
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "FirewallBackend": {"Driver": engine.networks.firewall()},
        "CDISpecDirs": [],
        "Warnings": engine.warnings,
    }  # fmt: skip


def disk_usage(engine: Engine, types: set[str]) -> dict[str, Any]:
    """/system/df of API 1.51 and before; ``types`` empty means all."""
    images = engine.images.summaries(all=True) if not types or "image" in types else None
    result: dict[str, Any] = {"LayersSize": sum(image["Size"] for image in images or ()), "BuildCache": []}
    if images is not None:
        result["Images"] = images
    if not types or "container" in types:
        result["Containers"] = engine.containers.summaries(all=True, size=True)
    if not types or "volume" in types:
        result["Volumes"] = engine.volumes.usage()
    return result
