"""Making a container: what ``run`` and ``create`` have in common."""

from __future__ import annotations

import os
import sys

from ..netlib.errors import PynetError
from .client import Client, DaemonError
from .failure import CANNOT
from .options import container_config, gather
from .units import BadOption

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from .parser import Arguments

NOT_EXECUTABLE, NOT_FOUND = 126, 127


def create(client: Client, args: Arguments, meanwhile: Callable[[], object] = lambda: None) -> str:
    """POST /containers/create; prints warnings and writes --cidfile; returns the id.  *meanwhile*: see Client.request."""
    body = container_config(gather(args))
    if args.tty:
        try:
            size = os.get_terminal_size(1)
            body["HostConfig"]["ConsoleSize"] = [size.lines, size.columns]
        except OSError:
            pass
    cidfile = _open_cidfile(args.cidfile) if args.cidfile else None
    try:
        answer = client.post("/containers/create", {"name": args.name}, body, meanwhile=meanwhile)
    except BaseException:
        if cidfile:
            cidfile.close()
            os.unlink(args.cidfile)
        raise
    for warning in answer.get("Warnings") or ():
        print(f"WARNING: {warning}", file=sys.stderr)
    if cidfile:
        with cidfile:
            cidfile.write(answer["Id"])
    return str(answer["Id"])


def show_planned(client: Client, args: Arguments) -> int:
    """``--dry-run``: the same request, which makes nothing; prints the plan."""
    from .output import show_plan

    answer = client.post("/containers/create", {"name": args.name, "dry-run": True}, container_config(gather(args)))
    for warning in answer.get("Warnings") or ():
        print(f"WARNING: {warning}", file=sys.stderr)
    show_plan(args, answer["Plan"])
    return 0


def exit_code(error: PynetError) -> int:
    """What ``run`` exits with when the container could not be started (docker/cli, toStatusError)."""
    text = str(error)
    if not isinstance(error, DaemonError):
        return CANNOT
    if "executable file not found" in text or "no such file or directory" in text:
        return NOT_FOUND
    if "permission denied" in text or "is a directory" in text:
        return NOT_EXECUTABLE
    return CANNOT


def _open_cidfile(path: str) -> TextIO:
    try:
        return open(path, "x", encoding="utf-8")
    except FileExistsError:
        raise BadOption(
            f"container ID file found: {path}", hint="make sure the other container is not running, or delete the file"
        ) from None
    except OSError as error:
        raise BadOption(f"cannot write the container ID file {path}: {error.strerror}", hint="choose another") from None
