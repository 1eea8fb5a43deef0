"""Archives of images, written: one that Docker's clients load and OCI tools read (see load.py for both forms)."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import BinaryIO, Protocol, cast

from .errors import InvalidReference
from .layout import INDEX, MANIFEST, NAME, TAG, Json, Layout, to_json
from .model import Image
from .references import Reference


class Writable(Protocol):
    """All that a tar archive in one go needs of a file."""

    def write(self, data: bytes, /) -> int: ...


class Saving:
    """Images on their way out: their blobs are open from the beginning, so a removal meanwhile does not matter."""

    def __init__(self, layout: Layout, images: Sequence[tuple[str, Image]]) -> None:
        """*images* each with the reference it was asked by, which is saved with it unless it is an id.  The lock is held."""
        self._opened = ExitStack()
        self._blobs: dict[str, BinaryIO] = {}
        self._docker: list[Json] = []
        self._index: list[Json] = []
        try:
            for digest, names in _names(images).items():
                self._add(layout, digest, names)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Saving:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._opened.close()

    def _add(self, layout: Layout, digest: str, names: list[str]) -> None:
        manifest = layout.json(digest)
        layers = [layer["digest"] for layer in manifest["layers"]]
        config = manifest["config"]["digest"]
        for blob in (digest, config, *layers):
            if blob not in self._blobs:
                self._blobs[blob] = self._opened.enter_context(layout.open(blob))
        self._docker.append(
            {
                "Config": _blob_name(config),
                "RepoTags": [Reference.parse(name).familiar for name in names] or None,
                "Layers": [_blob_name(layer) for layer in layers],
            }
        )
        descriptor: Json = {"mediaType": MANIFEST, "digest": digest, "size": len(to_json(manifest))}
        named = [{**descriptor, "annotations": {NAME: name, TAG: name.rpartition(":")[2]}} for name in names]
        self._index += named or [descriptor]

    def write(self, stream: Writable) -> None:
        with tarfile.open(fileobj=cast(BinaryIO, stream), mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for digest, file in self._blobs.items():
                file.seek(0, io.SEEK_END)
                _add_member(archive, _blob_name(digest), file, file.tell())
            for name, value in (
                ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
                ("index.json", {"schemaVersion": 2, "mediaType": INDEX, "manifests": self._index}),
                ("manifest.json", self._docker),
            ):
                data = to_json(value)
                _add_member(archive, name, io.BytesIO(data), len(data))


def _names(images: Sequence[tuple[str, Image]]) -> dict[str, list[str]]:
    """Manifest to canonical names."""
    tags: dict[str, list[str]] = {}
    for reference, image in images:
        names = tags.setdefault(image.manifest, [])
        name = _name(reference, image)
        if name and name not in names:
            names.append(name)
    return tags


def _name(reference: str, image: Image) -> str:
    """The canonical name when *reference* is one of the image's, "" when it is an id or a digest ("cafe" may be either)."""
    try:
        parsed = Reference.parse(reference).tagged()
    except InvalidReference:
        return ""
    return str(parsed) if parsed.familiar in image.repo_tags else ""


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _add_member(archive: tarfile.TarFile, name: str, file: BinaryIO, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    file.seek(0)
    archive.addfile(info, file)
