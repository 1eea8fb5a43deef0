"""The store: names, references, transactions, threads, versions, damage."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynet.netlib.errors import InternalError, InvalidArgument, StateTooNew
from pynet.netlib.store.sqlite import NameTaken, Store, StoreFailed


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


def test_a_thread_that_ended_keeps_no_connection(store: Store) -> None:
    """Each held two descriptors, and a daemon's threads come and go."""
    for number in range(20):
        thread = threading.Thread(target=store.put, args=("endpoint", str(number), {}))
        thread.start()
        thread.join()
    opened = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    assert opened.count(str(store.path)) <= 4, "this thread's, the last one's, and what SQLite puts off"


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
    with pytest.raises(InternalError, match="can not open the store"):
        Store(damaged)


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
