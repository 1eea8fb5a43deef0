"""A namespace that plays the host, a second one that plays a client on its LAN, and the proof that nothing was left.

    test process (main thread)                    NetnsThread
    +-- host ----------------------+     +-- lan ------------------+
    |  lo, whatever the test makes |     |  lo                     |
    |  eth0 192.0.2.1/24  ---------+-----+- eth0 192.0.2.2/24      |
    |       2001:db8::1/64         |     |       2001:db8::2/64    |
    +------------------------------+     +-------------------------+

``playing_host`` moves the *calling thread* into a new network namespace and back at the end; code under test simply
runs there, and so does every thread and program that it starts.  Then the snapshot must be what it was at the start.
The host's default routes lead to the LAN client, so that anything "outside" can be played by giving the client an
address.

The addresses are those of RFC 5737 and RFC 3849 (documentation).  Programs are started for another namespace by forking
from the thread that is in it (subprocess does that safely), so no wrapper program is in between.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, TypeVar

from ..netlib.kernel.netns import NetnsThread, open_netns
from ..netlib.kernel.rtnetlink import RouteInfo, Rtnetlink
from ..netlib.kernel.syscall import CLONE_NEWNET, setns, unshare
from .isolation import loopback_up
from .lan import CLIENT, HOST, lay
from .snapshot import Snapshot, processes_inside

P = ParamSpec("P")
T = TypeVar("T")
Socket = socket.socket  # in the class below, "socket" is a method

SETTLE = 5.0
"""Seconds for processes, threads and descriptors to end; only a leak waits so long."""
_SETTLING = {"processes", "threads", "fds", "sockets", "mounts"}
"""What may go a little later by itself.  Of the rest, only a dying namespace takes something along."""
_RTMGRP_LINK = 1  # rtnetlink(7), rtnetlink.h
_TEARDOWN = 60.0
"""Seconds for the kernel to take namespaces apart: one batch at a time, for the whole machine."""


class LeftBehind(AssertionError):
    """The namespace that played the host did not end as it began; the message has a line for each thing."""


class ProgramFailed(subprocess.CalledProcessError):
    """A program that was run in a namespace failed; says what it wrote to stderr."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{(self.stderr or self.output or '').strip()}".rstrip()


class Namespace:
    """A network namespace and the means to act in it.  ``fd`` is its descriptor, ``rtnl`` its Rtnetlink."""

    def __init__(self, thread: NetnsThread, fd: int) -> None:
        self.netns_thread = thread
        self.fd = fd
        self.rtnl = Rtnetlink(thread.socket(fd, socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE))
        self._programs: list[subprocess.Popen[Any]] = []

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *function* in here, one call at a time.  For two sides that wait for each other, bring sockets out."""
        return self.netns_thread.call(self.fd, function, *args, **kwargs)

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, proto: int = 0) -> Socket:
        """A socket of this namespace, usable from everywhere."""
        return self.netns_thread.socket(self.fd, family, kind, proto)

    def connect(self, address: tuple[str, int], timeout: float = 20.0) -> Socket:
        """A TCP connection made from here."""
        return self.call(socket.create_connection, address, timeout)

    def listen(self, address: tuple[str, int]) -> Socket:
        """A TCP listener in here (port 0: any)."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        return self.call(socket.create_server, address, family=family)

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program in here; what still runs at the end of the test is killed."""
        program: subprocess.Popen[Any] = self.call(lambda: subprocess.Popen(argv, **options))
        self._programs.append(program)
        return program

    def run(
        self, argv: Sequence[str], *, input: str | None = None, timeout: float = 30.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in here to its end; ProgramFailed (a CalledProcessError) if it fails and *check* is true."""
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        program = self.popen(argv, text=True, **pipes)
        output, errors = program.communicate(input or "", timeout)
        if check and program.returncode:
            raise ProgramFailed(program.returncode, list(argv), output, errors)
        return subprocess.CompletedProcess(argv, program.returncode, output, errors)

    def end_programs(self) -> None:
        for program in self._programs:
            if program.poll() is None:
                program.kill()
            with program:  # closes its pipes and waits
                pass
        self._programs.clear()

    def close(self) -> None:
        self.end_programs()
        self.rtnl.close()
        os.close(self.fd)
        self.netns_thread.close()


class Host(Namespace):
    """The namespace that the test runs in."""

    def __init__(self) -> None:
        super().__init__(NetnsThread(), open_netns("/proc/thread-self/ns/net"))

    def snapshot(self) -> Snapshot:
        return self.call(Snapshot.take)

    def settled(self, before: Snapshot) -> Snapshot:
        """The snapshot now, or as soon as it has become equal to *before*; at once where what is left can not go by itself."""
        if (after := self.snapshot()) == before:
            return after
        gc.collect()  # descriptors in unreachable cycles are not leaks
        if before.differs_in(after := self.snapshot()) - _SETTLING:
            self._wait_for_dying_namespaces()
        pause, deadline = 0.002, time.monotonic() + SETTLE
        while (after := self.snapshot()) != before and time.monotonic() < deadline:
            if not before.differs_in(after) & _SETTLING:
                break
            time.sleep(pause)
            pause = min(2 * pause, 0.25)
        return after

    def _wait_for_dying_namespaces(self) -> None:
        """The kernel takes namespaces apart later, in the order of their ends: make one more, and wait for its end to show."""
        with self.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as events:
            events.bind((0, _RTMGRP_LINK))
            events.settimeout(_TEARDOWN)
            last = self.namespace()
            try:
                index, _ = self.rtnl.add_veth("pynet-last", "eth0", netns_fd=last.fd)
            finally:
                last.close()
            with suppress(TimeoutError):
                while self.rtnl.link(index) is not None:
                    events.recv(1 << 16)

    def namespace(self) -> Namespace:
        """A further, empty namespace with lo up; close it."""
        return _new_namespace()


class Lan(Namespace):
    """A client on the host's LAN: its addresses, and those of the host on the same wire."""

    address, address6 = (address for address, _ in CLIENT)
    host_address, host_address6 = (address for address, _ in HOST)
    host_ifname = "eth0"


@contextmanager
def playing_host() -> Generator[Host]:
    """Move the calling thread into a new namespace; at the end, assert that it is as it was, and move back."""
    home = open_netns("/proc/thread-self/ns/net")
    try:
        unshare(CLONE_NEWNET)
        try:
            loopback_up()
            host = Host()
            try:
                before = host.snapshot()
                yield host
                host.end_programs()
                after = host.settled(before)
                if after != before:
                    raise LeftBehind(f"the test left network state behind:\n{before.difference(after)}")
            finally:
                _kill_processes_inside(host)
                host.close()
        finally:
            setns(home, CLONE_NEWNET)
    finally:
        os.close(home)


@contextmanager
def playing_lan(host: Host) -> Generator[Lan]:
    """A namespace joined to *host* by a veth, addressed on both sides."""
    lan = _new_namespace(Lan)
    try:
        routes = [RouteInfo(gateway=Lan.address), RouteInfo(gateway=Lan.address6)]
        index = lay(host.rtnl, lan.rtnl, client_fd=lan.fd, ifname=Lan.host_ifname, routes=routes)
        try:
            yield lan
        finally:
            host.rtnl.delete_link(index)
    finally:
        lan.close()


_N = TypeVar("_N", bound=Namespace)


def _new_namespace(kind: type[_N] = Namespace) -> _N:  # type: ignore[assignment]
    thread = NetnsThread()
    with tempfile.TemporaryDirectory(prefix="pynet-test-") as directory:
        pin = os.path.join(directory, "netns")
        fd = thread.create(pin)
        thread.delete(pin)  # the descriptor keeps it
    namespace = kind(thread, fd)
    namespace.call(loopback_up)
    return namespace


def _kill_processes_inside(host: Host) -> None:
    """What a failed test left running in its own namespace would live on after it."""
    for pid in processes_inside(os.fstat(host.fd).st_ino):
        if pid != os.getpid():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
