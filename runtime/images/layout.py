"""The image store on disk: an OCI image layout (image-spec, image-layout.md) with an index of ours.

    images/oci-layout            {"imageLayoutVersion": "1.0.0"}
    images/index.json            one descriptor a name: manifest digest, annotations with the reference
    images/blobs/sha256/<hex>    manifests, configurations, layers as they came

Other tools (skopeo, umoci, crane) read it as it is.  A blob is written beside and renamed, so one that has its name is
complete; ``index.json`` is replaced in one rename.  Annotations are containerd's: ``io.containerd.image.name`` holds
the canonical reference; a descriptor without it is an image without a name.  Locking is the caller's (StoreLock).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from typing import Any, BinaryIO, TypedDict, cast

from ...netlib.errors import InternalError, StateTooNew
from .errors import InvalidArchive

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
NAME, TAG, SCHEMA = "io.containerd.image.name", "org.opencontainers.image.ref.name", "pynet.schema"
SCHEMA_VERSION = 1
JSON_MAX = 8 << 20
"""Largest manifest or configuration; registries refuse more than 4 MiB."""

_DIGEST = re.compile(r"sha256:[a-f0-9]{64}", re.ASCII)

Json = dict[str, Any]


class Descriptor(TypedDict):
    mediaType: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Named:
    """A line of the index: a manifest and the canonical reference it is known by ("" for none)."""

    manifest: str
    size: int
    name: str


def is_digest(text: object) -> bool:
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def to_json(value: Any) -> bytes:
    """One value has one form, so the same image has the same id."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def parse_json(data: bytes, what: str) -> Json:
    """A JSON object from an archive."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArchive(f"invalid archive: {what} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidArchive(f"invalid archive: {what} is not a JSON object")
    return cast(Json, value)


def check_config(config: Json) -> Json:
    """*config* when all that we show of it is of the type that image-spec, config.md, gives it; InvalidArchive otherwise.

    What containers take from the inner object is judged when one is made (engine/container/config.py).
    """
    for name in ("created", "author", "architecture", "os"):
        if not isinstance(config.get(name, ""), str | None):
            raise InvalidArchive(f"invalid archive: {name} of an image configuration is not a string")
    inner = config.get("config") or {}
    labels = inner.get("Labels") or {} if isinstance(inner, dict) else None
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise InvalidArchive("invalid archive: config or Labels of an image configuration is not an object of strings")
    history = config.get("history") or []
    if not isinstance(history, list) or not all(isinstance(step, dict) for step in history):
        raise InvalidArchive("invalid archive: history of an image configuration is not a list of objects")
    return config


def layer_type(compression: str) -> str:
    return LAYER + (f"+{compression}" if compression else "")


def write_file(path: str, data: bytes, *, durable: bool = True) -> None:
    """Replace *path* in one step: readers see the old file or the new one, whenever the writer dies.

    *durable* waits for the disk, so that it also holds when the machine dies.
    """
    temporary = f"{path}.{os.getpid()}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class Layout:
    """The files below *path*; see the module's first lines."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._blobs = os.path.join(path, "blobs", "sha256")
        self._index = os.path.join(path, "index.json")
        self._cached: tuple[tuple[int, int, int], list[Named]] | None = None
        self._parsed: dict[str, Json] = {}

    def create(self) -> None:
        for directory in (os.path.dirname(self._blobs), self._blobs):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        marker = os.path.join(self.path, "oci-layout")
        if not os.path.exists(marker):
            write_file(marker, to_json({"imageLayoutVersion": "1.0.0"}))
        if not os.path.exists(self._index):
            self.write([])
        self.read()

    # -- index ---------------------------------------------------------------------------------------------------

    def read(self) -> list[Named]:
        """The index; parsed again only when the file was replaced."""
        status = os.stat(self._index)
        key = (status.st_mtime_ns, status.st_ino, status.st_size)
        cached = self._cached
        if cached is not None and cached[0] == key:
            return cached[1]
        try:
            with open(self._index, "rb") as file:
                index = json.load(file)
            version = int(index["annotations"][SCHEMA])
            if version > SCHEMA_VERSION:
                raise StateTooNew(self._index, version, SCHEMA_VERSION)
            names = [
                Named(entry["digest"], entry["size"], entry.get("annotations", {}).get(NAME, ""))
                for entry in index["manifests"]
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InternalError(
                f"{self._index} is damaged: {error!r}",
                hint="move the images directory away; images are made anew by import",
            ) from error
        self._cached = (key, names)
        return names

    def write(self, names: list[Named]) -> None:
        manifests: list[Json] = []
        for named in names:
            entry: Json = {"mediaType": MANIFEST, "digest": named.manifest, "size": named.size}
            if named.name:
                entry["annotations"] = {NAME: named.name, TAG: named.name.rpartition(":")[2]}
            manifests.append(entry)
        annotations = {SCHEMA: str(SCHEMA_VERSION)}
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, "annotations": annotations}
        write_file(self._index, to_json(index))
        self._cached = None

    # -- blobs ---------------------------------------------------------------------------------------------------

    def blob(self, digest: str) -> str:
        """The path of a blob."""
        return os.path.join(self._blobs, digest.removeprefix("sha256:"))

    def open(self, digest: str) -> BinaryIO:
        return open(self.blob(digest), "rb")  # the caller's to close

    def adopt(self, temporary: str, digest: str) -> None:
        """Move a complete file of the same filesystem in as the blob *digest*; the same blob twice is one."""
        if not os.path.exists(self.blob(digest)):
            os.rename(temporary, self.blob(digest))

    def put_json(self, value: Json, media_type: str) -> Descriptor:
        return self.put_bytes(to_json(value), media_type)

    def put_bytes(self, data: bytes, media_type: str) -> Descriptor:
        """A configuration keeps its bytes: its digest is the image's id."""
        digest = digest_of(data)
        if not os.path.exists(self.blob(digest)):
            write_file(self.blob(digest), data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def json(self, digest: str) -> Json:
        """A manifest or configuration; kept parsed, since a digest never changes its content."""
        found = self._parsed.get(digest)
        if found is None:
            try:
                with open(self.blob(digest), "rb") as file:
                    found = cast(Json, json.loads(file.read(JSON_MAX)))
            except (OSError, ValueError) as error:
                raise InternalError(f"the image store misses a readable blob {digest}: {error}") from error
            self._parsed[digest] = found
        return found

    def blobs(self) -> list[str]:
        return [f"sha256:{name}" for name in os.listdir(self._blobs) if is_digest(f"sha256:{name}")]

    def forget(self, digest: str) -> None:
        self._parsed.pop(digest, None)
        try:
            os.unlink(self.blob(digest))
        except FileNotFoundError:
            pass
