"""Sockets in a sandbox's namespace, for servers that its user named: one thread makes them, and it alone has the rights.

    a socket of the sandbox --SIOCGSKNS--> its namespace --setns--> socket(2) --setns--> home

A descriptor of the namespace need not be kept for that: the socket that is served leads to it.  setns(2) moves the calling
thread alone, and capabilities are a thread's: when the process gives its own up (``give_up_rights``), this one keeps the two that
the calls need.  What it brings back works everywhere.
"""

from __future__ import annotations

import fcntl
import os
import queue
import socket
import threading
from concurrent.futures import Future

from ...netlib.kernel import syscall

CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21
_SIOCGSKNS = 0x894C  # linux/sockios.h
_HOME = "/proc/thread-self/ns/net"

Socket = socket.socket  # in the class below, "socket" is a method
_Job = tuple[Future[Socket], int, int, int]


class Entrance:
    def __init__(self) -> None:
        """Call it before the process gives its rights up."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._home = os.open(_HOME, os.O_RDONLY | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="pynet-entrance", daemon=True)
        self._thread.start()

    def socket(self, beside: Socket, family: int, kind: int) -> Socket:
        """A new socket in the namespace that *beside* is of; OSError.  It takes a fraction of a millisecond."""
        done: Future[Socket] = Future()
        self._jobs.put((done, beside.fileno(), family, kind))
        return done.result()

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()
        os.close(self._home)

    def _run(self) -> None:
        _keep_rights(CAP_NET_ADMIN, CAP_SYS_ADMIN)
        while (job := self._jobs.get()) is not None:
            done, fd, family, kind = job
            try:
                done.set_result(self._make(fd, family, kind))
            except BaseException as error:
                done.set_exception(error)

    def _make(self, fd: int, family: int, kind: int) -> Socket:
        namespace = fcntl.ioctl(fd, _SIOCGSKNS)
        try:
            syscall.setns(namespace, syscall.CLONE_NEWNET)
        finally:
            os.close(namespace)
        try:
            return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        finally:
            syscall.setns(self._home, syscall.CLONE_NEWNET)


def give_up_rights() -> None:
    """Of the calling thread and those that it starts: no capability, and none to come by an execve(2)."""
    syscall.prctl(syscall.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _keep_rights()


def _keep_rights(*numbers: int) -> None:
    """Of the calling thread, where it has them."""
    _, permitted, _ = syscall.capget()
    kept = permitted & sum(1 << number for number in numbers)
    syscall.capset(kept, kept, 0)
