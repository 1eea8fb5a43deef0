"""The kernel's tools, as the kinds of resources use them: one value that holds what stays open.

    rtnl      links, addresses, routes of the host's namespace
    inside    the same in a sandbox, by path; one socket a sandbox for as long as a change is carried out
    netns     the thread that enters namespaces
    conntrack what is remembered of flows
    reaper    takes dying links away behind the answer
    firewall  the back end; chosen, and its tables made, at the first use
    ports     the host ports: who holds them, and their sockets
    proxy     the forwarder's client that the controller was given, or None

All of it acts in the network namespace of the thread that made it.  Every method may be called from any thread.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from .errors import NotSupported
from .firewall.choice import select_backend
from .firewall.intents import FirewallBackend, NetworkRules, PortRule
from .instance import Instance
from .kernel.conntrack import NETLINK_NETFILTER, Conntrack
from .kernel.netns import NetnsThread, open_netns
from .kernel.rtnetlink import Rtnetlink
from .ports.hostports import HostPorts
from .proxying import Proxy
from .reaper import Reaper

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Inside:
    """The means to act in one sandbox."""

    fd: int
    rtnl: Rtnetlink
    _thread: NetnsThread

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *function* in there, on the namespace thread."""
        return self._thread.call(self.fd, function, *args, **kwargs)


class Tools:
    def __init__(self, instance: Instance, *, firewall: str = "auto", proxy: Proxy | None = None) -> None:
        self.instance = instance
        self.proxy = proxy
        self.ports = HostPorts(has_proxy=proxy is not None)
        self._firewall_name = firewall
        self._lock = threading.Lock()
        self._backend: FirewallBackend | None = None
        self._backend_ready = False
        self._visits = threading.local()
        self.rtnl = Rtnetlink()
        self.netns = NetnsThread()
        self._home = open_netns("/proc/thread-self/ns/net")
        self.conntrack = Conntrack(
            lambda: self.netns.socket(self._home, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        )
        self.reaper = Reaper(self.rtnl, instance)

    def close(self) -> None:
        self.reaper.close()
        if self._backend is not None:
            self._backend.close()
        self.conntrack.close()
        self.netns.close()
        os.close(self._home)
        self.rtnl.close()
        self.ports.close()

    def at_home(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *function* in the host's namespace, whichever the calling thread is in."""
        return self.netns.call(self._home, function, *args, **kwargs)

    # -- sandboxes -------------------------------------------------------------------------------------------

    @contextmanager
    def visiting(self) -> Generator[None]:
        """For the calling thread: keep each sandbox that ``inside`` enters open until the end of the block."""
        if getattr(self._visits, "stack", None) is not None:
            yield
            return
        with ExitStack() as stack:
            self._visits.stack, self._visits.known = stack, dict[str, Inside]()
            try:
                yield
            finally:
                self._visits.stack = None

    @contextmanager
    def inside(self, path: str) -> Generator[Inside]:
        """The means to act in the sandbox that is pinned at *path*."""
        stack: ExitStack | None = getattr(self._visits, "stack", None)
        if stack is None:
            with self._enter(path) as inside:
                yield inside
            return
        known: dict[str, Inside] = self._visits.known
        if path not in known:
            known[path] = stack.enter_context(self._enter(path))
        yield known[path]

    def leave(self, path: str) -> None:
        """Forget what was kept of this sandbox: another namespace will stand there."""
        if getattr(self._visits, "stack", None) is not None:
            self._visits.known.pop(path, None)

    @contextmanager
    def _enter(self, path: str) -> Generator[Inside]:
        fd = self.netns.open(path)
        try:
            with Rtnetlink(self.netns.socket(fd, socket.AF_NETLINK, socket.SOCK_RAW)) as rtnl:
                yield Inside(fd, rtnl, self.netns)
        finally:
            os.close(fd)

    # -- firewall --------------------------------------------------------------------------------------------

    @property
    def firewall(self) -> FirewallBackend:
        """The back end, with its tables made."""
        with self._lock:
            backend = self._choose_firewall()
            if not self._backend_ready:
                backend.ensure()
                self._backend_ready = True
            return backend

    def _choose_firewall(self) -> FirewallBackend:
        if self._backend is None:
            self._backend = select_backend(self._firewall_name, instance=self.instance.suffix)
        return self._backend

    @property
    def has_firewall(self) -> bool:
        """Whether the back end was needed already; asking for ``firewall`` makes its tables."""
        return self._backend_ready

    def firewall_state(self, *, needed: bool) -> tuple[list[NetworkRules], list[PortRule]]:
        """What the kernel's tables hold for us.  Makes none; a host without a firewall has nothing, unless it is *needed*."""
        try:
            with self._lock:
                backend = self._choose_firewall()
        except NotSupported:
            if needed:
                raise
            return [], []
        return backend.state()

    def diagnose(self) -> list[str]:
        """What on this host stands in the way of the rules that are there, a sentence each; nothing without a firewall."""
        try:
            with self._lock:
                backend = self._choose_firewall()
        except NotSupported:
            return []
        return backend.diagnose()
