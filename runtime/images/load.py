"""Archives of images, read: what ``docker save`` writes and what OCI tools write.

    docker   manifest.json [{"Config": path, "RepoTags": [...], "Layers": [path, ...]}]     any paths
    OCI      oci-layout, index.json -> manifests -> blobs/sha256/<hex>                      paths are digests

Recent archives are both; then manifest.json is taken, which has the names as people gave them.

Reading never unpacks the archive as files of its names: each member goes to a numbered file of the workspace and is
found through a table; links between members (old archives share layers by them) are followed in that table.  Every
digest that is stated is checked: of manifests and configurations, of blobs, and of each layer's content against the
configuration.  Nothing is read that the limits do not allow: an index may name an index, and one member may be named by
all of them, so what is parsed is counted each time.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from typing import Any, cast

from ...netlib.errors import InvalidArgument
from .architecture import host_architecture
from .errors import InvalidArchive
from .inflate import Inflated, Readable
from .layers import Workspace, chain_ids
from .layout import (
    INDEX,
    JSON_MAX,
    MANIFEST,
    NAME,
    TAG,
    Json,
    check_config,
    digest_of,
    is_digest,
    parse_json,
)
from .limits import Budget, Limits
from .model import NewImage, PreparedLayer
from .prepare import Prepare
from .references import Reference
from .tarstream import TarReader

_MANIFESTS = (MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
_INDEXES = (INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
_DEPTH_MAX = 4


def load(stream: Readable, work: Workspace, limits: Limits, prepare: Prepare) -> list[NewImage]:
    """The images of an archive, their layers prepared in *work*; InvalidArchive, and then nothing of it counts."""
    members = _Members(stream, work, Budget(limits))
    loader = _Loader(members, prepare, Budget(limits))
    if "manifest.json" in members:
        loader.docker()
    elif "index.json" in members:
        loader.oci()
    else:
        raise InvalidArchive(
            "invalid archive: it has neither manifest.json nor index.json",
            hint="for the tar archive of a root file system use `pynet import`",
        )
    return loader.images


class _Members:
    """The archive's files, each under its name."""

    def __init__(self, stream: Readable, work: Workspace, budget: Budget) -> None:
        self._files: dict[str, str] = {}
        self._links: dict[str, str] = {}
        self._budget = budget
        inflated = Inflated(stream, budget=budget)
        reader = TarReader(inflated)
        for count, entry in enumerate(reader):
            if count >= budget.limits.members:
                raise InvalidArchive(f"the archive has more than {budget.limits.members} members")
            budget.spend_name(len(entry.name) + len(entry.link))
            name = _normal(entry.name)
            if entry.kind == "file":
                self._files[name] = work.name("member")
                with open(self._files[name], "xb") as file:
                    file.writelines(reader.data())
            elif entry.kind == "hardlink":
                self._links[name] = _normal(entry.link)
            elif entry.kind == "symlink":
                self._links[name] = _normal(posixpath.join(posixpath.dirname(_raw(name)), entry.link))
        inflated.drain()

    def __contains__(self, name: str) -> bool:
        return name in self._files or name in self._links

    def path(self, name: str) -> str:
        """The workspace's file that holds the member *name*."""
        wanted = _normal(_raw(name))
        for _ in range(_DEPTH_MAX):
            if wanted in self._files:
                return self._files[wanted]
            wanted = self._links.get(wanted, "")
        raise InvalidArchive(f"invalid archive: {_shown(name)} is missing")

    def document(self, name: str) -> bytes:
        """A manifest, index or configuration."""
        with open(self.path(name), "rb") as file:
            data = file.read(JSON_MAX + 1)
        if len(data) > JSON_MAX:
            raise InvalidArchive(f"invalid archive: {_shown(name)} is larger than {JSON_MAX} bytes")
        self._budget.spend_document(len(data))
        return data

    def blob(self, digest: object) -> str:
        """The name of the member that holds a blob."""
        if not is_digest(digest):
            raise InvalidArchive(f"invalid archive: {digest!r} is no sha256 digest")
        return f"blobs/sha256/{cast(str, digest).removeprefix('sha256:')}"

    def verified(self, digest: object) -> bytes:
        data = self.document(self.blob(digest))
        if digest_of(data) != digest:
            raise InvalidArchive(f"invalid archive: the content of {digest} has digest {digest_of(data)}")
        return data


def _normal(name: bytes) -> str:
    """A member's name in one form; names are keys of a table here, not paths."""
    return posixpath.normpath("/" + name.decode("utf-8", "surrogateescape")).lstrip("/")


def _raw(name: str) -> bytes:
    """The bytes of a member's name; one from JSON may have halves of characters that no member can have."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidArchive(f"invalid archive: {_shown(name)} is missing") from None


def _shown(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


class _Loader:
    def __init__(self, members: _Members, prepare: Prepare, budget: Budget) -> None:
        self._members, self._prepare, self._budget = members, prepare, budget
        self._names = budget.limits.images
        self._prepared: dict[str, PreparedLayer] = {}
        self.images: list[NewImage] = []

    def docker(self) -> None:
        data = self._members.document("manifest.json")
        for item in _objects(parse_json(b'{"images":%s}' % data, "manifest.json").get("images"), "manifest.json"):
            layers = _strings(item.get("Layers"), "Layers")
            config = self._members.document(_string(item.get("Config"), "Config"))
            names = [_name(text) for text in _strings(item.get("RepoTags"), "RepoTags")]
            self._add(config, [(name, "") for name in layers], names)

    def oci(self) -> None:
        index = parse_json(self._members.document("index.json"), "index.json")
        for descriptor, names in self._choose(_objects(index.get("manifests"), "manifests"), 0):
            manifest = parse_json(self._members.verified(descriptor.get("digest")), "an image manifest")
            config = self._members.verified(_object(manifest.get("config"), "config").get("digest"))
            layers = _objects(manifest.get("layers"), "layers")
            blobs = [(self._members.blob(layer.get("digest")), str(layer["digest"])) for layer in layers]
            self._add(config, blobs, names)

    def _choose(self, descriptors: Sequence[Json], depth: int) -> Iterator[tuple[Json, list[str]]]:
        """The manifests for this platform; of an index in the index, the first that fits."""
        if depth > _DEPTH_MAX:
            raise InvalidArchive("invalid archive: indexes are nested too deep")
        found = False
        for descriptor in descriptors:
            names = _annotated(descriptor)
            platform = _object(descriptor.get("platform") or {}, "platform")
            fits = platform.get("os", "linux") == "linux"
            fits = fits and platform.get("architecture", host_architecture()) == host_architecture()
            if not fits:
                continue
            kind = descriptor.get("mediaType", MANIFEST)
            if kind in _MANIFESTS:
                found = True
                yield descriptor, names
            elif kind in _INDEXES:
                index = parse_json(self._members.verified(descriptor.get("digest")), "an image index")
                inner, inner_names = next(self._choose(_objects(index.get("manifests"), "manifests"), depth + 1))
                found = True
                yield inner, names + inner_names
        if not found:
            raise InvalidArchive(f"the archive has no image for linux/{host_architecture()}")

    def _add(self, config: bytes, layers: Sequence[tuple[str, str]], names: list[str]) -> None:
        limits = self._budget.limits
        self._names -= len(names)
        if len(self.images) >= limits.images or self._names < 0:
            raise InvalidArchive(f"the archive has more than {limits.images} images, or names of images")
        parsed = check_config(parse_json(config, "an image configuration"))
        system = parsed.get("os") or "linux"
        if system != "linux":
            raise InvalidArgument(f"cannot load {system} image on linux")
        diff_ids = _strings(_object(parsed.get("rootfs"), "rootfs").get("diff_ids"), "diff_ids")
        if len(layers) != len(diff_ids):
            raise InvalidArchive(
                f"invalid manifest, layers length mismatch: expected {len(diff_ids)}, got {len(layers)}"
            )
        if not layers or not all(map(is_digest, diff_ids)):
            raise InvalidArchive("invalid archive: an image has no layers, or a layer no sha256 diff id")
        if len(layers) > limits.layers:
            raise InvalidArchive(f"max depth exceeded: the image has {len(layers)} layers, {limits.layers} are allowed")
        below: list[PreparedLayer] = []
        for (member, digest), diff_id, chain in zip(layers, diff_ids, chain_ids(diff_ids)):
            layer = self._prepared.get(chain)
            if layer is None:
                with open(self._members.path(member), "rb") as file:
                    layer = self._prepare(file, below=below, diff_id=diff_id, digest=digest)
                self._prepared[chain] = layer
            below.append(layer)
        self.images.append(NewImage(config, tuple(below), tuple(names)))


def _name(text: str) -> str:
    return str(Reference.parse(text).tagged())


def _annotated(descriptor: Json) -> list[str]:
    """containerd's full name, else a ref.name that is more than a tag (skopeo writes either)."""
    annotations = _object(descriptor.get("annotations") or {}, "annotations")
    full, short = annotations.get(NAME), annotations.get(TAG)
    if isinstance(full, str) and full:
        return [_name(full)]
    if isinstance(short, str) and (":" in short or "/" in short):
        return [_name(short)]
    return []


def _object(value: Any, what: str) -> Json:
    if not isinstance(value, dict):
        raise InvalidArchive(f"invalid archive: {what} is not an object")
    return cast(Json, value)


def _objects(value: Any, what: str) -> list[Json]:
    if not isinstance(value, list):
        raise InvalidArchive(f"invalid archive: {what} is not a list")
    items: list[Any] = value
    return [_object(item, f"an item of {what}") for item in items]


def _string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidArchive(f"invalid archive: {what} is not a string")
    return value


def _strings(value: Any, what: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidArchive(f"invalid archive: {what} is not a list")
    items: list[Any] = value
    return [_string(item, f"an item of {what}") for item in items]
