"""Named volumes: directories below ``<root>/volumes/<name>/_data``, and their records in the store.

Only the local driver without options.  A volume that a container names is made when missing; an anonymous one has 64 hex
digits for a name and goes with ``rm -v`` or ``--rm``.

    made       directory -> record            a record without a directory is what a kill or somebody's rm left:
    removed    directory into the trash ->    it counts nothing, can be removed, and the next use makes the directory
               record -> the trash's content

What a container wrote may be setuid for root, so ``volumes`` is the owner's alone whatever modes are below (CVE-2021-41091):
containers come to a volume by a mount, never by this path.
"""

from __future__ import annotations

import errno
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..netlib.errors import Conflict, InternalError, InvalidArgument, NotFound, PynetError
from ..netlib.kernel.tree import discard_tree, tree_size
from .container.mounts import valid_volume_name
from .filters import Filters
from .patterns import matcher
from .reserve import Reserve, is_full
from .times import rfc3339

if TYPE_CHECKING:
    from ..netlib.store.sqlite import Store
    from .events import EventBus

log = logging.getLogger(__name__)
KIND = "volume"
Shapes = list[dict[str, Any]]
FILTERS = frozenset({"dangling", "driver", "label", "name"})
PRUNE_FILTERS = frozenset({"label", "label!", "all"})
ANONYMOUS_LABEL = "com.docker.volume.anonymous"


class Volumes:
    """Thread-safe: the store's transactions order its changes.  *users* tells which containers use a volume, one left out."""

    def __init__(
        self, store: Store, reserve: Reserve, root: Path, events: EventBus, users: Callable[[str, str], list[str]]
    ) -> None:
        self._store = store
        self._reserve = reserve
        self._root = root / "volumes"
        self._trash = root / "trash"
        self._lock = threading.Lock()
        """Of directories and records together; nothing slow is done with it."""
        self._events = events
        self._users = users
        if self._root.is_dir():
            self._root.chmod(0o700)  # older ones made it 0755

    def path(self, name: str) -> str:
        return str(self._root / name / "_data")

    def create(
        self, name: str = "", labels: Mapping[str, str] | None = None, *, driver: str = "local"
    ) -> dict[str, Any]:
        """The volume, made when there is none of this name."""
        if driver not in ("", "local"):
            raise NotFound(f"plugin {driver!r} not found".replace("'", '"'))
        labels = dict(labels or {})
        if name:
            valid_volume_name(name)
        else:
            name = secrets.token_hex(32)
            labels[ANONYMOUS_LABEL] = ""
        with self._lock:
            made = self._make_directory(name)
            try:
                with self._store.transaction():
                    body = self._store.get(KIND, name)
                    if body is not None:
                        return body
                    body = {"name": name, "created": time.time(), "labels": labels}
                    self._store.put(KIND, name, body, name)
            except BaseException:
                if made:
                    self._unmake_directory(name)
                raise
        self._events.publish("volume", "create", name, {"driver": "local"})
        return body

    def _make_directory(self, name: str) -> bool:
        """Whether there was none."""
        data = Path(self.path(name))
        if data.is_dir():
            return False
        try:
            self._root.mkdir(exist_ok=True, mode=0o700)
            data.parent.mkdir(exist_ok=True, mode=0o700)
            data.mkdir()
            data.chmod(0o755)  # what a container sees; mkdir's mode is subject to the umask
        except OSError:
            self._unmake_directory(name)
            raise
        return True

    def _unmake_directory(self, name: str) -> None:
        for path in (self._root / name / "_data", self._root / name):
            try:
                path.rmdir()
            except OSError:
                return  # whoever put something into it meanwhile keeps it

    def _get(self, name: str) -> dict[str, Any]:
        body = self._store.get(KIND, name)
        if body is None:
            raise NotFound(f"get {name}: no such volume")
        return body

    def inspect(self, name: str) -> dict[str, Any]:
        return self._shape(self._get(name))

    def list(self, filters: Filters) -> list[dict[str, Any]]:
        filters.allow(FILTERS)
        dangling = filters.flag("dangling")
        is_named = matcher(filters.values("name"))
        return [
            self._shape(body)
            for body in self._store.list(KIND)
            if is_named(body["name"])
            and filters.exact("driver", "local")
            and filters.labels(body["labels"])
            and (dangling is None or dangling == (not self._users(body["name"], "")))
        ]

    def remove(self, name: str, *, force: bool = False, but: str = "") -> None:
        """Delete it; Conflict while a container (other than *but*, which is going) uses it."""
        with self._lock:
            if self._store.get(KIND, name) is None:
                if force:
                    return
                raise NotFound(f"get {name}: no such volume")
            users = self._users(name, but)
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            trash = self._move_away(name)
            try:
                self._reserve.spend(self._store.delete, KIND, name)
            except BaseException as error:
                if trash is None:
                    raise
                if not is_full(error):
                    trash.rename(self._root / name)
                    raise
                discard_tree(trash, log.warning)  # the room that is asked for, and it shall go anyway
                self._store.delete(KIND, name)
        if trash is not None:
            discard_tree(trash, log.warning)
        self._reserve.make()
        self._events.publish("volume", "destroy", name, {"driver": "local"})

    def discard(self, name: str, *, but: str = "") -> None:
        """``remove`` for what goes along with something else: a failure is told in the log, and never raised."""
        try:
            self.remove(name, force=True, but=but)
        except (PynetError, OSError) as error:
            log.warning("volume %s stays: %s", name, error)

    def _move_away(self, name: str) -> Path | None:
        """Take the directory out of its place at once; None when there is nothing left of it."""
        target = self._trash / f"volume.{secrets.token_hex(8)}"
        try:
            self._trash.mkdir(exist_ok=True, mode=0o700)
            (self._root / name).rename(target)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return None  # no directory can have this name: a record of before names were bounded
            if not is_full(error):
                raise InternalError(
                    f"remove {name}: {error.strerror}", hint=f"is something mounted on {self._root / name}?"
                ) from error
            discard_tree(self._root / name, log.warning)  # slower, but it makes the room that a rename has not
            return None
        return target

    def prune(self, filters: Filters) -> dict[str, Any]:
        """Remove what nobody uses; only anonymous ones unless ``all`` (API 1.42)."""
        filters.allow(PRUNE_FILTERS)
        everything = filters.flag("all") or False
        removed: list[str] = []
        space = 0
        for body in self._store.list(KIND):
            name, labels = body["name"], body["labels"]
            if self._users(name, "") or not (everything or ANONYMOUS_LABEL in labels):
                continue
            if filters.labels(labels) and filters.not_labels(labels):
                size = tree_size(self.path(name))
                try:
                    self.remove(name)
                except (PynetError, OSError) as error:  # used just now, or busy: the others go all the same
                    log.warning("volume %s stays: %s", name, error)
                    continue
                space += size
                removed.append(name)
        self._events.publish("volume", "prune", "", {"reclaimed": str(space)})
        return {"VolumesDeleted": removed, "SpaceReclaimed": space}

    def usage(self) -> Shapes:
        return [
            {
                **self._shape(body),
                "UsageData": {
                    "RefCount": len(self._users(body["name"], "")),
                    "Size": tree_size(self.path(body["name"])),
                },
            }
            for body in self._store.list(KIND)
        ]

    def _shape(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "CreatedAt": rfc3339(body["created"], seconds=True),
            "Driver": "local",
            "Labels": body["labels"] or None,
            "Mountpoint": self.path(body["name"]),
            "Name": body["name"],
            "Options": None,
            "Scope": "local",
        }


def check_options(options: Mapping[str, str]) -> None:
    if options:
        raise InvalidArgument(f"invalid option: {min(options)!r}: the local driver takes none here".replace("'", '"'))
