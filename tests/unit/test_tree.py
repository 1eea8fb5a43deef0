"""Trees that somebody else made: removed and measured whatever their depth, without a step outside."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynet.netlib.kernel.tree import ERRORS_KEPT, _below, discard_tree, remove_tree, tree_size
from pynet.plugins.isolation import maps_every_uid

from support.nobody import as_nobody

DEPTH = 1500
"""More than Python's recursion limit, and more than a path can name with components of a few letters."""


def dig(path: Path, depth: int, name: str = "dir") -> None:
    """*depth* directories in one another, each with a file of one byte in it."""
    path.mkdir(exist_ok=True)
    fd = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_tree_deeper_than_the_recursion_limit_and_the_longest_path_goes(tmp_path: Path) -> None:
    dig(tmp_path / "deep", DEPTH)
    (tmp_path / "beside").mkdir()
    assert tree_size(tmp_path / "deep") == 0
    remove_tree(tmp_path / "deep")
    assert os.listdir(tmp_path) == ["beside"]


def test_descriptors_are_few_at_any_depth(tmp_path: Path) -> None:
    dig(tmp_path / "deep", 100)
    used = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 6, hard))
    try:
        remove_tree(tmp_path / "deep")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "absolute").symlink_to(outside)
    (tree / "relative").symlink_to("../outside")
    (tree / "nowhere").symlink_to("nowhere")
    os.mkfifo(tree / "fifo")
    assert tree_size(tree) == 0
    remove_tree(tree)
    assert sorted(os.listdir(tmp_path)) == ["outside"] and os.listdir(outside) == ["kept"]


def test_a_link_or_a_file_in_place_of_a_directory_is_what_goes(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "file").write_text("x")
    for name in ("link", "file", "never there"):
        remove_tree(tmp_path / name)
    assert os.listdir(tmp_path) == ["outside"] and os.listdir(outside) == ["kept"]
    assert tree_size(tmp_path / "link") == tree_size(outside / "kept") == 0, "not a directory"


@pytest.mark.parametrize("path", ["/", ".", "..", "x/..", ""])
def test_what_names_no_entry_of_a_directory_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="names no entry"):
        remove_tree(path)


def test_names_that_are_no_text_and_many_siblings(tmp_path: Path) -> None:
    tree = os.fsencode(tmp_path / "tree")
    for name in (b"\xff\xfe", b"new\nline", b"-rf", b" ", b"x" * 255, *(b"%d" % i for i in range(300))):
        os.makedirs(tree + b"/" + name + b"/\xff")
        with open(tree + b"/" + name + b"/\xff/file", "wb") as file:
            file.write(b"12")
    assert tree_size(tmp_path / "tree") == 2 * 305
    remove_tree(tree)
    assert os.listdir(tmp_path) == []


def test_below_a_descriptor(tmp_path: Path) -> None:
    dig(tmp_path / "a", 3)
    (tmp_path / "b").write_text("")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        remove_tree(b"a", dir_fd=fd)
    finally:
        os.close(fd)
    assert os.listdir(tmp_path) == ["b"]


def test_files_with_several_links_count_once_and_links_never(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/one").write_bytes(b"x" * 1000)
    os.link(tmp_path / "deep/one", tmp_path / "two")
    (tmp_path / "three").symlink_to("two")
    (tmp_path / "four").write_bytes(b"x" * 24)
    assert tree_size(tmp_path) == 1024
    assert tree_size(tmp_path / "nowhere") == 0


def test_a_directory_that_is_moved_away_meanwhile_ends_the_walk(tmp_path: Path) -> None:
    """The way up would lead into a directory that was never part of the tree."""
    (tmp_path / "tree/a/b").mkdir(parents=True)
    (tmp_path / "tree/a/b/file").write_text("")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").mkdir()
    top = os.open(tmp_path / "tree", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="moved") as raised:
            for found in _below(top, lambda _: None):
                assert found.name == b"file", "nothing after the move may be reported"
                (tmp_path / "tree/a/b").rename(tmp_path / "outside/b")
    finally:
        os.close(top)
    assert raised.value.errno == errno.ESTALE
    assert sorted(os.listdir(tmp_path / "outside")) == ["b", "kept"]


def test_an_owner_opens_up_what_the_modes_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # nobody may not come here by the whole path
    tree = Path("tree")
    (tree / "closed/within").mkdir(parents=True)
    (tree / "closed/within/file").write_text("x")
    (tree / "unwritable/within").mkdir(parents=True)
    modes = {tree / "closed/within": 0, tree / "closed": 0, tree / "unwritable": 0o500, tree: 0o500}
    for path, mode in modes.items():
        path.chmod(mode)
    with as_nobody(tmp_path, tree / "unwritable/within", tree / "closed/within/file", *modes):
        assert tree_size(tree) == 0, "measuring changes no mode"
        remove_tree(tree)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not maps_every_uid(), reason="needs root with every uid")
def test_what_can_be_removed_is_and_the_rest_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree = Path("tree")
    (tree / "mine").mkdir(parents=True)
    (tree / "roots").mkdir()
    for number in range(2 * ERRORS_KEPT):
        (tree / f"roots/{number}").write_text("x")
    with as_nobody(tmp_path, tree, tree / "mine"):
        with pytest.raises(PermissionError):
            remove_tree(tree)
        errors: list[OSError] = []
        remove_tree(tree, errors=errors)
        told: list[str] = []
        discard_tree(tree, told.append)
    assert os.listdir(tree) == ["roots"] and len(os.listdir(tree / "roots")) == 2 * ERRORS_KEPT
    assert len(errors) == ERRORS_KEPT and {error.errno for error in errors} == {errno.EACCES}
    assert len(told) == 1 and "tree could not be removed wholly" in told[0]
