"""What is changed on a link that is not ours stands here as it was found, so that it can be left so.

An adopted bridge is switched on, and gets kernel parameters that a network needs.  What they were is written to
``<run>/found/<name>`` before they are changed, and put back when the network goes.  The file is of one boot and one link: what
another boot or a bridge of the same name that was made since had is no concern of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..kernel import sysctl
from ..kernel.rtnl_links import LinkInfo
from ..tools import Tools

BOOT_ID = "/proc/sys/kernel/random/boot_id"
_LINKS = ("conf",)
"""Folders below /proc/sys/net/ipv? that have one folder a link."""


def link_of(path: tuple[str, ...]) -> str:
    """The link that a kernel parameter is of; "" for the host's own."""
    if len(path) == 5 and path[0] == "net" and path[2] in _LINKS and path[3] not in ("all", "default"):
        return path[3]
    return ""


def remember(tools: Tools, link: LinkInfo, parameters: tuple[tuple[str, ...], ...] = ()) -> None:
    """Write down whether *link* is up, and these parameters of it, unless they stand there; before they are changed."""
    noted = _read(tools, link)
    before = json.dumps(noted)
    noted.setdefault("up", link.up)
    for name, value in tools.at_home(_values, parameters).items():
        noted["sysctls"].setdefault(name, value)
    if json.dumps(noted) == before:
        return
    path = _path(tools, link.name)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    new = path.with_name(f"{path.name}~")
    new.write_text(json.dumps(noted))
    new.rename(path)


def leave_as_found(tools: Tools, link: LinkInfo) -> None:
    """Put back what was remembered; nothing happens when nothing was."""
    noted = _read(tools, link)
    tools.at_home(_put_back, noted["sysctls"])
    if noted.get("up") is False:
        tools.rtnl.set_link(link.index, up=False)
    forget(tools, link.name)


def forget(tools: Tools, name: str) -> None:
    _path(tools, name).unlink(missing_ok=True)


def _path(tools: Tools, name: str) -> Path:
    return tools.instance.run / "found" / name


def _read(tools: Tools, link: LinkInfo) -> dict[str, Any]:
    with open(BOOT_ID, encoding="ascii") as file:
        fresh: dict[str, Any] = {"boot": file.read().strip(), "index": link.index, "sysctls": {}}
    try:
        noted: dict[str, Any] = json.loads(_path(tools, link.name).read_text())
    except (FileNotFoundError, ValueError):
        return fresh
    return noted if (noted.get("boot"), noted.get("index")) == (fresh["boot"], fresh["index"]) else fresh


def _values(parameters: tuple[tuple[str, ...], ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in parameters:
        try:
            found["/".join(path)] = sysctl.read(path)
        except FileNotFoundError:
            continue  # a kernel without this family
    return found


def _put_back(values: Mapping[str, str]) -> None:
    for name, value in reversed(list(values.items())):
        try:
            sysctl.ensure(tuple(name.split("/")), value)
        except (FileNotFoundError, PermissionError):
            continue  # the link went meanwhile, and took it along; or it was never ours to set
