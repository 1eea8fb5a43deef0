"""Volumes: a directory and a record that agree whatever fails, and modes that keep the host's users out."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pynet.engine.events import EventBus
from pynet.engine.filters import Filters
from pynet.engine.reserve import Reserve
from pynet.engine.volumes import KIND, Volumes
from pynet.netlib.errors import Conflict, InternalError, InvalidArgument, NotFound
from pynet.netlib.kernel.tree import remove_tree
from pynet.netlib.store.sqlite import Store
from pynet.plugins.isolation import maps_every_uid

ALL = Filters({"all": ["true"]})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "pynet.db")
    yield store
    store.close()


@pytest.fixture
def volumes(store: Store, tmp_path: Path) -> Volumes:
    return open_volumes(store, tmp_path)


def open_volumes(store: Store, root: Path, used: dict[str, list[str]] | None = None) -> Volumes:
    users = used or {}
    return Volumes(
        store, Reserve(root), root, EventBus(), lambda name, but: [id for id in users.get(name, []) if id != but]
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def sealed(store: Store, tmp_path: Path) -> Iterator[None]:
    """No record can be deleted, whoever tries."""
    store.list(KIND)
    with closing(sqlite3.connect(tmp_path / "pynet.db")) as other:
        other.executescript("CREATE TRIGGER seal BEFORE DELETE ON objects BEGIN SELECT RAISE(FAIL, 'sealed'); END")
        yield


# -- modes -------------------------------------------------------------------------------------------------------


def test_the_directory_of_volumes_is_its_owners_alone(volumes: Volumes, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        volumes.create("data")
    finally:
        os.umask(old)
    assert mode(tmp_path / "volumes") == mode(tmp_path / "volumes/data") == 0o700
    assert mode(tmp_path / "volumes/data/_data") == 0o755


def test_a_volume_has_its_mode_under_a_narrow_umask(volumes: Volumes, tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        volumes.create("data")
    finally:
        os.umask(old)
    assert mode(tmp_path / "volumes/data/_data") == 0o755


@pytest.fixture
def public() -> Iterator[Path]:
    """A root directory that was there before pynet, with the mode that directories have (pytest's own are closed)."""
    directory = Path(tempfile.mkdtemp(prefix="pn"))
    directory.chmod(0o755)
    yield directory
    remove_tree(directory)


def effective_user(program: Path) -> str:
    """What a setuid ``id -u`` says to an attacker who is nobody: whom it ran as, or why it did not."""
    command = [str(program), "-u"]
    try:
        done = subprocess.run(
            command, user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False
        )
    except PermissionError as error:
        return str(error.strerror)
    return done.stdout.strip()


@pytest.mark.skipif(not maps_every_uid(), reason="needs root with every uid")
def test_a_setuid_program_in_a_volume_is_out_of_reach_of_the_hosts_users(store: Store, public: Path) -> None:
    """CVE-2021-41091: root in a container makes it.  The directories are as an older pynet made them."""
    data = public / "volumes/old/_data"
    data.mkdir(parents=True)
    for path in (data, data.parent, data.parent.parent):
        path.chmod(0o755)
    program = data / "id"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    if os.statvfs(data).f_flag & os.ST_NOSUID:
        pytest.skip("set-user-id means nothing on this file system")
    assert effective_user(program) == "0", "an open door is what the attack needs"
    volumes = open_volumes(store, public)
    assert effective_user(program) == "Permission denied"
    volumes.create("new")
    shutil.copy2(program, volumes.path("new"))
    assert effective_user(Path(volumes.path("new"), "id")) == "Permission denied"


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x" * 256, "x" * 300, "x", "a/b", "..", ".x", "a\n", "ä" * 3])
def test_a_name_that_no_directory_can_have_leaves_nothing(
    volumes: Volumes, store: Store, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InvalidArgument):
        volumes.create(name)
    assert store.list(KIND) == [] and not (tmp_path / "volumes").exists()


def test_the_longest_name_is_a_volume(volumes: Volumes, tmp_path: Path) -> None:
    volumes.create("x" * 255)
    volumes.remove("x" * 255)
    assert os.listdir(tmp_path / "volumes") == []


def test_a_record_of_before_names_were_bounded_breaks_nothing_and_can_be_removed(
    volumes: Volumes, store: Store
) -> None:
    name = "x" * 300
    store.put(KIND, name, {"name": name, "created": 1.0, "labels": {}}, name)
    volumes.create("good")
    assert {shown["Name"]: shown["UsageData"]["Size"] for shown in volumes.usage()} == {name: 0, "good": 0}
    assert sorted(volumes.prune(ALL)["VolumesDeleted"]) == ["good", name]
    assert store.list(KIND) == []


# -- directory and record --------------------------------------------------------------------------------------------


def test_a_record_that_can_not_be_written_leaves_no_directory(volumes: Volumes, store: Store, tmp_path: Path) -> None:
    store.put(KIND, "another", {"name": "another", "created": 1.0, "labels": {}}, "taken")
    with pytest.raises(Conflict):
        volumes.create("taken")
    assert os.listdir(tmp_path / "volumes") == []


def test_a_directory_that_can_not_be_made_leaves_no_record(volumes: Volumes, store: Store, tmp_path: Path) -> None:
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes/blocked").write_text("in the way")
    with pytest.raises(OSError, match="blocked"):
        volumes.create("blocked")
    assert store.list(KIND) == []


def test_what_was_there_is_not_unmade_with_a_record_that_fails(volumes: Volumes, store: Store, tmp_path: Path) -> None:
    (tmp_path / "volumes/taken/_data").mkdir(parents=True)
    store.put(KIND, "another", {"name": "another", "created": 1.0, "labels": {}}, "taken")
    with pytest.raises(Conflict):
        volumes.create("taken")
    assert (tmp_path / "volumes/taken/_data").is_dir()


def test_a_directory_that_somebody_removed_counts_nothing_and_comes_back(volumes: Volumes, tmp_path: Path) -> None:
    body = volumes.create("data")
    remove_tree(tmp_path / "volumes/data")
    assert volumes.usage()[0]["UsageData"]["Size"] == 0
    assert volumes.create("data", {"other": "labels"}) == body and (tmp_path / "volumes/data/_data").is_dir()
    remove_tree(tmp_path / "volumes/data")
    volumes.remove("data")
    assert volumes.usage() == []
    with pytest.raises(NotFound):
        volumes.remove("data")
    volumes.remove("data", force=True)


@pytest.mark.usefixtures("sealed")
def test_a_volume_whose_record_can_not_be_deleted_stays_whole(volumes: Volumes, tmp_path: Path) -> None:
    volumes.create("data")
    (tmp_path / "volumes/data/_data/file").write_text("kept")
    with pytest.raises(InternalError):
        volumes.remove("data")
    assert (tmp_path / "volumes/data/_data/file").read_text() == "kept"
    volumes.discard("data")
    assert (tmp_path / "volumes/data/_data/file").read_text() == "kept"


def test_a_prune_leaves_what_is_used_and_follows_no_link(store: Store, tmp_path: Path) -> None:
    volumes = open_volumes(store, tmp_path, {"used": ["c1"]})
    for name in ("used", "linked", "free"):
        volumes.create(name)
        Path(volumes.path(name), "file").write_bytes(b"x" * 10)
    (tmp_path / "volumes/linked").rename(tmp_path / "elsewhere")
    (tmp_path / "volumes/linked").symlink_to(tmp_path / "elsewhere")
    pruned = volumes.prune(ALL)
    assert set(pruned["VolumesDeleted"]) == {"linked", "free"}
    assert (tmp_path / "elsewhere/_data/file").exists(), "a link goes, and not what it names"
    assert [body["name"] for body in store.list(KIND)] == ["used"]
    assert os.listdir(tmp_path / "trash") == []


def test_a_prune_takes_the_anonymous_alone_unless_told_otherwise(volumes: Volumes) -> None:
    volumes.create("named", {"keep": "no"})
    anonymous = volumes.create()["name"]
    assert volumes.prune(Filters({}))["VolumesDeleted"] == [anonymous]
    assert volumes.prune(Filters({"all": ["true"], "label!": ["keep"]}))["VolumesDeleted"] == []
    assert volumes.prune(Filters({"all": ["true"], "label": ["keep=no"]}))["VolumesDeleted"] == ["named"]


def test_who_uses_a_volume_keeps_it_but_for_the_one_that_goes(store: Store, tmp_path: Path) -> None:
    volumes = open_volumes(store, tmp_path, {"data": ["c1"]})
    volumes.create("data")
    with pytest.raises(Conflict, match=r"volume is in use - \[c1\]"):
        volumes.remove("data", force=True)
    volumes.discard("data", but="c2")
    assert store.get(KIND, "data") is not None
    volumes.discard("data", but="c1")
    assert store.get(KIND, "data") is None and os.listdir(tmp_path / "volumes") == []
