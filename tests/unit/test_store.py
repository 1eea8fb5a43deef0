"""The store: names, references, transactions, threads, versions, damage."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib.errors import InternalError, InvalidArgument, StateTooNew
from pynet.netlib.model import PublishedPort
from pynet.netlib.registry import Registry
from pynet.netlib.store.migrations import MIGRATIONS
from pynet.netlib.store.protocol import Changed, Delete, Put
from pynet.netlib.store.sqlite import NameTaken, Store, StoreFailed, StoreLost


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "pynet.db")
    yield store
    store.close()


def test_a_reference_is_an_id_then_a_name_then_a_prefix(store: Store) -> None:
    store.put("network", "aa11", {"n": 1}, "bb22")
    store.put("network", "bb22", {"n": 2}, "web")
    store.put("network", "bb33", {"n": 3}, "bb")
    assert store.find("network", "bb22") == [{"n": 2}]
    assert store.find("network", "web") == [{"n": 2}]
    assert store.find("network", "bb") == [{"n": 3}]
    assert store.find("network", "b") == [{"n": 2}, {"n": 3}]
    assert store.find("network", "%") == []
    assert store.find("endpoint", "aa11") == []
    with pytest.raises(InvalidArgument):
        store.find("network", "")


def test_a_name_is_unique_within_its_kind_and_free_after_delete(store: Store) -> None:
    store.put("network", "1", {}, "web")
    store.put("endpoint", "2", {}, "web")
    with pytest.raises(NameTaken, match="network with name web already exists"):
        store.put("network", "3", {}, "web")
    assert store.get("network", "3") is None
    store.delete("network", "1")
    store.delete("network", "1")
    store.put("network", "3", {}, "web")


def test_a_transaction_is_all_or_nothing_also_when_nested(store: Store) -> None:
    with pytest.raises(NameTaken), store.transaction():
        store.put("network", "1", {}, "web")
        with store.transaction():
            store.put("network", "2", {}, "other")
        store.put("network", "3", {}, "web")
    assert store.list("network") == []


def test_threads_write_at_once(store: Store) -> None:
    def work(number: int) -> None:
        for i in range(50):
            store.put("endpoint", f"{number}-{i}", {"i": i})

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.list("endpoint")) == 200


def opened() -> list[str]:
    """What this process's descriptors are of."""
    return [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]


def test_a_thread_that_ended_keeps_no_connection(store: Store) -> None:
    """Each held two descriptors, and a daemon's threads come and go."""
    for number in range(20):
        thread = threading.Thread(target=store.put, args=("endpoint", str(number), {}))
        thread.start()
        thread.join()
    assert opened().count(str(store.path)) <= 4, "this thread's, the last one's, and what SQLite puts off"


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "pynet.db"
    code = (
        "import sys, pathlib, os; from pynet.netlib.store.sqlite import Store; s = Store(pathlib.Path(sys.argv[1]));"
        "s.put('network', 'a', {'n': 1}); t = s.transaction(); t.__enter__(); s.put('network', 'b', {'n': 2});"
        "print('ready', flush=True); os.read(0, 1)"
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        os.kill(child.pid, signal.SIGKILL)
    store = Store(path)
    assert store.list("network") == [{"n": 1}]
    store.close()


def test_a_newer_schema_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pynet.db"
    Store(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StateTooNew, match="schema version 99"):
        Store(path)
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"no database " * 1000)
    with pytest.raises(InternalError, match="can not open the store") as refused:
        Store(damaged)
    assert str(damaged) not in opened(), f"who keeps the error keeps the file: {refused}"


def test_what_a_full_disk_stops_is_told_and_leaves_nothing(store: Store) -> None:
    with store.transaction() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StoreFailed, match=r"can not write the store .*pynet.db: database or disk is full"):
        store.put("network", "1", {"text": "x" * 100_000})
    store.put("network", "2", {})
    assert store.list("network") == [{}]


def test_a_transaction_that_fails_at_its_commit_does_not_stay_open(store: Store) -> None:
    store._connection().execute("PRAGMA foreign_keys=ON")
    with pytest.raises(StoreFailed, match="FOREIGN KEY constraint failed"), store.transaction() as connection:
        connection.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE b (a INTEGER REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
        connection.execute("INSERT INTO b VALUES (7)")
    store.put("network", "1", {})
    assert store.list("network") == [{}]


# -- revisions, identity, older files ----------------------------------------------------------------------------------


def test_a_commit_over_a_revision_that_was_not_seen_is_refused_and_changes_nothing(store: Store) -> None:
    first = store.commit([Put("network", "1", {"n": 1}, "web"), Put("endpoint", "2", {})], [])
    with pytest.raises(Changed, match="was changed by somebody else"):
        store.commit([Put("endpoint", "2", {"n": 2}, expected=first), Put("network", "1", {"n": 2}, "web")], [])
    second = store.commit([Put("network", "1", {"n": 2}, "web", expected=first)], [])
    assert second > first
    with pytest.raises(Changed):
        store.commit([], [Delete("network", "1", first)])
    assert [(s.id, s.body, s.revision) for s in store.load("network")] == [("1", {"n": 2}, second)]
    store.commit([], [Delete("network", "1", second), Delete("network", "unknown")])
    assert store.load("network") == []
    assert [(s.body, s.revision) for s in store.load("endpoint")] == [({}, first)]


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_a_lost_file_is_not_taken_for_a_first_start(tmp_path: Path, how: str) -> None:
    path = tmp_path / "pynet.db"
    store = Store(path)
    store.put("network", "1", {})
    store.close()
    path.unlink()
    if how == "emptied":
        path.touch()
    with pytest.raises(StoreLost, match="is empty or was deleted") as caught:
        Store(path)
    assert "put the file back" in caught.value.hint
    (tmp_path / "store-id").unlink()
    with pytest.raises(StoreLost, match="somebody lives"):
        Store(path, expect=lambda: "somebody lives")
    Store(path, expect=lambda: "").close()


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_who_writes_to_a_file_that_is_gone_is_told(tmp_path: Path, how: str) -> None:
    path = tmp_path / "pynet.db"
    store = Store(path)
    try:
        path.rename(tmp_path / "moved")
        if how == "replaced":
            path.touch()
        with pytest.raises(StoreLost, match=f"was {how} while it was in use"):
            store.put("network", "1", {})
        path.unlink(missing_ok=True)
        (tmp_path / "moved").rename(path)
        store.put("network", "1", {})
    finally:
        store.close()


@pytest.mark.parametrize("how", ["deleted", "replaced"])
@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_nobody_reads_or_writes_what_is_not_the_store(tmp_path: Path, how: str, suffix: str) -> None:
    """Neither who has a connection already, nor a thread that has none; and no file is made in the store's place."""
    path, moved = tmp_path / "pynet.db", tmp_path / "moved"
    store = Store(path)
    store.put("network", "1", {"n": 1}, "web")
    file = Path(f"{path}{suffix}")
    told: list[BaseException] = []

    calls: list[Callable[[], object]] = [
        lambda: store.list("network"),
        lambda: store.load("network"),
        lambda: store.get("network", "1"),
        lambda: store.put("network", "2", {}),
    ]

    def use() -> None:
        for call in calls:
            try:
                call()
            except StoreLost as error:
                told.append(error)

    try:
        file.rename(moved)
        if how == "replaced":
            file.touch()
        use()
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert len(told) == 8
        assert all(f"{file} was {how} while it was in use" in str(error) for error in told), told
        assert file.exists() == (how == "replaced")
        moved.rename(file)
        assert store.list("network") == [{"n": 1}]
    finally:
        store.close()


def test_what_stood_in_a_lost_log_is_in_the_store_after_an_orderly_end(tmp_path: Path) -> None:
    store = Store(tmp_path / "pynet.db")
    store.put("network", "1", {"n": 1})
    (tmp_path / "pynet.db-wal").unlink()
    with pytest.raises(StoreLost, match="-wal was deleted") as caught:
        store.check_there()
    assert "SIGTERM" in caught.value.hint
    store.close()
    again = Store(tmp_path / "pynet.db")
    assert again.list("network") == [{"n": 1}]
    again.close()


def test_an_older_file_is_migrated_and_its_ports_are_the_sandboxes(tmp_path: Path) -> None:
    path = tmp_path / "pynet.db"
    network = {
        "id": "n",
        "name": "web",
        "driver": "bridge",
        "created": 1.0,
        "ipam": [{"subnet": "10.1.0.0/24", "gateway": "10.1.0.1"}],
    }
    port = {"proto": "tcp", "host_ip": "0.0.0.0", "host_port": 8080, "container_port": 80}
    endpoint = {
        "id": "e",
        "name": "a",
        "network": "n",
        "address": "10.1.0.2/24",
        "ifname": "eth0",
        "sandbox": "s",
        "ports": [port],
    }
    bodies: dict[str, dict[str, Any]] = {
        "network": network,
        "endpoint": endpoint,
        "sandbox": {"id": "s", "path": "/run/s", "gateway": "e"},
    }
    with closing(sqlite3.connect(path)) as connection:
        MIGRATIONS[0](connection)
        for kind, body in bodies.items():
            connection.execute("INSERT INTO objects VALUES (?, ?, NULL, ?)", (kind, body["id"], json.dumps(body)))
        connection.execute("PRAGMA user_version=1")
        connection.commit()
    store = Store(path)
    try:
        registry = Registry(store)
        room = registry.room("s")
        assert room.sandbox.ports == (PublishedPort("tcp", "0.0.0.0", 8080, 80),)
        assert room.members[0].endpoint.gateway == "10.1.0.1"
        assert registry.networks["n"].ipam_driver == "default"
        registry.save(room.sandbox)  # over the revision that the migration gave
    finally:
        store.close()
    assert (tmp_path / "store-id").read_text().strip()


def test_a_page_that_is_damaged_is_told_with_what_helps(tmp_path: Path) -> None:
    """Opening reads the first pages alone; the damage is met by whoever asks for what stood there."""
    path = tmp_path / "pynet.db"
    store = Store(path)
    for number in range(200):
        store.put("network", f"{number:064x}", {"text": "x" * 500}, f"n{number}")
    store.close()
    with open(path, "r+b") as file:
        file.seek(10 * 4096)
        file.write(b"\xff" * 10 * 4096)
    store = Store(path)
    for read in (lambda: store.load("network"), lambda: store.list("network"), lambda: store.find("network", "nobody")):
        with pytest.raises(StoreFailed, match=r"can not read the store .*malformed") as caught:
            read()
        assert caught.value.hint == "move the file away to start with an empty state"
    store.close()
