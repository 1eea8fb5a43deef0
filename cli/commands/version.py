"""``pynet version``: the client, and the engine when it answers."""

from __future__ import annotations

import os
import sys

from ...netlib.version import __version__
from ..client import API_VERSION, Client
from ..output import add_format, show_object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..parser import Arguments, Parser, Run


def version(parser: Parser) -> Run:
    add_format(parser, "-f")
    parser.flag("--client", help="do not ask the engine")
    return run


def run(args: Arguments) -> int:
    system = os.uname()
    client: dict[str, Any] = {
        "Version": __version__,
        "ApiVersion": API_VERSION,
        "PythonVersion": ".".join(map(str, sys.version_info[:3])),
        "Os": system.sysname.lower(),
        "Arch": system.machine,
    }
    server: dict[str, Any] | None = None if args.client else Client(args.settings).get("/version")
    if show_object(args, {"Client": client, "Server": server}):
        return 0
    print(f"Client:\n Version:      {client['Version']}\n API version:  {client['ApiVersion']}")
    print(f" Python:       {client['PythonVersion']}\n OS/Arch:      {client['Os']}/{client['Arch']}")
    if server:
        print(f"\nServer:\n Version:      {server.get('Version', '')}")
        print(f" API version:  {server.get('ApiVersion', '')} (minimum {server.get('MinAPIVersion', '')})")
        print(f" OS/Arch:      {server.get('Os', '')}/{server.get('Arch', '')}")
        print(f" Kernel:       {server.get('KernelVersion', '')}")
    return 0
