"""``-v``, ``--mount`` and ``--tmpfs`` -> Binds, Mounts, Volumes and Tmpfs of the Engine API.  Pure."""

from __future__ import annotations

from ..netlib.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HINT_VOLUME = "write SOURCE:TARGET[:ro], with an absolute TARGET"
_HINT_MOUNT = "write type=bind,source=/host/path,target=/path[,readonly]"
_PROPAGATION = ("private", "rprivate", "shared", "rshared", "slave", "rslave")


class BadMount(InvalidArgument):
    """A mount can not be read."""

    exit_code = 125


def mounts_and_binds(
    volumes: list[str], mounts: list[str]
) -> tuple[list[str], list[dict[str, Any]], dict[str, dict[str, str]]]:
    """-> Binds, Mounts, Volumes (anonymous: a target alone)."""
    binds: list[str] = []
    anonymous: dict[str, dict[str, str]] = {}
    for word in volumes:
        parts = word.split(":")
        if len(parts) > 3 or not all(parts) or not parts[min(1, len(parts) - 1)].startswith("/"):
            raise BadMount(f"invalid volume specification: {word!r}", hint=_HINT_VOLUME)
        if parts[min(1, len(parts) - 1)].rstrip("/") == "":
            raise BadMount(f"invalid volume specification: {word!r}: destination can't be '/'", hint=_HINT_VOLUME)
        if len(parts) == 1:
            anonymous[word] = {}
        else:
            binds.append(word)
    return binds, [parse_mount(word) for word in mounts], anonymous


def tmpfs_mounts(words: list[str]) -> dict[str, str]:
    """``/run:size=64m`` -> {"/run": "size=64m"}."""
    found: dict[str, str] = {}
    for word in words:
        target, _, options = word.partition(":")
        if not target.startswith("/"):
            raise BadMount(f"invalid tmpfs: {word!r}", hint="write /TARGET[:size=64m,mode=1777]")
        found[target] = options
    return found


def parse_mount(text: str) -> dict[str, Any]:
    """One ``--mount`` value -> one Mount of the Engine API."""
    from .units import parse_size

    mount: dict[str, Any] = {"Type": "volume"}
    tmpfs: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        key = key.strip().lower()
        if key == "type":
            mount["Type"] = value.lower()
        elif key in ("source", "src"):
            mount["Source"] = value
        elif key in ("target", "dst", "destination"):
            mount["Target"] = value
        elif key in ("readonly", "ro"):
            if equals and value.lower() not in ("true", "1", "false", "0"):
                raise BadMount(f"invalid value for {key}: {value!r}", hint=_HINT_MOUNT)
            mount["ReadOnly"] = not equals or value.lower() in ("true", "1")
        elif key == "bind-propagation":
            if value not in _PROPAGATION:
                raise BadMount(f"invalid bind-propagation: {value!r}", hint=f"one of {', '.join(_PROPAGATION)}")
            mount["BindOptions"] = {"Propagation": value}
        elif key == "tmpfs-size":
            tmpfs["SizeBytes"] = parse_size(value)
        elif key == "tmpfs-mode":
            try:
                tmpfs["Mode"] = int(value, 8)
            except ValueError:
                raise BadMount(f"invalid value for tmpfs-mode: {value!r}", hint="write it in octal: 1777") from None
        else:
            raise BadMount(f"unexpected key {key!r} in --mount {text}", hint=_HINT_MOUNT)
    if tmpfs:
        mount["TmpfsOptions"] = tmpfs
    kind = mount["Type"]
    if kind not in ("bind", "volume", "tmpfs"):
        raise BadMount(f"unknown mount type {kind!r}", hint="bind, volume or tmpfs")
    if not str(mount.get("Target", "")).startswith("/"):
        raise BadMount(f"--mount {text}: an absolute target is required", hint=_HINT_MOUNT)
    if kind == "bind" and not str(mount.get("Source", "")).startswith("/"):
        raise BadMount(f"--mount {text}: a bind needs an absolute source", hint=_HINT_MOUNT)
    if (tmpfs and kind != "tmpfs") or (kind == "tmpfs" and "Source" in mount):
        raise BadMount(f"--mount {text}: these options do not go with type={kind}", hint=_HINT_MOUNT)
    return mount
