"""What images are to those who use the store: values, without the files behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from ...netlib.timestamps import parse_stamp
from .layout import Descriptor


@dataclass(frozen=True, slots=True)
class Image:
    """What the store knows of an image; a snapshot."""

    id: str
    """sha256:<hex> of the configuration."""
    repo_tags: tuple[str, ...]
    """Familiar names with tags, as people write them."""
    repo_digests: tuple[str, ...]
    created: str
    """RFC 3339; "" when the image does not say."""
    size: int
    """Sum of the unpacked layers' file sizes, in bytes."""
    config: dict[str, Any]
    """The whole OCI image configuration: "config", "rootfs", "history", ..."""
    architecture: str
    os: str
    layers: tuple[str, ...]
    """Chain ids, lowest first."""
    manifest: str
    """Digest of the manifest."""

    @property
    def defaults(self) -> dict[str, Any]:
        """What containers start from: Cmd, Env, Entrypoint, ... (the configuration's inner object)."""
        return cast(dict[str, Any], self.config.get("config") or {})

    @property
    def created_unix(self) -> int:
        """Seconds; 0 when the image does not say."""
        return (parse_stamp(self.created) or 0) // 1_000_000_000


class ImageUser(NamedTuple):
    """A container, to whoever wants to remove its image."""

    container: str
    image: str
    """The image's id."""
    running: bool


@dataclass(frozen=True, slots=True)
class PreparedLayer:
    """A layer in a workspace, ready for its name."""

    chain: str
    unpacked: str
    blob: str
    descriptor: Descriptor
    warnings: tuple[str, ...] = ()
    """What of it could not be kept here: one line each."""


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image that is ready to be stored: configuration, layers lowest first, canonical names."""

    config: bytes
    layers: tuple[PreparedLayer, ...]
    names: tuple[str, ...]
