"""Layers unpacked, the hostile ones each by name: nothing outside is touched, and no half layer is kept."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pynet.netlib.kernel.tree import remove_tree, tree_size
from pynet.runtime.images.attributes import is_rootless
from pynet.runtime.images.errors import InvalidArchive
from pynet.runtime.images.inflate import Inflated
from pynet.runtime.images.limits import Limits
from pynet.runtime.images.store import ImageStore
from pynet.runtime.images.unpack import Unpacked, unpack

from support.nobody import as_nobody

Item = tuple[str, dict[str, Any]]


def entry(name: str, data: bytes = b"", **fields: Any) -> Item:
    return name, {"size": len(data), "data": data, **fields}


def folder(name: str, mode: int = 0o755) -> Item:
    return entry(name, type=tarfile.DIRTYPE, mode=mode)


def symlink(name: str, target: str) -> Item:
    return entry(name, type=tarfile.SYMTYPE, linkname=target)


def hardlink(name: str, target: str) -> Item:
    return entry(name, type=tarfile.LNKTYPE, linkname=target)


def tar_of(*items: Item) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, fields in items:
            info = tarfile.TarInfo(name)
            for key, value in fields.items():
                if key != "data":
                    setattr(info, key, value)
            info.uid, info.gid = fields.get("uid", os.getuid()), fields.get("gid", os.getgid())
            archive.addfile(info, io.BytesIO(fields["data"]))
    return output.getvalue()


def open_layer(path: Path, *items: Item, lower: tuple[Path, ...] = (), **options: Any) -> Unpacked:
    path.mkdir(parents=True)
    return unpack(Inflated(io.BytesIO(tar_of(*items))), str(path), lower=[str(one) for one in lower], **options)


def tree(path: Path) -> set[str]:
    return {str(found.relative_to(path)) for found in path.rglob("*")}


HOSTILE: dict[str, tuple[list[Item], str]] = {
    "dot dot": ([entry("../outside/owned", b"x")], "leads out"),
    "dot dot inside": ([entry("a/../../outside/owned", b"x")], "leads out"),
    "hard link out": ([hardlink("a", "../outside/secret")], "leads out"),
    "hard link to an absolute path": ([hardlink("a", "/outside/secret")], "does not exist in this layer"),
    "hard link to the root": ([hardlink("a", "/")], "archive's root"),
    "hard link to a directory": ([folder("d"), hardlink("a", "d")], "to a directory"),
    "hard link through a link out": ([symlink("l", "../../../outside"), hardlink("a", "l/secret")], "dangling"),
    "whiteout of the parent": ([folder("d"), entry("d/.wh...")], "whiteout of '..'"),
    "whiteout of itself": ([folder("d"), entry("d/.wh..")], "whiteout of '.'"),
    "whiteout of nothing": ([folder("d"), entry("d/.wh.")], "whiteout of 'nothing'"),
    "file as parent": ([entry("a", b"x"), entry("a/b", b"x")], "parent is not a directory"),
    "dangling parent": ([symlink("a", "nowhere"), entry("a/b", b"x")], "dangling symbolic link"),
    "looping parent": ([symlink("a", "b"), symlink("b", "a"), entry("a/c", b"x")], "too many symbolic links"),
    "long component": ([entry("x" * 300, b"x")], "a name is too long"),
    "root is a file": ([entry("./", b"", type=tarfile.SYMTYPE, linkname="x")], "root is a symlink"),
    "whiteout device": ([entry("a", type=tarfile.CHRTYPE, devmajor=0, devminor=0)], "0:0"),
    "no name": ([entry("a", pax_headers={"path": ""})], "empty or invalid name"),
    "zero in a name": ([entry("a", pax_headers={"path": "a\0b"})], "empty or invalid name"),
    "zero in a link": ([entry("a", type=tarfile.SYMTYPE, pax_headers={"linkpath": "a\0b"})], "zero byte"),
    "zero in an attribute": ([entry("a", pax_headers={"SCHILY.xattr.user.a\0b": "v"})], "attribute has a zero byte"),
    "sparse": ([entry("a", type=b"S")], "sparse"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_leaves_no_layer_and_nothing_outside(case: str, tmp_path: Path) -> None:
    items, message = HOSTILE[case]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("untouched")
    (tmp_path / "outside-link").symlink_to(outside)
    store = ImageStore(str(tmp_path / "root"))
    before = tree(tmp_path)
    with pytest.raises(InvalidArchive, match=message):
        store.import_rootfs(io.BytesIO(tar_of(entry("good", b"x"), *items)), "hostile")
    assert tree(tmp_path) == before
    assert (outside / "secret").read_text() == "untouched" and (outside / "secret").stat().st_nlink == 1
    assert store.list() == []


def test_links_that_point_out_lead_back_in(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    open_layer(
        tmp_path / "layer",
        folder("etc"),
        symlink("up", "../../outside"),
        symlink("abs", str(outside)),
        symlink("sub", "/etc"),
        folder("outside"),
        entry("up/a", b"1"),
        entry("sub/b", b"2"),
        entry("/abs-file", b"3"),
    )
    assert list(outside.iterdir()) == []
    layer = tmp_path / "layer"
    assert (layer / "outside/a").read_bytes() == b"1"
    assert (layer / "etc/b").read_bytes() == b"2"
    assert (layer / "abs-file").read_bytes() == b"3"


def test_the_last_entry_of_a_name_wins_and_links_are_not_written_through(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("untouched")
    layer = tmp_path / "layer"
    open_layer(
        layer,
        symlink("a", str(target)), entry("a", b"file"),
        folder("b"), entry("b/in", b"x"), symlink("b", "c"),
        folder("c"), entry("b/through", b"now in c"),
        entry("d", b"x"), folder("d"), entry("d/e", b"x"),
        entry("h1", b"one"), hardlink("h2", "h1"), hardlink("h2", "h2"), hardlink("h2", "./h1"),
    )  # fmt: skip
    assert target.read_text() == "untouched"
    assert (layer / "a").read_bytes() == b"file"
    assert not (layer / "b/in").exists() and (layer / "c/through").read_bytes() == b"now in c"
    assert (layer / "d/e").exists()
    assert (layer / "h1").samefile(layer / "h2") and (layer / "h2").read_bytes() == b"one"


def test_modes_times_and_attributes(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    old = os.umask(0o077)
    try:
        open_layer(
            layer,
            entry(".", type=tarfile.DIRTYPE, mode=0o711, mtime=5),
            entry("ro", type=tarfile.DIRTYPE, mode=0o555, mtime=7),
            entry("ro/suid", b"x", mode=0o4755, mtime=9, pax_headers={"SCHILY.xattr.user.k": "v"}),
            entry("ro/l", type=tarfile.SYMTYPE, linkname="x", mtime=11),
            entry("tmp", type=tarfile.DIRTYPE, mode=0o1777),
            entry("p", type=tarfile.FIFOTYPE, mode=0o622),
            entry("implicit/f", b"x", pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"}),
            entry("evil", b"x", pax_headers={"SCHILY.xattr.user.overlay.redirect": "/etc"}),
        )
    finally:
        os.umask(old)

    def mode(name: str) -> int:
        return stat.S_IMODE((layer / name).stat().st_mode)

    assert [mode(n) for n in (".", "ro", "ro/suid", "tmp", "p", "implicit")] == [
        0o755, 0o555, 0o4755, 0o1777, 0o622, 0o755,
    ]  # fmt: skip
    assert [os.lstat(layer / n).st_mtime for n in ("ro", "ro/suid", "ro/l")] == [7, 9, 11]
    assert os.getxattr(layer / "ro/suid", "user.k") == b"v"
    assert os.listxattr(layer / "evil") == [] == os.listxattr(layer / "implicit/f")


def test_whiteouts_become_those_of_overlayfs(tmp_path: Path) -> None:
    base, top = tmp_path / "base", tmp_path / "top"
    open_layer(base, entry("gone", b"x"), folder("d", 0o750), entry("d/x", b"x"), entry(".wh.stray", b""))
    assert tree(base) == {"gone", "d", "d/x"}
    open_layer(
        top,
        entry(".wh.gone"),
        entry("d/.wh..wh..opq"),
        entry("d/new", b"x"),
        entry(".wh.e"), folder("e"),
        folder("f"), entry(".wh.f"),
        entry("g", b"kept"), entry(".wh.g"),
        entry(".wh..wh.plnk"),
        lower=(base,),
        rootless=True,
    )  # fmt: skip
    assert tree(top) == {"gone", "d", "d/new", "e", "f", "g"}
    status = os.lstat(top / "gone")
    assert stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
    assert [os.getxattr(top / n, "user.overlay.opaque") for n in "def"] == [b"y"] * 3
    assert stat.S_IMODE(os.stat(top / "d").st_mode) == 0o750, "an unmentioned parent looks as it does below"
    assert (top / "g").read_bytes() == b"kept"


@pytest.mark.parametrize("name", [".", "./", "/", "a/..", "/./"])
def test_the_root_is_everybodys_to_enter_whatever_its_entry_says(tmp_path: Path, name: str) -> None:
    """`tar -C "$(mktemp -d)" .` says 0700, and no user of a container but root could do anything."""
    data = {"SCHILY.xattr.user.k": "v"}
    root = entry(name, type=tarfile.DIRTYPE, mode=0o700, mtime=5, uid=1234, gid=1234, pax_headers=data)
    if name == "a/..":
        with pytest.raises(InvalidArchive, match="leads out"):
            open_layer(tmp_path / "layer", root)
        return
    open_layer(tmp_path / "layer", root, entry("a", b"x"))
    status = (tmp_path / "layer").stat()
    assert stat.S_IMODE(status.st_mode) == 0o755 and (status.st_uid, status.st_mtime != 5) == (os.getuid(), True)
    assert os.listxattr(tmp_path / "layer") == []


def test_the_root_of_a_container_is_everybodys_to_enter_also_of_an_image_of_before(tmp_path: Path) -> None:
    store = ImageStore(str(tmp_path))
    image = store.import_rootfs(io.BytesIO(tar_of(entry("a", b"x"))), "old")
    os.chmod(store.layers.diff(image.layers[0]), 0o700)  # as older ones unpacked "./" of 0700
    old = os.umask(0o077)
    try:
        root = store.rootfs(image, str(tmp_path / "containers/c"))
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(root["upper"]).st_mode) == 0o755


def test_a_link_that_is_replaced_leads_where_it_says_now(tmp_path: Path) -> None:
    """Directories are kept open by the path that they were reached by: the path of a link must be forgotten with it."""
    open_layer(
        tmp_path / "layer",
        folder("a"), folder("b"),
        symlink("l", "a"), entry("l/first", b"x"),
        symlink("l", "b"), entry("l/second", b"x"),
        folder("l"), entry("l/third", b"x"),
    )  # fmt: skip
    assert tree(tmp_path / "layer") == {"a", "a/first", "b", "b/second", "l", "l/third"}


def test_rootless_owners_and_devices_are_left_out_with_a_warning(tmp_path: Path) -> None:
    if not is_rootless():
        pytest.skip("root with every uid sets owners; tests/kernel has this in a user namespace")
    result = open_layer(
        tmp_path / "layer",
        entry("suid", b"x", mode=0o4755, uid=12345, gid=12345),
        entry("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    )
    assert tree(tmp_path / "layer") == {"suid"}
    assert stat.S_IMODE((tmp_path / "layer/suid").stat().st_mode) == 0o755
    assert len(result.warnings) == 2


@pytest.mark.parametrize("limits", [Limits(entries=3), Limits(bytes=4096)])
def test_bombs_are_bounded(tmp_path: Path, limits: Limits) -> None:
    store = ImageStore(str(tmp_path), limits=limits)
    bomb = tar_of(*(entry(f"f{i}", b"x" * 1000) for i in range(4)))
    with pytest.raises(InvalidArchive, match=r"more than 3 entries|larger than 4096 bytes"):
        store.import_rootfs(io.BytesIO(bomb), "bomb")
    assert os.listdir(tmp_path / "images/tmp") == os.listdir(tmp_path / "images/layers") == []


def test_more_directories_than_descriptors_are_cached(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    count = 1300
    items = [entry(f"d{i % 650}/e{i}/f", b"x") for i in range(count)]
    links = [hardlink(f"l{i % 7}/{i}", f"d{i % 650}/e{i}/f") for i in range(count)]
    result = open_layer(tmp_path / "layer", *items, *links)
    assert result.entries == 2 * count
    assert all((tmp_path / f"layer/l{i % 7}/{i}").stat().st_nlink == 2 for i in range(0, count, 50))
    assert len(os.listdir("/proc/self/fd")) == before


component = st.sampled_from(["a", "b", "..", ".", "", ".wh.a", ".wh..", ".wh...", ".wh..wh..opq", "c"])
paths = st.lists(component, min_size=1, max_size=4).map("/".join)
kinds: dict[str, Callable[[str, str], Item]] = {
    "file": lambda name, _: entry(name, b"x"),
    "folder": lambda name, _: folder(name),
    "symlink": symlink,
    "hardlink": hardlink,
}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(kinds)), paths, st.one_of(paths, paths.map("/".__add__))), max_size=8))
def test_no_sequence_of_entries_reaches_outside(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[str, str, str]]
) -> None:
    """The layer lies below folders with the names that the entries use: a step out would hit one of them."""
    top = tmp_path_factory.mktemp("property")
    for name in ("a", "b", "c"):
        (top / name).mkdir()
        (top / name / "a").write_text("untouched")
    base = top / "base"
    open_layer(base, folder("a"), entry("b", b"x"))

    def look(path: Path) -> tuple[int, ...]:
        status = path.lstat()
        return status.st_ino, status.st_mode, status.st_nlink, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    before = {path: look(path) for path in top.rglob("*")}
    try:
        open_layer(top / "layer", *(kinds[kind](name, target) for kind, name, target in items if name), lower=(base,))
    except InvalidArchive:
        pass
    for path, status in before.items():
        assert look(path) == status
    assert {path for path in top.rglob("*") if (top / "layer") not in (path, *path.parents)} == set(before)


def test_a_directory_that_a_link_replaced_gives_its_mode_to_nobody(tmp_path: Path) -> None:
    """Modes are set at the end, by path: not through a link that took the directory's place."""
    open_layer(tmp_path / "layer", folder("other", 0o755), folder("gone", 0o700), symlink("gone", "other"))
    assert stat.S_IMODE((tmp_path / "layer/other").stat().st_mode) == 0o755
    assert os.readlink(tmp_path / "layer/gone") == "other"


def test_a_parent_is_in_use_while_what_is_in_it_is_replaced(tmp_path: Path) -> None:
    """What is cached is forgotten then, but for the descriptor that the entry is made by."""
    open_layer(
        tmp_path / "layer",
        folder("p"), folder("p/d"), entry("p/d/f", b"x"),
        entry("p/d", b"a file"), folder("p/d"), symlink("p/d", "nowhere"), entry("p/d", b"at last"),
    )  # fmt: skip
    assert tree(tmp_path / "layer") == {"p", "p/d"} and (tmp_path / "layer/p/d").read_bytes() == b"at last"


def test_modes_are_set_from_within_where_an_owner_could_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with as_nobody(tmp_path):
        os.mkdir("layer")
        stream = Inflated(io.BytesIO(tar_of(folder("a", 0), folder("a/b", 0o500), entry("a/b/f", b"x"))))
        unpack(stream, "layer", rootless=True)
    assert [stat.S_IMODE((tmp_path / "layer" / name).stat().st_mode) for name in ("a", "a/b")] == [0, 0o500]


def test_directories_beyond_the_recursion_limit_are_made_replaced_and_removed(tmp_path: Path) -> None:
    """A path of a letter a component has 2,047 of them: all made for one entry, all in the way of another."""
    before = len(os.listdir("/proc/self/fd"))
    deep = "/".join("d" * 2040)
    result = open_layer(tmp_path / "layer", entry(f"{deep}/f", b"x"), entry("d", b"in place of it"))
    assert result.entries == 2 and (tmp_path / "layer/d").read_bytes() == b"in place of it"
    open_layer(tmp_path / "kept", entry(f"{deep}/f", b"12"))
    assert tree_size(tmp_path / "kept") == 2
    remove_tree(tmp_path / "kept")
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_image_of_deep_directories_comes_and_goes(tmp_path: Path) -> None:
    store = ImageStore(str(tmp_path))
    deep = "/".join("d" * 2040)
    store.import_rootfs(io.BytesIO(tar_of(entry(f"{deep}/f", b"x"))), "deep")
    left = tmp_path / "images/tmp/left"
    os.rename(store.layers.diff(store.get("deep").layers[0]), left)  # as a kill in the middle of a removal leaves it
    os.mkdir(store.layers.diff(store.get("deep").layers[0]))
    store = ImageStore(str(tmp_path))
    assert not left.exists() and store.get("deep")
    store.remove("deep")
    assert os.listdir(tmp_path / "images/tmp") == os.listdir(tmp_path / "images/layers") == []
