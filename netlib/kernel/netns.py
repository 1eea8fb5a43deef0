"""Network namespaces: made, pinned, entered and deleted by one thread, without fork or exec.

    callers (any thread)          the namespace thread
       create(path)     --job-->  unshare(CLONE_NEWNET); sysctls; bind its ns file on path; setns(home)
       call(fd, f, ...) --job-->  setns(fd); f(...); setns(home)

setns(2) moves the calling thread only, so all moving is done by one thread that does nothing else: an event loop's
thread or a pool's worker left in the wrong namespace by a failure would do the next job in the wrong place.  For
the same reason, a thread that can not return home ends there and then, and every later job is refused with the reason.

What a job brings back works everywhere: a socket belongs to the namespace that it was made in.  It also keeps that
namespace alive, and so does every descriptor that open() returns: close them.

A pin is a bind mount of nsfs on an empty file.  It needs no mount point of its own above it: a process with a copy of
the mount table (a container's, say) loses its copy of the pin when the file is unlinked here, because unlink(2)
detaches a mount in other mount namespaces (since Linux 3.18).  Deleting does not wait for the kernel, which takes a
namespace apart later and in batches.  /proc/self/ns/net would be the main thread's: /proc/thread-self it is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import queue
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from ..errors import InternalError
from . import sysctl
from .syscall import CLONE_NEWNET, MNT_DETACH, MS_BIND, mount, setns, umount2, unshare

P = ParamSpec("P")
T = TypeVar("T")

_OWN = "/proc/thread-self/ns/net"
_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)


class NetnsThreadLost(InternalError):
    """The namespace thread has ended; no namespace can be made or entered any more through it."""

    hint = "start the program again"


def open_netns(path: str) -> int:
    """A descriptor of the network namespace at *path* (a pin, or /proc/PID/ns/net).

    OSError: what open(2) says, or EINVAL if something else stands there.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # NONBLOCK: a FIFO there must not hang us
    try:
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:  # ENOTTY: not of nsfs
        kind = 0
    if kind != CLONE_NEWNET:
        os.close(fd)
        raise OSError(errno.EINVAL, "Not a network namespace", path)
    return fd


def delete_netns(path: str) -> None:
    """Take away the pin at *path*; nothing there is fine.

    OSError(EINVAL) for anything but a pin or the empty file of one: a mistaken path must not cost a file.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return
    if not is_netns(path) and (found.st_size or not os.path.isfile(path)):
        raise OSError(errno.EINVAL, "Not a network namespace", path)
    try:
        while True:  # pins can be stacked; the last one gives EINVAL, as does a mount table without ours
            umount2(path, MNT_DETACH)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def is_netns(path: str) -> bool:
    """Whether a network namespace is pinned at *path*."""
    try:
        os.close(open_netns(path))
    except OSError:
        return False
    return True


class NetnsThread:
    """One thread that enters namespaces.  Its home is the namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # over _lost together with putting into the queue
        self._lost = ""
        self._home = open_netns(_OWN)
        self._thread = threading.Thread(target=self._run, name="pynet-netns", daemon=True)
        self._thread.start()

    # -- what callers use ---------------------------------------------------------------------------------------

    def create(
        self,
        path: str,
        *,
        sysctls: Mapping[sysctl.Name, str | int] | None = None,
        prepare: Callable[[], object] | None = None,
    ) -> int:
        """Make a namespace, pin it at *path* (its directory must exist), return a descriptor of it.

        *sysctls* are set before anything else happens inside (``disable_ipv6`` keeps a namespace of an IPv4 network
        from taking part in neighbour discovery), then *prepare* runs inside, and only then is there a pin: what stands
        at *path* is whole, wherever this process is killed.  FileExistsError if something stands there already; on any
        error nothing is left.
        """
        return self._submit(lambda: self._create(path, sysctls or {}, prepare))

    def open(self, path: str) -> int:
        """See open_netns."""
        return open_netns(path)

    def call(self, fd: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *function* inside the namespace *fd* and return what it returns, or raise what it raises."""
        return self._submit(lambda: self._inside(fd, lambda: function(*args, **kwargs)))

    def socket(self, fd: int, family: int, kind: int, proto: int = 0) -> socket.socket:
        """A socket that belongs to the namespace *fd*."""
        return self.call(fd, socket.socket, family, kind, proto)

    def delete(self, path: str) -> None:
        """See delete_netns."""
        delete_netns(path)

    def close(self) -> None:
        """End the thread when the jobs that wait are done; twice is fine."""
        self._end("it was closed", last_word=True)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, job: Callable[[], T]) -> T:
        if threading.current_thread() is self._thread:
            raise RuntimeError("a job of the namespace thread asked it for another; it would wait for itself")
        future: Future[T] = Future()
        with self._lock:
            if self._lost:
                raise NetnsThreadLost(f"the namespace thread has ended: {self._lost}")
            self._jobs.put((future, job))
        return future.result()

    def _end(self, reason: str, *, last_word: bool) -> None:
        with self._lock:
            if not self._lost:
                self._lost = reason
                if last_word:
                    self._jobs.put(None)

    # -- what the thread does -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (entry := self._jobs.get()) is not None:
                future, job = entry
                try:
                    result = job()
                except NetnsThreadLost as error:
                    self._end(error.message, last_word=False)
                    future.set_exception(error)
                    self._refuse_rest(error)
                    return
                except BaseException as error:  # whatever it is, it is the caller's
                    future.set_exception(error)
                else:
                    future.set_result(result)
                del entry, future, job  # or the last job's values would live until the next one comes
        finally:
            try:
                os.close(self._home)
            except OSError:
                pass  # a job closed it: that is what ended the thread

    def _refuse_rest(self, error: NetnsThreadLost) -> None:
        while not self._jobs.empty():
            entry = self._jobs.get()
            if entry is not None:
                entry[0].set_exception(error)

    def _inside(self, fd: int, job: Callable[[], T]) -> T:
        setns(fd, CLONE_NEWNET)
        try:
            return job()
        finally:
            self._return()

    def _return(self) -> None:
        try:
            setns(self._home, CLONE_NEWNET)
        except OSError as error:
            raise NetnsThreadLost(f"it could not return to its own namespace: {error}") from error

    def _create(self, path: str, sysctls: Mapping[sysctl.Name, str | int], prepare: Callable[[], object] | None) -> int:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
        fd = -1
        try:
            unshare(CLONE_NEWNET)
            try:
                for name, value in sysctls.items():
                    sysctl.write(name, value)
                if prepare is not None:
                    prepare()
                fd = open_netns(_OWN)
                mount(_OWN, path, None, MS_BIND)
            finally:
                self._return()
        except BaseException:
            if fd >= 0:
                os.close(fd)
            delete_netns(path)
            raise
        return fd
