"""What pynet must remember: objects, in one SQLite file.

    objects   kind, id, name, body (JSON)     a network, an endpoint, a sandbox, a container

Leases are not kept apart: an address or a host port belongs to the endpoint whose record names it, so it is given and
taken in the same transaction as the endpoint itself and can not be left over.  (Uniqueness is decided in memory by the
pools and the port table, which are filled from the records under the lock of the root directory.)

Every mutation is one transaction (BEGIN IMMEDIATE), so a process killed anywhere leaves the state before or after it.
The file is in WAL mode with synchronous=NORMAL: a commit survives the death of the process; a power cut may lose the
last ones, and the reconcile at start compares with the kernel, which has lost everything then.  Each thread has a
connection of its own, which is closed when the thread is gone.  The file and what SQLite keeps beside it (-wal, -shm) are
the owner's alone (0600): a container's environment stands in them.  A file with a newer schema than this code knows is
refused (StateTooNew), an older one is migrated in one transaction.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import Conflict, InternalError, InvalidArgument, StateTooNew

Body = dict[str, Any]

_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE objects (
        kind TEXT NOT NULL, id TEXT NOT NULL, name TEXT, body TEXT NOT NULL, PRIMARY KEY (kind, id)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX object_names ON objects (kind, name) WHERE name IS NOT NULL;
    """,
)
"""Step n takes the schema from version n to n + 1; never edit one that was released."""


class NameTaken(Conflict):
    """Another object of this kind has the name."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} with name {name} already exists", hint="remove it, or choose another name")
        self.kind, self.name = kind, name


class StoreFailed(InternalError):
    """The file can not be written; nothing of the transaction happened."""

    hint = "make room on the disk, and see that the root directory can be written"

    def __init__(self, path: Path, error: sqlite3.Error) -> None:
        super().__init__(f"can not write the store {path}: {error}")


_HINT = "see whether the file and its directory can be read and written"


def _hint(error: sqlite3.DatabaseError) -> str:
    name: str = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return "move the file away to start with an empty state"
    if name.startswith("SQLITE_FULL"):
        return "make room on its file system"
    return _HINT


def _make_private(path: Path) -> None:
    """The file is 0600 before anything stands in it (SQLite gives -wal and -shm the mode of the file); one of an older
    pynet, which had the umask's, is closed now."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        try:
            os.chmod(name, 0o600)
        except FileNotFoundError:
            pass  # SQLite makes them as it needs them


class Store:
    """See the module's text.  Methods outside a ``transaction()`` are transactions of their own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._all: dict[threading.Thread, sqlite3.Connection] = {}
        self._lock = threading.Lock()
        try:
            _make_private(path)
            self._migrate()
        except OSError as error:
            raise InternalError(f"can not open the store {path}: {error}", hint=_HINT) from error
        except sqlite3.DatabaseError as error:
            self.close()
            raise InternalError(f"can not open the store {path}: {error}", hint=_hint(error)) from error
        except BaseException:
            self.close()
            raise

    # -- connections -----------------------------------------------------------------------------------------

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, isolation_level=None, timeout=30, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
            except BaseException:
                connection.close()
                raise
            self._local.connection, self._local.depth = connection, 0
            with self._lock:
                for thread in [thread for thread in self._all if not thread.is_alive()]:
                    self._all.pop(thread).close()
                self._all[threading.current_thread()] = connection
        return connection

    def close(self) -> None:
        """Close every thread's connection; the store is of no more use."""
        with self._lock:
            connections, self._all = list(self._all.values()), {}
        for connection in connections:
            connection.close()
        self._local = threading.local()

    def _migrate(self) -> None:
        with self.transaction() as connection:
            (found,) = connection.execute("PRAGMA user_version").fetchone()
            if found > len(_MIGRATIONS):
                raise StateTooNew(str(self.path), found, len(_MIGRATIONS))
            for step in _MIGRATIONS[found:]:
                for statement in step.split(";"):
                    if statement.strip():
                        connection.execute(statement)
            # also when it says so already: a full disk is met here, where pynetd has a reserve to spend (engine/reserve.py)
            connection.execute(f"PRAGMA user_version={len(_MIGRATIONS)}")

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """All or nothing.  A transaction inside another of the same thread joins it."""
        connection = self._connection()
        if self._local.depth:
            self._local.depth += 1
            try:
                yield connection
            finally:
                self._local.depth -= 1
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._local.depth = 1
            yield connection
            connection.execute("COMMIT")  # may fail as well: that is when a full disk is noticed
        except sqlite3.Error as error:
            raise StoreFailed(self.path, error) from error
        finally:
            self._local.depth = 0
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    # -- objects ---------------------------------------------------------------------------------------------

    def put(self, kind: str, id: str, body: Body, name: str | None = None) -> None:
        """Create or replace an object.  NameTaken when another object of the kind has the name."""
        text = json.dumps(body, separators=(",", ":"))
        with self.transaction() as connection:
            try:
                connection.execute(
                    "INSERT INTO objects (kind, id, name, body) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (kind, id) DO UPDATE SET name = excluded.name, body = excluded.body",
                    (kind, id, name, text),
                )
            except sqlite3.IntegrityError as error:
                raise NameTaken(kind, name or "") from error

    def get(self, kind: str, id: str) -> Body | None:
        row = self._connection().execute("SELECT body FROM objects WHERE kind = ? AND id = ?", (kind, id)).fetchone()
        return json.loads(row[0]) if row else None

    def find(self, kind: str, ref: str) -> list[Body]:
        """Objects that *ref* may mean: the one with this id, else with this name, else all whose id starts with it."""
        if not ref:
            raise InvalidArgument(f"{kind} name or id must not be empty")
        connection = self._connection()
        for where, value in (("id = ?", ref), ("name = ?", ref), ("substr(id, 1, ?) = ?", ref)):
            values = (kind, len(ref), value) if "substr" in where else (kind, value)
            rows = connection.execute(f"SELECT body FROM objects WHERE kind = ? AND {where} ORDER BY id", values)
            found = [json.loads(row[0]) for row in rows]
            if found:
                return found
        return []

    def list(self, kind: str) -> list[Body]:
        rows = self._connection().execute("SELECT body FROM objects WHERE kind = ? ORDER BY id", (kind,))
        return [json.loads(row[0]) for row in rows]

    def delete(self, kind: str, id: str) -> None:
        """Forget an object; nothing happens when there is none."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM objects WHERE kind = ? AND id = ?", (kind, id))
