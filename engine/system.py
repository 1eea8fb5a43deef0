"""/version, /info and /system/df: what this engine and its machine are.  Reads, decides nothing."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import threading
import time
from typing import Any

from ..netlib.errors import PynetError
from ..netlib.store.sqlite import StoreLost
from ..netlib.version import __version__
from ..runtime.images.architecture import host_architecture
from .container.registry import Registry
from .container.view import View
from .core import Core
from .images import Images
from .machine import cgroup_version, memory_total, operating_system, switch
from .networks import Networks
from .versions import API_VERSION, MIN_API_VERSION, version_text
from .volumes import Volumes


def version() -> dict[str, Any]:
    kernel = os.uname().release
    api, minimum = version_text(API_VERSION), version_text(MIN_API_VERSION)
    python = platform.python_version()
    details = {
        "ApiVersion": api,
        "Arch": host_architecture(),
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
        "Arch": host_architecture(),
        "KernelVersion": kernel,
        "BuildTime": "",
    }


class System:
    def __init__(
        self, core: Core, registry: Registry, *, view: View, images: Images, networks: Networks, volumes: Volumes
    ) -> None:
        self._core = core
        self._registry = registry
        self._view = view
        self._images = images
        self._networks = networks
        self._volumes = volumes

    def _of_the_host(self) -> list[str]:
        """What stands in the way of networks and ports here; what can not be found out is said as well."""
        try:
            return self._core.controller.warnings()
        except (PynetError, OSError) as error:
            return [f"the host's settings can not be looked at: {error}"]

    def _of_the_store(self) -> list[str]:
        """That nothing can be changed any more must not first be learnt from the next change."""
        try:
            self._core.store.check_there()
        except StoreLost as error:
            return [f"nothing can be changed: {error}; {error.hint}"]
        return []

    def info(self) -> dict[str, Any]:
        status = self._registry.count_by_status()
        root = self._core.instance.root
        return {
            "ID": hashlib.sha256(os.fsencode(root)).hexdigest()[:36],
            "Containers": sum(status.values()),
            "ContainersRunning": status.get("running", 0) + status.get("restarting", 0),
            "ContainersPaused": status.get("paused", 0),
            "ContainersStopped": status.get("created", 0) + status.get("exited", 0) + status.get("dead", 0),
            "Images": self._images.count(),
            "Driver": "overlay2",
            "DriverStatus": [["Backing Filesystem", "overlayfs"]],
            "Plugins": {
                "Volume": ["local"],
                "Network": self._networks.drivers(),
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
            "IPv4Forwarding": switch("/proc/sys/net/ipv4/ip_forward"),
            "Debug": False,
            "NFd": len(os.listdir("/proc/self/fd")),
            "OomKillDisable": False,
            "NGoroutines": threading.active_count(),
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
            "FirewallBackend": {"Driver": self._networks.firewall()},
            **self._pools(),
            "CDISpecDirs": [],
            "Warnings": [*self._of_the_store(), *self._core.warnings, *self._of_the_host()],
        }  # fmt: skip

    def _pools(self) -> dict[str, Any]:
        """Those that the engine was started with, if any."""
        pools = self._core.controller.default_pools
        return {"DefaultAddressPools": [{"Base": base, "Size": size} for base, size in pools]} if pools else {}

    def disk_usage(self, types: set[str]) -> dict[str, Any]:
        """/system/df of API 1.51 and before; ``types`` empty means all."""
        images = self._images.summaries(all=True) if not types or "image" in types else None
        result: dict[str, Any] = {"LayersSize": sum(image["Size"] for image in images or ()), "BuildCache": []}
        if images is not None:
            result["Images"] = images
        if not types or "container" in types:
            result["Containers"] = self._view.summaries(all=True, size=True)
        if not types or "volume" in types:
            result["Volumes"] = self._volumes.usage()
        return result
