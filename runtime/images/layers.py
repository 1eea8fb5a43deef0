"""Unpacked layers, and the work on them that any kill may interrupt.

    images/lock                      flock: whoever changes the index, the layers or the blobs
    images/layers/<chain>/diff       the layer's files, a lower directory of overlayfs
    images/layers/<chain>/layer.json diff id, chain id, size, entries
    images/tmp/<random>/             a workspace: everything that is not finished

A layer is keyed by its *chain id* (image-spec, config.md: "Layer ChainID"), so it is found again whatever image brings
it, and only over the layers it was unpacked for.  It is unpacked in a workspace and renamed when complete: a directory
that has its name is whole.  Two that unpack the same layer do not wait for each other; the second to finish drops its
copy.

A workspace's directory is held by flock for as long as its maker lives; the kernel lets go when the maker is killed.
``sweep`` removes those that nobody holds.  Making one and sweeping both happen under the store's lock, so one just made
is never taken for one left behind.

Layers are counted by looking: what no image and no container (``<root>/containers/<id>/lower``, written by ``rootfs``)
names is removed.  Nothing is counted in a file that a crash could leave wrong.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ...netlib.kernel.tree import discard_tree
from .layout import to_json, write_file

log = logging.getLogger(__name__)


class StoreLock:
    """Mutual exclusion between threads and between processes; not re-entrant."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._fd = -1

    def __enter__(self) -> None:
        self._mutex.acquire()
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        except BaseException:
            self._release()
            raise

    def __exit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._mutex.release()


@dataclass(frozen=True, slots=True)
class Layer:
    chain: str
    diff_id: str
    size: int
    entries: int


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """ChainID(L0) = DiffID(L0); ChainID(L0|...|Ln) = SHA256(ChainID(L0|...|Ln-1) + " " + DiffID(Ln))."""
    chains: list[str] = []
    for diff_id in diff_ids:
        above = f"{chains[-1]} {diff_id}" if chains else ""
        chains.append(f"sha256:{hashlib.sha256(above.encode()).hexdigest()}" if chains else diff_id)
    return chains


class Workspace:
    """A directory for unfinished work; ``path`` in it is nobody else's."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._count = 0
        os.mkdir(path, 0o700)
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def name(self, kind: str) -> str:
        """A fresh path."""
        self._count += 1
        return os.path.join(self.path, f"{kind}-{self._count}")

    def close(self) -> None:
        discard_tree(self.path, log.warning)
        os.close(self._fd)


def seal(unpacked: str, layer: Layer) -> None:
    """Write what is known of the layer beside its ``diff``; it is complete after this."""
    record = {"chain_id": layer.chain, "diff_id": layer.diff_id, "size": layer.size, "entries": layer.entries}
    write_file(os.path.join(unpacked, "layer.json"), to_json(record))


class LayerStore:
    def __init__(self, images: str, containers: str) -> None:
        self._layers = os.path.join(images, "layers")
        self._tmp = os.path.join(images, "tmp")
        self._containers = containers
        self.lock = StoreLock(os.path.join(images, "lock"))

    def create(self) -> None:
        os.makedirs(self._layers, mode=0o700, exist_ok=True)
        os.makedirs(self._tmp, mode=0o700, exist_ok=True)

    @contextmanager
    def workspace(self) -> Generator[Workspace, None, None]:
        with self.lock:
            work = Workspace(os.path.join(self._tmp, secrets.token_hex(8)))
        try:
            yield work
        finally:
            work.close()

    def diff(self, chain: str) -> str:
        """The lower directory of a layer."""
        return os.path.join(self._path(chain), "diff")

    def _path(self, chain: str) -> str:
        return os.path.join(self._layers, chain.removeprefix("sha256:"))  # ":" separates overlayfs's lowerdir option

    def exists(self, chain: str) -> bool:
        return os.path.isdir(self._path(chain))

    def get(self, chain: str) -> Layer:
        with open(os.path.join(self._path(chain), "layer.json"), "rb") as file:
            found = json.load(file)
        return Layer(found["chain_id"], found["diff_id"], found["size"], found["entries"])

    def adopt(self, unpacked: str, chain: str) -> None:
        """Give a sealed directory its name.  The lock is held; a layer that is there already stays."""
        try:
            os.rename(unpacked, self._path(chain))
        except OSError:
            if not self.exists(chain):
                raise

    # -- leftovers -----------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Remove workspaces whose makers are dead; what can not be removed is told and left.  The lock is held."""
        for name in os.listdir(self._tmp):
            path = os.path.join(self._tmp, name)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:  # nothing of ours
                log.warning("%s is not swept: %s", path, error)
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                discard_tree(path, log.warning)
            except BlockingIOError:
                continue
            finally:
                os.close(fd)

    def prune(self, used: set[str]) -> list[str]:
        """Remove layers that neither *used* nor a container names; the chain ids of those removed.  The lock is held."""
        used = used | self._used_by_containers()
        gone: list[str] = []
        for name in os.listdir(self._layers):
            chain = f"sha256:{name}"
            if chain in used:
                continue
            # renamed first: half a layer must never have its name
            doomed = os.path.join(self._tmp, f"gone-{secrets.token_hex(8)}")
            try:
                os.rename(os.path.join(self._layers, name), doomed)
            except OSError as error:  # it is in nobody's way; the next prune tries again
                log.warning("layer %s is not removed: %s", chain, error)
                continue
            discard_tree(doomed, log.warning)
            gone.append(chain)
        return gone

    def _used_by_containers(self) -> set[str]:
        used: set[str] = set()
        try:
            names = os.listdir(self._containers)
        except FileNotFoundError:
            return used
        for name in names:
            try:
                with open(os.path.join(self._containers, name, "lower")) as file:
                    used.update(file.read().split())
            except (FileNotFoundError, NotADirectoryError):
                continue
        return used

    def pin(self, container_dir: str, chains: Sequence[str]) -> None:
        """Note the layers a container stands on.  The lock is held."""
        lines = "".join(f"{chain}\n" for chain in chains)
        write_file(os.path.join(container_dir, "lower"), lines.encode(), durable=False)  # on the way of every start
