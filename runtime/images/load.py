"""Archives of images: what ``docker save`` writes and what OCI tools write, in and out.

    docker   manifest.json [{"Config": path, "RepoTags": [...], "Layers": [path, ...]}]     any paths
    OCI      oci-layout, index.json -> manifests -> blobs/sha256/<hex>                      paths are digests

Recent archives are both; then manifest.json is taken, which has the names as people gave them.  ``save`` writes both.

Reading never unpacks the archive as files of its names: each member goes to a numbered file of the workspace and is
found through a table; links between members (old archives share layers by them) are followed in that table.  Every
digest that is stated is checked: of manifests and configurations, of blobs, and of each layer's content against the
configuration.  All images of an archive are stored in one step, or none.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from ...netlib.errors import InvalidArgument
from .errors import InvalidArchive
from .inflate import Inflated, Readable
from .layers import Workspace, chain_ids
from .layout import INDEX, JSON_MAX, MANIFEST, NAME, TAG, Json, digest_of, is_digest, parse_json, to_json
from .references import Reference, id_prefix
from .tarstream import TarReader

if TYPE_CHECKING:
    from .store import Image, ImageStore, NewImage, PreparedLayer

MEMBERS_MAX = 100_000
_MANIFESTS = (MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
_INDEXES = (INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
_DEPTH_MAX = 4


def load(store: ImageStore, stream: Readable) -> list[Image]:
    with store.layers.workspace() as work:
        members = _Members(stream, work, store.limits.bytes)
        loader = _Loader(store, work, members)
        if "manifest.json" in members:
            loader.docker()
        elif "index.json" in members:
            loader.oci()
        else:
            raise InvalidArchive(
                "invalid archive: it has neither manifest.json nor index.json",
                hint="for the tar archive of a root file system use `pynet import`",
            )
        return store.commit(loader.images)


class _Members:
    """The archive's files, each under its name."""

    def __init__(self, stream: Readable, work: Workspace, max_bytes: int) -> None:
        self._files: dict[str, str] = {}
        self._links: dict[str, str] = {}
        inflated = Inflated(stream, max_bytes=max_bytes)
        reader = TarReader(inflated)
        for count, entry in enumerate(reader):
            if count >= MEMBERS_MAX:
                raise InvalidArchive(f"the archive has more than {MEMBERS_MAX} members")
            name = _normal(entry.name)
            if entry.kind == "file":
                self._files[name] = work.name("member")
                with open(self._files[name], "wb") as file:
                    file.writelines(reader.data())
            elif entry.kind == "hardlink":
                self._links[name] = _normal(entry.link)
            elif entry.kind == "symlink":
                self._links[name] = _normal(posixpath.join(posixpath.dirname(name.encode()), entry.link))
        inflated.drain()

    def __contains__(self, name: str) -> bool:
        return name in self._files or name in self._links

    def path(self, name: str) -> str:
        """The workspace's file that holds the member *name*."""
        wanted = _normal(name.encode())
        for _ in range(_DEPTH_MAX):
            if wanted in self._files:
                return self._files[wanted]
            wanted = self._links.get(wanted, "")
        raise InvalidArchive(f"invalid archive: {name} is missing")

    def small(self, name: str) -> bytes:
        with open(self.path(name), "rb") as file:
            data = file.read(JSON_MAX + 1)
        if len(data) > JSON_MAX:
            raise InvalidArchive(f"invalid archive: {name} is larger than {JSON_MAX} bytes")
        return data

    def blob(self, digest: object) -> str:
        """The name of the member that holds a blob."""
        if not is_digest(digest):
            raise InvalidArchive(f"invalid archive: {digest!r} is no sha256 digest")
        return f"blobs/sha256/{cast(str, digest).removeprefix('sha256:')}"

    def verified(self, digest: object) -> bytes:
        data = self.small(self.blob(digest))
        if digest_of(data) != digest:
            raise InvalidArchive(f"invalid archive: the content of {digest} has digest {digest_of(data)}")
        return data


def _normal(name: bytes) -> str:
    """A member's name in one form; names are keys of a table here, not paths."""
    return posixpath.normpath("/" + name.decode("utf-8", "surrogateescape")).lstrip("/")


class _Loader:
    def __init__(self, store: ImageStore, work: Workspace, members: _Members) -> None:
        self._store, self._work, self._members = store, work, members
        self._prepared: dict[str, PreparedLayer] = {}
        self.images: list[NewImage] = []

    def docker(self) -> None:
        data = self._members.small("manifest.json")
        for item in _objects(parse_json(b'{"images":%s}' % data, "manifest.json").get("images"), "manifest.json"):
            layers = _strings(item.get("Layers"), "Layers")
            config = self._members.small(_string(item.get("Config"), "Config"))
            names = [_name(text) for text in _strings(item.get("RepoTags"), "RepoTags")]
            self._add(config, [(name, "") for name in layers], names)

    def oci(self) -> None:
        index = parse_json(self._members.small("index.json"), "index.json")
        chosen = self._choose(_objects(index.get("manifests"), "manifests"), 0)
        for descriptor, names in chosen:
            manifest = parse_json(self._members.verified(descriptor.get("digest")), "an image manifest")
            config = self._members.verified(_object(manifest.get("config"), "config").get("digest"))
            layers = _objects(manifest.get("layers"), "layers")
            blobs = [(self._members.blob(layer.get("digest")), str(layer["digest"])) for layer in layers]
            self._add(config, blobs, names)

    def _choose(self, descriptors: Sequence[Json], depth: int) -> list[tuple[Json, list[str]]]:
        """The manifests for this platform; of an index in the index, the one that fits."""
        from .store import host_architecture

        if depth > _DEPTH_MAX:
            raise InvalidArchive("invalid archive: indexes are nested too deep")
        chosen: list[tuple[Json, list[str]]] = []
        for descriptor in descriptors:
            names = _annotated(descriptor)
            platform = _object(descriptor.get("platform") or {}, "platform")
            fits = platform.get("os", "linux") == "linux"
            fits = fits and platform.get("architecture", host_architecture()) == host_architecture()
            if not fits:
                continue
            kind = descriptor.get("mediaType", MANIFEST)
            if kind in _MANIFESTS:
                chosen.append((descriptor, names))
            elif kind in _INDEXES:
                inner = parse_json(self._members.verified(descriptor.get("digest")), "an image index")
                for found, inner_names in self._choose(_objects(inner.get("manifests"), "manifests"), depth + 1)[:1]:
                    chosen.append((found, names + inner_names))
        if not chosen:
            raise InvalidArchive(f"the archive has no image for linux/{host_architecture()}")
        return chosen

    def _add(self, config: bytes, layers: Sequence[tuple[str, str]], names: list[str]) -> None:
        parsed = parse_json(config, "an image configuration")
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
        below: list[PreparedLayer] = []
        for (member, digest), diff_id, chain in zip(layers, diff_ids, chain_ids(diff_ids)):
            layer = self._prepared.get(chain)
            if layer is None:
                with open(self._members.path(member), "rb") as file:
                    layer = self._store.prepare_layer(self._work, file, below=below, diff_id=diff_id, digest=digest)
                self._prepared[chain] = layer
            below.append(layer)
        from .store import NewImage

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


# -- out ---------------------------------------------------------------------------------------------------------


def save(store: ImageStore, images: Sequence[tuple[str, Image]], stream: BinaryIO) -> None:
    """Write *images*, each with the reference it was asked by, which is saved with it unless it is an id."""
    tags: dict[str, list[str]] = {}
    for reference, image in images:
        names = tags.setdefault(image.manifest, [])
        if not id_prefix(reference) or reference in image.repo_tags:
            named = Reference.parse(reference).tagged()
            if named.tag and str(named) not in names:
                names.append(str(named))
    with ExitStack() as opened:
        blobs: dict[str, BinaryIO] = {}
        docker: list[Json] = []
        index: list[Json] = []
        with store.layers.lock:  # opened under the lock, so a removal that follows does not matter
            for manifest_digest, names in tags.items():
                manifest = store.layout.json(manifest_digest)
                layers = [layer["digest"] for layer in manifest["layers"]]
                config = manifest["config"]["digest"]
                for digest in (manifest_digest, config, *layers):
                    if digest not in blobs:
                        blobs[digest] = opened.enter_context(open(store.layout.blob(digest), "rb"))
                docker.append(
                    {
                        "Config": _blob_name(config),
                        "RepoTags": [Reference.parse(name).familiar for name in names] or None,
                        "Layers": [_blob_name(digest) for digest in layers],
                    }
                )
                size = len(to_json(manifest))
                descriptor: Json = {"mediaType": MANIFEST, "digest": manifest_digest, "size": size}
                named_entries = [
                    {**descriptor, "annotations": {NAME: name, TAG: name.rpartition(":")[2]}} for name in names
                ]
                index += named_entries or [descriptor]
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for digest, file in blobs.items():
                file.seek(0, io.SEEK_END)
                _add_member(archive, _blob_name(digest), file, file.tell())
            for name, value in (
                ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
                ("index.json", {"schemaVersion": 2, "mediaType": INDEX, "manifests": index}),
                ("manifest.json", docker),
            ):
                data = to_json(value)
                _add_member(archive, name, io.BytesIO(data), len(data))


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _add_member(archive: tarfile.TarFile, name: str, file: BinaryIO, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    file.seek(0)
    archive.addfile(info, file)
