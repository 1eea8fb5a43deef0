"""One host's store: objects in one SQLite file.

    objects   kind, id, name, body (JSON), revision    a network, an endpoint, a sandbox, a container
    facts     the store's own: its id, and the revision of the last commit

Leases are not kept apart: an address belongs to the endpoint, a host port to the sandbox whose record names it, so it is given
and taken in the same transaction as the object itself and can not be left over.  (Uniqueness is decided in memory by the
pools and the port table, which are filled from the records under the lock of the root directory.)

Every mutation is one transaction (BEGIN IMMEDIATE), so a process killed anywhere leaves the state before or after it.
The file is in WAL mode with synchronous=NORMAL: a commit survives the death of the process; a power cut may lose the
last ones, and the reconcile at start compares with the kernel, which has lost everything then.  Each thread has a
connection of its own, which is closed when the thread is gone.  The file and what SQLite keeps beside it (-wal, -shm) are
the owner's alone (0600): a container's environment stands in them.  A file with a newer schema than this code knows is
refused (StateTooNew), an older one is migrated in one transaction.

The store's id stands in a file beside it too (``store-id``).  So a file that was emptied or deleted is not taken for the
first start of a new pynet, which would end everything that runs: StoreLost says so.

Who reads or writes through a file that is no longer the one under its name is told as well, in place of writing to nowhere
(a stat or two a transaction, some microseconds): the file, and the log (-wal), where commits stand until SQLite moves them.
No connection is opened to another file than the first one's, and none makes a file.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InternalError, InvalidArgument, StateTooNew
from .migrations import MIGRATIONS
from .protocol import Body, Changed, Delete, NameTaken, Put, Stored

__all__ = ["NameTaken", "Store", "StoreFailed", "StoreLost"]


class StoreLost(InternalError):
    """The store is not the one that was here."""


class StoreFailed(InternalError):
    """The file can not be written, and nothing of the transaction happened; or it can not be read."""

    hint = "make room on the disk, and see that the root directory can be written"

    def __init__(self, path: Path, error: sqlite3.Error, verb: str = "write", hint: str = "") -> None:
        super().__init__(f"can not {verb} the store {path}: {error}")
        self.hint = hint or type(self).hint


_BACK = "put the file back under its name and restart pynetd; what runs goes on meanwhile"
_LOG_BACK = (
    "stop pynetd with SIGTERM, which writes what stood in the log into the store, and start it again; what runs goes on"
)
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


def _identity(path: str) -> tuple[int, int] | None:
    """Which file stands under a name; None when there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class Store:
    """See the module's text.  Methods outside a ``transaction()`` are transactions of their own."""

    scope = "local"

    def __init__(self, path: Path, *, expect: Callable[[], str] | None = None) -> None:
        """Open or make the file.  *expect* says what else makes a new, empty store a surprise ("" for nothing)."""
        self.path = path
        self._expect = expect
        self._local = threading.local()
        self._all: dict[threading.Thread, sqlite3.Connection] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # SQLite's own way to wait for another connection is to sleep and try again
        try:
            _make_private(path)
            self._name, self._log_name = str(path), f"{path}-wal"  # a Path costs as much as the stat
            self._file = _identity(self._name)
            self._log: tuple[int, int] | None = None
            """Of the -wal file, which SQLite keeps as long as somebody has the store open."""
            self._migrate()
            self._check_identity()
            self._log = _identity(self._log_name)
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
        """This thread's; StoreLost when the file is not the one that was opened first.

        Looked at before, and for a new connection after: SQLite opens by name, and what it opened must be that file.
        """
        self.check_there()
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            # mode=rw: SQLite would make a file that is not there, and the next start would find an empty store
            uri = f"{self.path.absolute().as_uri()}?mode=rw"
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                self.check_there()
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
            if found > len(MIGRATIONS):
                raise StateTooNew(str(self.path), found, len(MIGRATIONS))
            if not found:
                self._check_new()
            for step in MIGRATIONS[found:]:
                step(connection)
            # also when it says so already: a full disk is met here, where pynetd has a reserve to spend (engine/reserve.py)
            connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")

    # -- identity --------------------------------------------------------------------------------------------

    @property
    def _marker(self) -> Path:
        return self.path.with_name("store-id")

    def _check_new(self) -> None:
        """A store that is made must be the first one here."""
        why = f"{self._marker} says that there was one" if self._marker.exists() else ""
        if not why and self._expect is not None:
            why = self._expect()
        if why:
            raise StoreLost(
                f"the store {self.path} is empty or was deleted, and {why}",
                hint=f"put the file back; or, to begin with nothing and end what runs, remove {self._marker} and what is pinned",
            )

    def _check_identity(self) -> None:
        with self.transaction() as connection:
            (id,) = connection.execute("SELECT value FROM facts WHERE name = 'id'").fetchone()
        if self._marker.exists():
            return  # another id is a copy that was put back: that was somebody's intention
        fd = os.open(self._marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{id}\n".encode())
        finally:
            os.close(fd)

    def check_there(self) -> None:
        """StoreLost when the file, or its log, was deleted or replaced since it was opened."""
        for path, first in ((self._name, self._file), (self._log_name, self._log)):
            if first is not None and (found := _identity(path)) != first:
                raise StoreLost(
                    f"the store {path} was {'deleted' if found is None else 'replaced'} while it was in use",
                    hint=_BACK if path == self._name else _LOG_BACK,
                )

    # -- transactions ----------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """All or nothing.  A transaction inside another of the same thread joins it."""
        if getattr(self._local, "depth", 0):
            self._local.depth += 1
            try:
                yield self._local.connection
            finally:
                self._local.depth -= 1
            return
        connection = self._connection()
        with self._writing:
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

    # -- objects, as the library's registry uses them (protocol.py) --------------------------------------------

    def load(self, kind: str) -> list[Stored]:
        rows = self._rows("SELECT id, body, revision FROM objects WHERE kind = ? ORDER BY id", kind)
        return [Stored(kind, id, json.loads(body), revision) for id, body, revision in rows]

    def _rows(self, query: str, *values: object) -> list[Any]:
        try:
            return self._connection().execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise StoreFailed(self.path, error, "read", _hint(error)) from error

    def commit(self, puts: Sequence[Put], deletes: Sequence[Delete]) -> int:
        with self.transaction() as connection:
            revision = self._next_revision(connection)
            for put in puts:
                self._put(connection, put, revision, expected=put.expected)
            for delete in deletes:
                if delete.expected:
                    self._expect_revision(connection, delete.kind, delete.id, delete.expected)
                connection.execute("DELETE FROM objects WHERE kind = ? AND id = ?", (delete.kind, delete.id))
        return revision

    def watch(self, kinds: Sequence[str], tell: Callable[[Iterable[Stored]], None]) -> Callable[[], None]:
        """Silent: who holds the lock of the root directory is the only writer."""
        return lambda: None

    @staticmethod
    def _next_revision(connection: sqlite3.Connection) -> int:
        (value,) = connection.execute(
            "UPDATE facts SET value = value + 1 WHERE name = 'revision' RETURNING value"
        ).fetchone()
        return int(value)

    @staticmethod
    def _expect_revision(connection: sqlite3.Connection, kind: str, id: str, expected: int) -> None:
        row = connection.execute("SELECT revision FROM objects WHERE kind = ? AND id = ?", (kind, id)).fetchone()
        if (row[0] if row else 0) != expected:
            raise Changed(kind, id)

    @staticmethod
    def _put(connection: sqlite3.Connection, put: Put, revision: int, *, expected: int | None = None) -> None:
        """Create or replace; Changed when what is there has not the *expected* revision (0: nothing is)."""
        body = json.dumps(put.body, separators=(",", ":"))
        try:
            if expected:
                cursor = connection.execute(
                    "UPDATE objects SET name = ?, body = ?, revision = ? WHERE kind = ? AND id = ? AND revision = ?",
                    (put.name, body, revision, put.kind, put.id, expected),
                )
                if not cursor.rowcount:
                    raise Changed(put.kind, put.id)
                return
            cursor = connection.execute(
                "INSERT INTO objects (kind, id, name, body, revision) VALUES (?, ?, ?, ?, ?) ON CONFLICT (kind, id) "
                + ("DO UPDATE SET name = excluded.name, body = excluded.body, revision = excluded.revision"
                   if expected is None else "DO NOTHING"),
                (put.kind, put.id, put.name, body, revision),
            )  # fmt: skip
            if not cursor.rowcount:
                raise Changed(put.kind, put.id)
        except sqlite3.IntegrityError as error:
            raise NameTaken(put.kind, put.name or "") from error

    # -- objects, as the engine uses them ----------------------------------------------------------------------

    def put(self, kind: str, id: str, body: Body, name: str | None = None) -> None:
        """Create or replace an object, whatever revision it has.  NameTaken when another object of the kind has the name."""
        with self.transaction() as connection:
            self._put(connection, Put(kind, id, body, name), self._next_revision(connection))

    def get(self, kind: str, id: str) -> Body | None:
        rows = self._rows("SELECT body FROM objects WHERE kind = ? AND id = ?", kind, id)
        return json.loads(rows[0][0]) if rows else None

    def find(self, kind: str, ref: str) -> list[Body]:
        """Objects that *ref* may mean: the one with this id, else with this name, else all whose id starts with it."""
        if not ref:
            raise InvalidArgument(f"{kind} name or id must not be empty")
        for where, value in (("id = ?", ref), ("name = ?", ref), ("substr(id, 1, ?) = ?", ref)):
            values = (kind, len(ref), value) if "substr" in where else (kind, value)
            rows = self._rows(f"SELECT body FROM objects WHERE kind = ? AND {where} ORDER BY id", *values)
            found = [json.loads(row[0]) for row in rows]
            if found:
                return found
        return []

    def list(self, kind: str) -> list[Body]:
        rows = self._rows("SELECT body FROM objects WHERE kind = ? ORDER BY id", kind)
        return [json.loads(row[0]) for row in rows]

    def delete(self, kind: str, id: str) -> None:
        """Forget an object; nothing happens when there is none."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM objects WHERE kind = ? AND id = ?", (kind, id))
