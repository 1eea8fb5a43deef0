"""``pynet info``: the engine, its host, and where both keep things."""

from __future__ import annotations

from ...netlib.version import __version__
from ..client import Client
from ..format import size
from ..output import add_format, show_object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..parser import Arguments, Parser, Run

ROWS = [
    *(("Containers", "Containers"), (" Running", "ContainersRunning"), (" Paused", "ContainersPaused")),
    *((" Stopped", "ContainersStopped"), ("Images", "Images"), ("Server Version", "ServerVersion")),
    *(("Storage Driver", "Driver"), ("Cgroup Driver", "CgroupDriver"), ("Cgroup Version", "CgroupVersion")),
    *(("Kernel Version", "KernelVersion"), ("Operating System", "OperatingSystem"), ("OSType", "OSType")),
    *(("Architecture", "Architecture"), ("CPUs", "NCPU"), ("Name", "Name"), ("ID", "ID")),
    ("Root Dir", "DockerRootDir"),
]


def info(parser: Parser) -> Run:
    add_format(parser, "-f")
    return run


def run(args: Arguments) -> int:
    info: dict[str, Any] = Client(args.settings).get("/info")
    if show_object(args, info):
        return 0
    print(f"Client:\n Version: {__version__}\n Engine:  {args.settings.shown}\n\nServer:")
    for title, key in ROWS:
        if info.get(key) not in (None, ""):
            print(f" {title}: {info[key]}")
    if info.get("MemTotal"):
        print(f" Total Memory: {size(info['MemTotal'], binary=True, digits=4)}")
    drivers = (info.get("Plugins") or {}).get("Network") or []
    print(f" Network drivers: {' '.join(drivers)}")
    if info.get("FirewallBackend"):
        print(f" Firewall Backend: {info['FirewallBackend'].get('Driver', '')}")
    for warning in info.get("Warnings") or ():
        print(warning)
    return 0
