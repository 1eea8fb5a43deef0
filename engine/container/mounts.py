"""What is mounted into a container: ``-v``, ``--mount`` and ``--tmpfs`` become one list of mount points.  Pure.

    HostConfig.Binds    "source:target[:mode,...]"     "name:target" is a named volume, "target" an anonymous one
    HostConfig.Mounts   [{Type, Source, Target, ReadOnly, BindOptions, VolumeOptions, TmpfsOptions}]
    HostConfig.Tmpfs    {target: options}
    Config.Volumes      {target: {}}                    anonymous volumes, from the image as well

One target is mounted once: ``-v`` and ``--mount`` naming it twice is an error, an image's volume gives way.  The difference
that Docker makes for a missing bind source is kept: ``-v`` makes a directory, ``--mount`` fails.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...netlib.errors import InvalidArgument
from ..fields import Fields

_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
NAME_MAX = 255
"""Of a file name (limits.h); the characters above are ASCII."""
PROPAGATION = frozenset({"private", "rprivate", "slave", "rslave", "shared", "rshared"})
_MODES = {"ro", "rw", "z", "Z", "nocopy"} | PROPAGATION


@dataclass(frozen=True)
class MountPoint:
    """One mount, as the record keeps it."""

    kind: str
    """"bind", "volume" or "tmpfs"."""
    target: str
    source: str = ""
    """Host path of a bind; of a volume once it is made."""
    name: str = ""
    """Name of a volume; "" is chosen when the container is made (an anonymous volume)."""
    readonly: bool = False
    propagation: str = ""
    mode: str = ""
    """The mode as written, for inspect."""
    create: bool = False
    """Make a missing bind source (a directory), as ``-v`` does."""
    options: str = ""
    """tmpfs options, comma-separated."""
    anonymous: bool = False
    recursive: bool = True
    """Whether a bind takes along what is mounted below its source."""
    labels: dict[str, str] = field(default_factory=dict)
    """Of a volume that is made for this mount."""

    def to_body(self) -> dict[str, Any]:
        return {**vars(self)}

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> MountPoint:
        return cls(**body)


def clean_target(target: str, shown: str) -> str:
    if not target.startswith("/"):
        raise InvalidArgument(
            f"invalid volume specification: '{shown}': mount path must be absolute",
            hint="write SOURCE:TARGET[:ro], with an absolute TARGET that is not /",
        )
    target = posixpath.normpath(target)
    if target in ("/", "//"):
        raise InvalidArgument(
            f"invalid volume specification: '{shown}': destination can't be '/'",
            hint="write SOURCE:TARGET[:ro], with an absolute TARGET that is not /",
        )
    return target


def valid_volume_name(name: str) -> str:
    """*name*, when a directory can have it; InvalidArgument otherwise."""
    if not _VOLUME_NAME.match(name):
        raise InvalidArgument(
            f"{name!r} includes invalid characters for a local volume name, only [a-zA-Z0-9][a-zA-Z0-9_.-] are "
            "allowed. If you intended to pass a host directory, use absolute path".replace("'", '"'),
            hint="a volume's name has letters, digits, _ . and -; a directory of the host begins with /",
        )
    if len(name) > NAME_MAX:
        raise InvalidArgument(f"volume name is too long: {len(name)} characters, where {NAME_MAX} are allowed")
    return name


def parse_bind(text: str) -> MountPoint:
    """One ``-v`` value."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise InvalidArgument(
            f"invalid volume specification: '{text}'",
            hint="write SOURCE:TARGET[:ro], with an absolute TARGET that is not /",
        )
    mode = parts.pop() if len(parts) == 3 else ""
    target = clean_target(parts[-1], text)
    words = mode.split(",") if mode else []
    if any(word not in _MODES for word in words) or len(set(words)) != len(words) or {"ro", "rw"} <= set(words):
        raise InvalidArgument(
            f"invalid mode: {mode}", hint="ro, rw, z, Z and nocopy are known, and for binds the propagation, as rshared"
        )
    propagation = next((word for word in words if word in PROPAGATION), "")
    common: dict[str, Any] = {"target": target, "readonly": "ro" in words, "mode": mode}
    if len(parts) == 1:
        return MountPoint("volume", anonymous=True, **common)
    source = parts[0]
    if source.startswith("/"):
        return MountPoint("bind", source=posixpath.normpath(source), propagation=propagation, create=True, **common)
    if propagation:
        raise InvalidArgument(
            f"invalid mode: {mode}", hint="ro, rw, z, Z and nocopy are known, and for binds the propagation, as rshared"
        )
    return MountPoint("volume", name=valid_volume_name(source), **common)


def parse_mount(spec: Fields) -> MountPoint:
    """One ``--mount`` object."""
    kind, shown = spec.text("Type"), spec.text("Target")
    if not shown:
        raise InvalidArgument("invalid mount config for type " + f'"{kind}": field Target must not be empty')
    try:
        target = clean_target(shown, shown)
    except InvalidArgument as error:
        raise InvalidArgument(f'invalid mount config for type "{kind}": {str(error).rpartition(": ")[2]}') from None
    for owner, name in (("bind", "BindOptions"), ("volume", "VolumeOptions"), ("tmpfs", "TmpfsOptions")):
        if kind != owner and kind in ("bind", "volume", "tmpfs") and spec.object(name).body:
            raise InvalidArgument(f'invalid mount config for type "{kind}": field {name} must not be specified')
    source, readonly = spec.text("Source"), spec.boolean("ReadOnly")
    if kind == "bind":
        if not source:
            raise InvalidArgument('invalid mount config for type "bind": field Source must not be empty')
        if not source.startswith("/"):
            raise InvalidArgument(
                f"invalid mount config for type \"bind\": invalid mount path: '{source}' mount path must be absolute"
            )
        options = spec.object("BindOptions")
        propagation = options.text("Propagation")
        if propagation and propagation not in PROPAGATION:
            raise InvalidArgument(f'invalid mount config for type "bind": invalid propagation mode: {propagation}')
        create = options.boolean("CreateMountpoint")
        return MountPoint(
            "bind",
            target,
            posixpath.normpath(source),
            readonly=readonly,
            propagation=propagation,
            create=create,
            recursive=not options.boolean("NonRecursive"),
        )
    if kind == "volume":
        name, labels = valid_volume_name(source) if source else "", spec.object("VolumeOptions").string_map("Labels")
        return MountPoint("volume", target, name=name, readonly=readonly, anonymous=not source, labels=labels)
    if kind == "tmpfs":
        if source:
            raise InvalidArgument('invalid mount config for type "tmpfs": field Source must not be specified')
        tmpfs = spec.object("TmpfsOptions")
        words: list[str] = []
        if tmpfs.integer("SizeBytes", least=0):
            words.append(f"size={tmpfs.integer('SizeBytes')}")
        if tmpfs.integer("Mode", least=0, most=0o7777):
            words.append(f"mode={tmpfs.integer('Mode'):o}")
        return MountPoint("tmpfs", target, readonly=readonly, options=",".join([*words, *tmpfs_words(tmpfs)]))
    raise InvalidArgument(
        f'invalid mount config for type "{kind}": mount type unknown', hint="bind, volume and tmpfs are known"
    )


def tmpfs_words(tmpfs: Fields) -> list[str]:
    """``TmpfsOptions.Options``: ``[["noexec"], ["uid", "1000"]]`` to what mount(8) takes."""
    options = tmpfs.body.get("Options") or []
    if not isinstance(options, list):
        raise InvalidArgument('invalid mount config for type "tmpfs": Options must be a list')
    words: list[str] = []
    for option in options:
        good = isinstance(option, list) and len(option) in (1, 2) and all(isinstance(word, str) for word in option)
        if not good or any("," in word or "\0" in word for word in option):
            raise InvalidArgument('invalid mount config for type "tmpfs": Options must be lists of one or two words')
        words.append("=".join(option))
    return words


def parse_all(
    binds: Iterable[str], mounts: Iterable[Fields], tmpfs: Mapping[str, str], volumes: Iterable[str]
) -> list[MountPoint]:
    """Every mount of a create request, sorted so that a mount below another comes after it."""
    points: dict[str, MountPoint] = {}

    def add(point: MountPoint) -> None:
        if point.target in points:
            raise InvalidArgument(f"Duplicate mount point: {point.target}")
        points[point.target] = point

    for text in binds:
        add(parse_bind(text))
    for spec in mounts:
        add(parse_mount(spec))
    for target, options in tmpfs.items():
        add(MountPoint("tmpfs", clean_target(target, target), options=options))
    for target in volumes:
        cleaned = clean_target(target, target)
        if cleaned not in points:
            points[cleaned] = MountPoint("volume", cleaned, anonymous=True)
    return sorted(points.values(), key=lambda point: point.target.count("/"))


def inspect_mounts(points: Iterable[MountPoint], volume_path: Callable[[str], str]) -> list[dict[str, Any]]:
    """``Mounts`` of a container's inspect; like Docker's, without the entries of ``--tmpfs``."""
    shown: list[dict[str, Any]] = []
    for point in points:
        entry: dict[str, Any] = {"Type": point.kind}
        if point.kind == "volume":
            entry |= {"Name": point.name, "Source": volume_path(point.name), "Destination": point.target}
            entry |= {"Driver": "local", "Mode": point.mode or "z", "RW": not point.readonly, "Propagation": ""}
        elif point.kind == "bind":
            entry |= {"Source": point.source, "Destination": point.target, "Mode": point.mode}
            entry |= {"RW": not point.readonly, "Propagation": point.propagation or "rprivate"}
        else:
            continue
        shown.append(entry)
    return shown
