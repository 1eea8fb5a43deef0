"""A disk that is full at whatever step of an import, a load or a tag: the store stays whole, and what was begun goes away."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pynet.netlib.kernel.syscall import MNT_DETACH, mount, umount2
from pynet.plugins.testhost import Host
from pynet.runtime.images.errors import StoreFull
from pynet.runtime.images.layout import digest_of
from pynet.runtime.images.store import ImageStore

MS_REMOUNT = 32
PAGE = os.sysconf("SC_PAGE_SIZE")


def tar_of(files: dict[str, bytes]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.uid, info.gid, info.size = os.getuid(), os.getgid(), len(data)
            archive.addfile(info, io.BytesIO(data))
    return output.getvalue()


BASE, TOP = tar_of({"a": os.urandom(9000), "d/b": b"2"}), tar_of({"d/.wh.b": b"", "c": os.urandom(5000)})
CONFIG = json.dumps({"rootfs": {"type": "layers", "diff_ids": [digest_of(BASE), digest_of(TOP)]}}).encode()
MANIFEST = json.dumps([{"Config": "c", "RepoTags": ["two"], "Layers": ["l1", "l2"]}]).encode()
ARCHIVE = tar_of({"c": CONFIG, "l1": BASE, "l2": gzip.compress(TOP), "manifest.json": MANIFEST})

STEPS: dict[str, Callable[[ImageStore], object]] = {
    "import": lambda store: store.import_rootfs(io.BytesIO(BASE), "one"),
    "load": lambda store: store.load(io.BytesIO(ARCHIVE)),
    "tag": lambda store: store.tag("old", "another"),
    "container": lambda store: store.rootfs(store.get("old"), os.path.dirname(store.path) + "/containers/new"),
}


@pytest.fixture
def disk(tmp_path: Path, host: Host) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    mount("none", str(path), "tmpfs", 0, "size=4m")
    yield path
    umount2(str(path), MNT_DETACH)


def files(path: Path) -> dict[str, int]:
    return {str(found.relative_to(path)): found.lstat().st_size for found in path.rglob("*") if not found.is_dir()}


@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_gets_full_at_any_byte_of_it(disk: Path, step: str) -> None:
    """The disk grows by a page until the step succeeds, so each of its writes is the one that fails once."""
    store = ImageStore(str(disk))
    old = store.import_rootfs(io.BytesIO(tar_of({"old": b"x"})), "old")
    before = files(disk / "images")
    status = os.statvfs(disk)
    used = status.f_blocks - status.f_bfree
    descriptors = len(os.listdir("/proc/self/fd"))
    failures = 0
    for more in range(200):
        mount("none", str(disk), "tmpfs", MS_REMOUNT, f"size={(used + more) * PAGE}")
        try:
            STEPS[step](store)
        except StoreFull as error:
            failures += 1
            assert error.hint
        else:
            break
        assert store.list() == [old] and files(disk / "images") == before, f"with {more} pages"
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert ImageStore(str(disk)).list() == [old], "a start on a full disk"
    assert failures >= (12 if step in ("import", "load") else 1)
    assert step == "container" or len(store.list()[0].repo_tags) == (2 if step == "tag" else 1)
    mount("none", str(disk), "tmpfs", MS_REMOUNT, "size=4m")
    assert ImageStore(str(disk)).list() == store.list()
    assert os.listdir(disk / "images/tmp") == []
