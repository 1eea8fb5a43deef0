"""Images: names, configurations and layers, kept so that any process may be killed at any moment.

    stream --> workspace: blob, both digests, unpacked layer        prepare.py, load.py
                   |  one hold of the store's lock
                   v
               layers/<chain>  blobs/sha256/<hex>  index.json       rename, rename, rename

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
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast

from ...netlib.errors import InternalError
from ...netlib.timestamps import format_stamp
from ..spec import RootFS
from . import bootstrap as image_bootstrap
from .architecture import host_architecture
from .changes import apply_changes
from .errors import InvalidReference, NoSuchImage, disk_errors
from .inflate import Readable
from .layers import LayerStore, chain_ids
from .layout import CONFIG, MANIFEST, Layout, Named, to_json
from .limits import Budget, Limits
from .load import load
from .model import Image, ImageUser, NewImage, PreparedLayer
from .names import named as with_names
from .names import new_name
from .prepare import prepare_layer
from .references import Reference, id_prefix
from .remove import decide
from .save import Saving, Writable

log = logging.getLogger(__name__)

# the class below has a method ``list``, which hides the type
Images = list[Image]
Removed = list[dict[str, str]]
Chains = list[str]
Tell = Callable[[str], object]
"""Gets a line about what could not be kept of a layer."""


def _nobody(_: str) -> None:
    pass


class ImageStore:
    """The images below ``<root>/images``.  Safe for threads and for several processes on one root."""

    def __init__(self, root: str, *, limits: Limits | None = None) -> None:
        self.path = os.path.join(root, "images")
        self.limits = limits or Limits()
        with disk_errors(self.path):
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            os.chmod(self.path, 0o700)  # setuid programs and secrets are in it; one may have been made by hand
            self.layout = Layout(self.path)
            self.layers = LayerStore(self.path, os.path.join(root, "containers"))
            self.layers.create()
            with self.layers.lock:
                self.layout.create()
                self.layers.sweep()
                try:
                    self._prune()
                except (InternalError, OSError) as error:  # a blob that is lost keeps nobody from starting
                    log.warning("what no image names is kept: %s", error)

    # -- making images -------------------------------------------------------------------------------------------

    def bootstrap(self, reference: str = "busybox:latest") -> Image:
        """Make an image from the host's static busybox; where it was made before from the same binary, that one."""
        name = new_name(reference)
        busybox = image_bootstrap.find_busybox()
        with disk_errors(self.path), self.layers.workspace() as work:
            layer = prepare_layer(work, Budget(self.limits), io.BytesIO(image_bootstrap.make_layer(busybox)))
            made = next((image.created for image in self.list() if image.layers == (layer.chain,)), "")
            return self._finish(image_bootstrap.make_config(made or format_stamp(time.time_ns())), layer, name)

    def import_rootfs(
        self,
        stream: Readable,
        reference: str = "",
        *,
        changes: Sequence[str] = (),
        message: str = "",
        tell: Tell = _nobody,
    ) -> Image:
        """An image of one layer from a tar archive of a root file system, compressed or not.

        *changes* are Dockerfile instructions; *reference* may be empty: then the image has only its id.
        """
        name = new_name(reference) if reference else ""
        config = apply_changes({}, changes)
        with disk_errors(self.path), self.layers.workspace() as work:
            layer = prepare_layer(work, Budget(self.limits), stream)
            created = format_stamp(time.time_ns())
            history = [{"created": created, "comment": message or "Imported from -"}]
            image = self._finish({"created": created, "config": config, "history": history}, layer, name)
        for warning in layer.warnings:
            tell(warning)
        return image

    def load(self, stream: Readable, *, tell: Tell = _nobody) -> Images:
        """Images from an archive of ``docker save`` or of an OCI layout, compressed or not: all of them, or none."""
        with disk_errors(self.path), self.layers.workspace() as work:
            prepare = partial(prepare_layer, work, Budget(self.limits))
            found = load(stream, work, self.limits, prepare)
            images = self.commit(found)
        for warning in dict.fromkeys(line for image in found for layer in image.layers for line in layer.warnings):
            tell(warning)
        return images

    def save(self, references: Sequence[str], stream: Writable) -> None:
        """Write images as an archive that ``docker load`` and OCI tools read."""
        with self.layers.lock:
            saving = Saving(self.layout, [(reference, self.get(reference)) for reference in references])
        with saving:
            saving.write(stream)

    def _finish(self, base: dict[str, Any], layer: PreparedLayer, name: str) -> Image:
        rootfs = {"type": "layers", "diff_ids": [layer.chain]}
        config = {**base, "architecture": host_architecture(), "os": "linux", "rootfs": rootfs}
        return self.commit([NewImage(to_json(config), (layer,), (name,) if name else ())])[0]

    def commit(self, images: Sequence[NewImage]) -> Images:
        """Give prepared layers their names and the images theirs: all of it, or nothing that counts."""
        with self.layers.lock:
            try:
                stored = [(self._adopt(image), image.names) for image in images]
                self.layout.write(with_names(self.layout.read(), stored))
            except BaseException:
                self._prune()  # what got its name before the failure has no image that names it
                raise
            return [self._image(manifest) for manifest in dict.fromkeys(found.manifest for found, _ in stored)]

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
        name = new_name(new)
        with disk_errors(self.path), self.layers.lock:
            manifest = self._find(reference)
            before = self.layout.read()
            image = next(named for named in before if named.manifest == manifest)
            self.layout.write(with_names(before, [(image, [name])]))
            return self._image(manifest)

    def remove(self, reference: str, *, force: bool = False, in_use: Iterable[tuple[str, str, bool]] = ()) -> Removed:
        """Remove a name, and with the last name the image: ``[{"Untagged": name}, {"Deleted": id}, ...]``.

        *in_use* are the containers there are, as ImageUser (container id, image id, running).
        """
        with disk_errors(self.path), self.layers.lock:
            image = self.get(reference)
            users = [ImageUser(*user) for user in in_use]
            removal = decide(self.layout.read(), image, reference, force=force, users=users)
            self.layout.write(removal.left)
            records = [{"Untagged": name} for name in removal.untagged]
            if removal.deleted:
                records.append({"Deleted": image.id})
                records += [{"Deleted": chain} for chain in self._prune()]
            return records

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
                os.mkdir(upper)
                os.chmod(upper, 0o755)  # overlayfs shows its mode as that of "/"; mkdir's is subject to the umask
        return {"lower": lower, "upper": upper, "work": work, "readonly": False}
