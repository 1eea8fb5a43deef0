"""``-v``, ``--mount`` and ``--tmpfs`` -> Binds, Mounts, Volumes and Tmpfs of the Engine API.  Pure.

Only the notation is read here, for the API has another one; what makes sense is judged by the engine alone
(engine/container/mounts.py).
"""

from __future__ import annotations

from ..netlib.errors import InvalidArgument
from .units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HINT_MOUNT = "write type=bind,source=/host/path,target=/path[,readonly]"
_SWITCH = {"": True, "true": True, "1": True, "false": False, "0": False}


class BadMount(InvalidArgument):
    """A mount can not be read."""

    exit_code = 125


def binds_and_volumes(words: list[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """``-v`` values -> Binds, and Volumes: those that are a target alone, for an anonymous volume."""
    return [word for word in words if ":" in word], {word: {} for word in words if ":" not in word}


def tmpfs_mounts(words: list[str]) -> dict[str, str]:
    """``/run:size=64m`` -> {"/run": "size=64m"}."""
    return {target: options for target, _, options in (word.partition(":") for word in words)}


def parse_mount(text: str) -> dict[str, Any]:
    """One ``--mount`` value -> one Mount of the Engine API."""
    mount: dict[str, Any] = {"Type": "volume"}
    bind: dict[str, Any] = {}
    volume: dict[str, Any] = {}
    tmpfs: dict[str, Any] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        key = key.strip().lower()
        if key == "type":
            mount["Type"] = value.lower()
        elif key in ("source", "src"):
            mount["Source"] = value
        elif key in ("target", "dst", "destination"):
            mount["Target"] = value
        elif key in ("readonly", "ro"):
            mount["ReadOnly"] = _switch(text, key, value)
        elif key == "bind-propagation":
            bind["Propagation"] = value
        elif key == "volume-nocopy":
            volume["NoCopy"] = _switch(text, key, value)
        elif key == "volume-driver":
            volume.setdefault("DriverConfig", {})["Name"] = value
        elif key == "volume-opt":
            name, _, setting = value.partition("=")
            volume.setdefault("DriverConfig", {}).setdefault("Options", {})[name] = setting
        elif key == "volume-label":
            name, _, setting = value.partition("=")
            volume.setdefault("Labels", {})[name] = setting
        elif key == "tmpfs-size":
            tmpfs["SizeBytes"] = parse_size(value)
        elif key == "tmpfs-mode":
            try:
                tmpfs["Mode"] = int(value, 8)
            except ValueError:
                raise BadMount(f"invalid value for tmpfs-mode: {value!r}", hint="write it in octal: 1777") from None
        else:
            raise BadMount(f"unexpected key {key!r} in --mount {text}", hint=_HINT_MOUNT)
    mount |= {
        name: options
        for name, options in (("BindOptions", bind), ("VolumeOptions", volume), ("TmpfsOptions", tmpfs))
        if options
    }
    return mount


def _switch(text: str, key: str, value: str) -> bool:
    if value.lower() not in _SWITCH:
        raise BadMount(f"invalid value for {key} in --mount {text}: {value!r}", hint=f"{key}, or {key}=false")
    return _SWITCH[value.lower()]
