"""Removing trees with mounts in them, and one of a hundred thousand directories in one another."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynet.netlib.kernel.syscall import MNT_DETACH, MS_BIND, mount, umount2
from pynet.netlib.kernel.tree import remove_tree, tree_size
from pynet.plugins.testhost import Host


@pytest.fixture
def memory(tmp_path: Path, host: Host) -> Iterator[Path]:
    """A filesystem in memory: a hundred thousand directories take the disk half a minute."""
    path = tmp_path / "memory"
    path.mkdir()
    mount("none", str(path), "tmpfs")
    yield path
    umount2(str(path), MNT_DETACH)


def test_a_hundred_thousand_directories_in_one_another(memory: Path) -> None:
    (memory / "deep").mkdir()
    fd = os.open(memory / "deep", os.O_RDONLY)
    for _ in range(100_000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.write(file := os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd), b"seen")
    os.close(file)
    os.close(fd)
    assert tree_size(memory / "deep") == 4
    remove_tree(memory / "deep")
    assert os.listdir(memory) == []


@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_a_mount_is_not_crossed(memory: Path, kind: str) -> None:
    """A bind of the same filesystem has the same device number: only the kernel knows that it is one."""
    (memory / "outside").mkdir()
    (memory / "outside/kept").write_text("kept")
    (memory / "tree/mounted").mkdir(parents=True)
    (memory / "tree/file").write_text("12")
    target = str(memory / "tree/mounted")
    mount(str(memory / "outside"), target, "tmpfs" if kind == "tmpfs" else None, MS_BIND if kind == "bind" else 0)
    try:
        if kind == "tmpfs":
            (memory / "tree/mounted/kept").write_text("kept")
        assert tree_size(memory / "tree") == 2
        errors: list[OSError] = []
        remove_tree(memory / "tree", errors=errors)
        assert errors[0].errno == errno.EXDEV
        assert os.listdir(target) == ["kept"] and os.listdir(memory / "outside") == ["kept"]
        assert os.listdir(memory / "tree") == ["mounted"]
        with pytest.raises(OSError, match="cross-device"):
            remove_tree(target)
    finally:
        umount2(target, MNT_DETACH)
    remove_tree(memory / "tree")
    assert os.listdir(memory) == ["outside"]
