"""Images: names, configurations and layers, kept so that any process may be killed at any moment.

    stream --> workspace: blob, both digests, unpacked layer
                   |  one hold of the store's lock
                   v
               layers/<chain>  blobs/sha256/<hex>  index.json      rename, rename, rename

Everything that takes time happens in a workspace of its own (layers.py), unlocked.  Then, under one hold of the lock,
layers and blobs get their names and last the index is replaced: an image is there wholly or not at all.  What a kill
leaves between two renames has no reference and goes at the next opening.

An image's *id* is the digest of its configuration, as with Docker; a *name* is a canonical reference in the index.
Texts and rules of look-up and removal are moby's (daemon/images/image.go, image_delete.go).
"""

from __future__ import annotations

import io
import logging
import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, NamedTuple, cast

from ...netlib.errors import InternalError, InvalidArgument
from ..spec import RootFS
from . import bootstrap as image_bootstrap
from .changes import apply_changes
from .errors import InvalidArchive, InvalidReference, NoSuchImage, disk_errors
from .inflate import Inflated, Readable
from .layers import Layer, LayerStore, Workspace, chain_ids
from .layout import CONFIG, MANIFEST, Descriptor, Layout, Named, layer_type, to_json
from .references import Reference, id_prefix
from .unpack import Limits, unpack

log = logging.getLogger(__name__)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386"}


def host_architecture() -> str:
    """As GOARCH names it, which OCI prescribes."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


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
        return parse_time(self.created)


# the class below has a method ``list``, which hides the type
Images = list[Image]
Removed = list[dict[str, str]]
Chains = list[str]


class ImageUser(NamedTuple):
    """A container, to whoever wants to remove its image."""

    container: str
    image: str
    """The image's id."""
    running: bool


def parse_time(text: str) -> int:
    """RFC 3339 with up to nine digits of fraction, to seconds."""
    try:
        return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())
    except ValueError:
        return 0


def now() -> str:
    moment = time.time_ns()
    return datetime.fromtimestamp(moment // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment % 10**9:09d}Z"


@dataclass(frozen=True, slots=True)
class PreparedLayer:
    """A layer in a workspace, ready for its name."""

    chain: str
    unpacked: str
    blob: str
    descriptor: Descriptor
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image that is ready to be stored: configuration, layers lowest first, canonical names."""

    config: bytes
    layers: tuple[PreparedLayer, ...]
    names: tuple[str, ...]


class ImageStore:
    """The images below ``<root>/images``.  Safe for threads and for several processes on one root."""

    def __init__(self, root: str, *, limits: Limits | None = None) -> None:
        self.path = os.path.join(root, "images")
        self.limits = limits or Limits()
        with disk_errors(self.path):
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            self.layout = Layout(self.path)
            self.layers = LayerStore(self.path, os.path.join(root, "containers"))
            self.layers.create()
            with self.layers.lock:
                self.layout.create()
                self.layers.sweep()
                try:
                    self._prune()
                except (
                    InternalError,
                    OSError,
                ) as error:  # a blob that can not be read must not keep the engine from starting
                    log.warning("what no image names is kept: %s", error)

    # -- making images -------------------------------------------------------------------------------------------

    def bootstrap(self, reference: str = "busybox:latest") -> Image:
        """Make an image from the host's static busybox; the same binary gives the same id."""
        name = _new_name(reference)
        busybox = image_bootstrap.find_busybox()
        with disk_errors(self.path), self.layers.workspace() as work:
            layer = self.prepare_layer(work, io.BytesIO(image_bootstrap.make_layer(busybox)))
            return self._finish(image_bootstrap.make_config(busybox), layer, name)

    def import_rootfs(
        self, stream: Readable, reference: str = "", *, changes: Sequence[str] = (), message: str = ""
    ) -> Image:
        """An image of one layer from a tar archive of a root file system, compressed or not.

        *changes* are Dockerfile instructions; *reference* may be empty: then the image has only its id.
        """
        name = _new_name(reference) if reference else ""
        config = apply_changes({}, changes)
        with disk_errors(self.path), self.layers.workspace() as work:
            layer = self.prepare_layer(work, stream)
            created = now()
            history = [{"created": created, "comment": message or "Imported from -"}]
            return self._finish({"created": created, "config": config, "history": history}, layer, name)

    def load(self, stream: Readable) -> Images:
        """Images from an archive of ``docker save`` or of an OCI layout, compressed or not."""
        from .archive import load

        with disk_errors(self.path):
            return load(self, stream)

    def save(self, references: Sequence[str], stream: BinaryIO) -> None:
        """Write images as an archive that ``docker load`` and OCI tools read."""
        from .archive import save

        save(self, [(reference, self.get(reference)) for reference in references], stream)

    def prepare_layer(
        self,
        work: Workspace,
        source: Readable,
        *,
        below: Sequence[PreparedLayer] = (),
        diff_id: str = "",
        digest: str = "",
    ) -> PreparedLayer:
        """Store and unpack one layer in *work*, over the layers *below* (lowest first); check digests when given."""
        blob, unpacked = work.name("blob"), work.name("layer")
        diff = os.path.join(unpacked, "diff")
        os.makedirs(diff, mode=0o700)
        lower = [os.path.join(layer.unpacked, "diff") for layer in reversed(below)]
        with open(blob, "wb") as file:
            stream = Inflated(source, max_bytes=self.limits.bytes, copy=file)
            result = unpack(stream, diff, lower=lower, limits=self.limits)
        if digest and stream.digest != digest:
            raise InvalidArchive(f"layer {len(below)}: the content of {digest} has digest {stream.digest}")
        if diff_id and stream.diff_id != diff_id:
            raise InvalidArchive(f'invalid diffID for layer {len(below)}: expected "{diff_id}", got "{stream.diff_id}"')
        chain = chain_ids([*([below[-1].chain] if below else []), stream.diff_id])[-1]
        self.layers.seal(unpacked, Layer(chain, stream.diff_id, result.size, result.entries))
        descriptor: Descriptor = {
            "mediaType": layer_type(stream.copy_compression),
            "digest": stream.copy_digest,
            "size": os.path.getsize(blob),
        }
        return PreparedLayer(chain, unpacked, blob, descriptor, tuple(result.warnings))

    def _finish(self, base: dict[str, Any], layer: PreparedLayer, name: str) -> Image:
        rootfs = {"type": "layers", "diff_ids": [layer.chain]}
        config = {**base, "architecture": host_architecture(), "os": "linux", "rootfs": rootfs}
        return self.commit([NewImage(to_json(config), (layer,), (name,) if name else ())])[0]

    def commit(self, images: Sequence[NewImage]) -> Images:
        """Give prepared layers their names and the images theirs: all of it, or nothing that counts."""
        with self.layers.lock:
            before = self.layout.read()
            index = before
            manifests = [self._adopt(image) for image in images]
            for image, manifest in zip(images, manifests):
                index = _with(index, manifest)
                for name in image.names:
                    index = [named for named in index if named.name != name]
                    index = _with(index, Named(manifest.manifest, manifest.size, name))
            self.layout.write(_keep_nameless(before, index))
            return [self._image(manifest) for manifest in dict.fromkeys(found.manifest for found in manifests)]

    def _adopt(self, image: NewImage) -> Named:
        """Layers, blobs, configuration and manifest into their places; what is there already stays."""
        for layer in image.layers:
            self.layers.adopt(layer.unpacked, layer.chain)
            self.layout.adopt(layer.blob, layer.descriptor["digest"])
        described = self.layout.put_bytes(image.config, CONFIG)
        found = next((n for n in self.layout.read() if self._config_digest(n.manifest) == described["digest"]), None)
        if found is not None:
            return Named(found.manifest, found.size, "")
        layers = [layer.descriptor for layer in image.layers]
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": layers}
        put = self.layout.put_json(manifest, MANIFEST)
        return Named(put["digest"], put["size"], "")

    # -- looking -------------------------------------------------------------------------------------------------

    def list(self) -> Images:
        """Every image, newest first."""
        manifests = dict.fromkeys(named.manifest for named in self.layout.read())
        return sorted(map(self._image, manifests), key=lambda image: image.created_unix, reverse=True)

    def get(self, reference: str) -> Image:
        """By id, name, digest or beginning of an id.  Raises NoSuchImage, InvalidReference."""
        return self._image(self._find(reference))

    def _find(self, reference: str) -> str:
        """The digest of the manifest."""
        index = self.layout.read()
        prefix = id_prefix(reference)
        if reference.startswith("sha256:") and prefix:
            return self._by_id(index, prefix, reference)
        try:
            parsed = Reference.parse(reference).tagged()
        except InvalidReference:
            if prefix:
                return self._by_id(index, prefix, reference)
            raise
        for named in index:
            if not named.name:
                continue
            if named.name == str(parsed):
                return named.manifest
            if parsed.digest and Reference.parse(named.name).name == parsed.name and named.manifest == parsed.digest:
                return named.manifest
        if prefix:
            return self._by_id(index, prefix, parsed.familiar)
        raise NoSuchImage(parsed.familiar)

    def _by_id(self, index: Iterable[Named], prefix: str, shown: str) -> str:
        found = {
            named.manifest for named in index if self._config_digest(named.manifest).startswith(f"sha256:{prefix}")
        }
        if len(found) != 1:
            raise NoSuchImage(shown)
        return found.pop()

    def _config_digest(self, manifest: str) -> str:
        return cast(str, self.layout.json(manifest)["config"]["digest"])

    def _image(self, manifest: str) -> Image:
        config_digest = self._config_digest(manifest)
        config = self.layout.json(config_digest)
        references = [
            Reference.parse(named.name) for named in self.layout.read() if named.manifest == manifest and named.name
        ]
        chains = tuple(chain_ids(config["rootfs"]["diff_ids"]))
        return Image(
            id=config_digest,
            repo_tags=tuple(reference.familiar for reference in references),
            repo_digests=tuple(dict.fromkeys(f"{reference.familiar_name}@{manifest}" for reference in references)),
            created=config.get("created") or "",
            size=sum(self.layers.get(chain).size for chain in chains),
            config=config,
            architecture=config.get("architecture", ""),
            os=config.get("os", "linux"),
            layers=chains,
            manifest=manifest,
        )

    # -- names and removal ---------------------------------------------------------------------------------------

    def tag(self, reference: str, new: str) -> Image:
        """Give an image one more name; the name leaves the image that had it."""
        name = _new_name(new)
        with self.layers.lock:
            manifest = self._find(reference)
            before = self.layout.read()
            size = next(named.size for named in before if named.manifest == manifest)
            index = [named for named in before if named.name != name]
            self.layout.write(_keep_nameless(before, _with(index, Named(manifest, size, name))))
            return self._image(manifest)

    def remove(self, reference: str, *, force: bool = False, in_use: Iterable[tuple[str, str, bool]] = ()) -> Removed:
        """Remove a name, and with the last name the image: ``[{"Untagged": name}, {"Deleted": id}, ...]``.

        *in_use* are the containers there are, as ImageUser (container id, image id, running).
        """
        from .remove import remove

        return remove(self, reference, force=force, users=[ImageUser(*user) for user in in_use])

    def _prune(self) -> Chains:
        """Remove layers and blobs that nothing names; the chain ids.  The lock is held."""
        chains: set[str] = set()
        blobs: set[str] = set()
        for named in self.layout.read():
            manifest = self.layout.json(named.manifest)
            config = manifest["config"]["digest"]
            blobs |= {named.manifest, config, *(layer["digest"] for layer in manifest["layers"])}
            chains.update(chain_ids(self.layout.json(config)["rootfs"]["diff_ids"]))
        gone = self.layers.prune(chains)
        for digest in self.layout.blobs():
            if digest not in blobs:
                self.layout.forget(digest)
        return gone

    # -- containers ----------------------------------------------------------------------------------------------

    def rootfs(self, image: Image, container_dir: str) -> RootFS:
        """A root file system for a container: the image's layers, and ``upper`` and ``work`` in *container_dir*.

        Called again for the same container it returns the same, with what was written kept.
        """
        upper, work = os.path.join(container_dir, "upper"), os.path.join(container_dir, "work")
        lower = [self.layers.diff(chain) for chain in reversed(image.layers)]
        with disk_errors(container_dir), self.layers.lock:
            for chain in image.layers:
                if not self.layers.exists(chain):
                    raise NoSuchImage(image.id)
            os.makedirs(container_dir, mode=0o710, exist_ok=True)
            self.layers.pin(container_dir, image.layers)
            os.makedirs(work, mode=0o700, exist_ok=True)
            if not os.path.isdir(upper):
                os.mkdir(upper, 0o755)
                _copy_owner(lower[0], upper)
        return {"lower": lower, "upper": upper, "work": work, "readonly": False}


def _copy_owner(source: str, target: str) -> None:
    """overlayfs shows the upper directory's owner and mode as those of "/"."""
    status = os.stat(source)
    try:
        os.chown(target, status.st_uid, status.st_gid)
    except PermissionError:
        pass  # without root everything belongs to us anyway
    os.chmod(target, status.st_mode & 0o7777)


def _new_name(reference: str) -> str:
    """The canonical form of a name to be given."""
    parsed = Reference.parse(reference)
    if parsed.digest:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    if parsed.familiar_name == "sha256":
        raise InvalidArgument("refusing to create an ambiguous tag using digest algorithm as name")
    return str(parsed.tagged())


def _with(index: Sequence[Named], new: Named) -> list[Named]:
    """*index* and *new*; an image has a line for each name, or one without a name."""
    if not new.name and any(named.manifest == new.manifest for named in index):
        return list(index)
    kept = [named for named in index if named != new and (named.name or named.manifest != new.manifest)]
    return [*kept, new]


def _keep_nameless(before: Iterable[Named], after: list[Named]) -> list[Named]:
    """An image whose last name went to another stays, without a name (Docker: <none>)."""
    present = {named.manifest for named in after}
    lost = {named.manifest: named for named in before if named.manifest not in present}
    return after + [Named(named.manifest, named.size, "") for named in lost.values()]
