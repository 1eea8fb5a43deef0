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
_Job = tuple[Future[list[Socket]], int, int, int, int]

SPARE = 4
"""Sockets that are made at a time: going to a namespace and back, by another thread, costs more than all of them."""


class Entrance:
    def __init__(self) -> None:
        """Call it before the process gives its rights up."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._home = os.open(_HOME, os.O_RDONLY | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="pynet-entrance", daemon=True)
        self._thread.start()

    def socket(self, beside: Socket, family: int, kind: int) -> Socket:
        return self.sockets(beside, family, kind)[0]

    def sockets(self, beside: Socket, family: int, kind: int, count: int = 1) -> list[Socket]:
        """New sockets in the namespace that *beside* is of; OSError.  It takes a fraction of a millisecond."""
        done: Future[list[Socket]] = Future()
        self._jobs.put((done, beside.fileno(), family, kind, count))
        return done.result()

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()
        os.close(self._home)

    def _run(self) -> None:
        _keep_rights(CAP_NET_ADMIN, CAP_SYS_ADMIN)
        while (job := self._jobs.get()) is not None:
            done, *what = job
            try:
                done.set_result(self._make(*what))
            except BaseException as error:
                done.set_exception(error)

    def _make(self, fd: int, family: int, kind: int, count: int) -> list[Socket]:
        namespace = fcntl.ioctl(fd, _SIOCGSKNS)
        try:
            syscall.setns(namespace, syscall.CLONE_NEWNET)
        finally:
            os.close(namespace)
        try:
            return [socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) for _ in range(count)]
        finally:
            syscall.setns(self._home, syscall.CLONE_NEWNET)


class Spares:
    """Sockets of sandboxes for questions to come, which need one each; the next is at hand three times of four."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        self._spare: dict[str, dict[int, list[Socket]]] = {}

    def socket(self, sandbox: str, beside: Socket, family: int, kind: int) -> Socket:
        """One in the namespace of *sandbox*, that *beside* is of; OSError."""
        if kind != socket.SOCK_DGRAM:
            return self._entrance.socket(beside, family, kind)
        spare = self._spare.setdefault(sandbox, {}).setdefault(family, [])
        if not spare:
            spare.extend(self._entrance.sockets(beside, family, kind, SPARE))
        return spare.pop()

    def forget(self, sandbox: str) -> None:
        """A socket holds its namespace: those of a sandbox go with it."""
        for spare in self._spare.pop(sandbox, {}).values():
            for sock in spare:
                sock.close()


def give_up_rights() -> None:
    """Of the calling thread and those that it starts: no capability, and none to come by an execve(2)."""
    syscall.prctl(syscall.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _keep_rights()


def _keep_rights(*numbers: int) -> None:
    """Of the calling thread, where it has them."""
    _, permitted, _ = syscall.capget()
    kept = permitted & sum(1 << number for number in numbers)
    syscall.capset(kept, kept, 0)
