"""A full disk, below the root and below the run directory: errors that say so, a way out, and a daemon that lives."""

from __future__ import annotations

import ctypes
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynet.plugins.testhost import Host

from support.engine import Daemon

MNT_DETACH = 2


@pytest.fixture
def small_root(host: Host) -> Iterator[Daemon]:
    with Daemon.running() as daemon:
        daemon.stop_all()
        mount_tmpfs(daemon.root, "8m")
        try:
            assert daemon.start() == "1"
            daemon.bootstrap()
            yield daemon
            daemon.stop_all()
        finally:
            unmount(daemon.root)


def mount_tmpfs(path: Path, size: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.mount(b"none", os.fsencode(path), b"tmpfs", 0, f"size={size},mode=755".encode())
    assert result == 0, os.strerror(ctypes.get_errno())


def unmount(path: Path) -> None:
    ctypes.CDLL(None).umount2(os.fsencode(path), MNT_DETACH)


def fill(path: Path) -> Path:
    """A file that takes all that is left below *path*, to the last byte."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return filler


def create(daemon: Daemon, name: str, *words: str) -> None:
    reply = daemon.post("/containers/create", {"Image": "busybox", "Cmd": list(words), "StopSignal": "KILL"}, name=name)
    assert reply.status == 201, reply


def test_a_full_disk_is_told_and_removals_make_room(small_root: Daemon) -> None:
    daemon = small_root
    create(daemon, "idle", "sleep", "1000")
    create(daemon, "greedy", "sh", "-c", "sleep 1000")
    for name in ("idle", "greedy"):
        assert daemon.post(f"/containers/{name}/start").status == 204
    filler = fill(daemon.root)
    for path, body in (
        ("/containers/create", {"Image": "busybox"}),
        ("/networks/create", {"Name": "more"}),
        ("/volumes/create", {"Name": "more"}),
    ):
        reply = daemon.post(path, body)
        assert reply.status == 500, reply
        assert "space" in str(reply.body).lower() or "disk is full" in reply.body["message"], reply
        assert reply.body["hint"]
    assert len(daemon.get("/networks").body) == 3
    assert len(daemon.get("/containers/json", all=1).body) == 2
    # what has to be written down for an end is written all the same
    assert daemon.post("/containers/idle/stop").status == 204
    assert daemon.delete("/containers/greedy", force=1).status == 204
    assert [c["State"] for c in daemon.get("/containers/json", all=1).body] == ["exited"]
    filler.unlink()
    assert daemon.post("/containers/idle/start").status == 204
    assert daemon.get("/pynet/check").body == []


def test_images_and_volumes_can_be_removed_from_a_full_disk(small_root: Daemon) -> None:
    """Each has to be written down before it can make room."""
    daemon = small_root
    assert daemon.post("/volumes/create", {"Name": "data"}).status == 201
    assert daemon.post("/images/busybox/tag", repo="another", tag="one").status == 201
    volume = daemon.root / "volumes/data/_data"
    filler = fill(daemon.root)
    reply = daemon.delete("/images/another:one")
    assert (reply.status, reply.body) == (200, [{"Untagged": "another:one"}])
    # the reserve is given up and there is no room for another: what a volume holds makes it
    filler.rename(volume / "filler")
    fill(daemon.root)
    assert daemon.delete("/volumes/data").status == 204
    assert daemon.get("/volumes").body["Volumes"] == [] == os.listdir(daemon.root / "trash")
    # now there is a reserve again
    fill(daemon.root)
    assert daemon.delete("/images/busybox").status == 200
    assert daemon.get("/images/json").body == []
    (daemon.root / "filler").unlink()
    daemon.bootstrap()


def test_a_container_that_fills_the_disk_while_it_starts_is_not_told_as_failed(small_root: Daemon) -> None:
    daemon = small_root
    create(daemon, "greedy", "sh", "-c", "dd if=/dev/zero of=/x bs=64k; sleep 1000")
    reply = daemon.post("/containers/greedy/start")
    running = daemon.get("/containers/greedy/json").body["State"]["Running"]
    assert running == (reply.status == 204), reply
    assert daemon.delete("/containers/greedy", force=1).status == 204
    create(daemon, "next", "true")


def test_pynetd_starts_on_a_full_disk(small_root: Daemon) -> None:
    daemon = small_root
    create(daemon, "box", "sleep", "1000")
    assert daemon.post("/containers/box/start").status == 204
    fill(daemon.root)
    old = daemon.kill()
    daemon.wait_back(old)
    assert daemon.get("/containers/box/json").body["State"]["Running"]
    assert daemon.delete("/containers/box", force=1).status == 204


def test_a_full_run_directory_fails_a_start_and_nothing_else(daemon: Daemon) -> None:
    create(daemon, "old", "sleep", "1000")
    create(daemon, "new", "sleep", "1000")
    assert daemon.post("/containers/old/start").status == 204
    # a tmpfs over the records of containers alone: the sockets stay where they are
    records = daemon.run / "containers"
    mount_tmpfs(records, "64k")
    try:
        filler = fill(records)
        reply = daemon.post("/containers/new/start")
        assert reply.status == 500, reply
        assert "o space left" in reply.body["message"], reply
        filler.unlink()
        assert daemon.post("/containers/new/start").status == 204
        assert daemon.delete("/containers/new", force=1).status == 204
    finally:
        unmount(records)


def test_a_container_that_removes_itself_on_a_full_disk(small_root: Daemon) -> None:
    """Whoever waits for the removal hears that there is none yet; it is done when there is room."""
    daemon = small_root
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"AutoRemove": True}}
    assert daemon.post("/containers/create", body, name="box").status == 201
    assert daemon.post("/containers/box/start").status == 204
    connection = daemon.connection()
    connection.request("POST", "/containers/box/wait?condition=removed")
    answer = connection.getresponse()
    (daemon.root / "reserve").unlink()  # as when it was spent already
    filler = fill(daemon.root)
    assert daemon.post("/containers/box/kill").status == 204
    told = json.loads(answer.read())
    connection.close()
    assert told["StatusCode"] == 137
    assert "disk is full" in told["Error"]["Message"], told
    assert daemon.get("/containers/box/json").body["State"]["Status"] in ("removing", "exited")
    filler.unlink()
    daemon.eventually(lambda: daemon.get("/containers/box/json").status == 404, "it stays")
