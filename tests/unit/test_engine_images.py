"""What the API tells of images: warnings on the progress stream."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from pynet.engine.events import EventBus
from pynet.engine.images import Images
from pynet.engine.reserve import Reserve
from pynet.runtime.images.layout import digest_of
from pynet.runtime.images.store import ImageStore


def tar_of(files: dict[str, bytes], **pax: str) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), pax
            archive.addfile(info, io.BytesIO(data))
    return output.getvalue()


# a capability that no kernel takes, whoever asks
LAYER = tar_of({"ping": b"x", "ping6": b"x"}, **{"SCHILY.xattr.security.capability": "none at all"})


def images(root: Path) -> Images:
    return Images(ImageStore(str(root)), Reserve(root), EventBus(), list)


def test_what_an_import_could_not_keep_is_told_before_the_id(tmp_path: Path) -> None:
    lines = images(tmp_path).import_rootfs(io.BytesIO(LAYER), "app", [], "")
    *warnings, last = lines
    assert [line["status"].partition(": attribute")[0] for line in warnings] == ["Warning: ping", "Warning: ping6"]
    assert last["status"].startswith("sha256:"), "scripts take the last line for the id"


def test_what_a_load_could_not_keep_is_told_once(tmp_path: Path) -> None:
    config = json.dumps({"rootfs": {"diff_ids": [digest_of(LAYER)]}}).encode()
    manifest = json.dumps([{"Config": "c", "RepoTags": ["one", "two"], "Layers": ["l"]}] * 2).encode()
    archive = tar_of({"c": config, "l": LAYER, "manifest.json": manifest})
    lines = [line["stream"] for line in images(tmp_path).load(io.BytesIO(archive))]
    assert [line.startswith("Warning: ") for line in lines] == [True, True, False, False], lines
    assert lines[2:] == ["Loaded image: one:latest\n", "Loaded image: two:latest\n"]
