"""The kernel's tools, as the kinds of resources use them: one value that holds what stays open.

    rtnl      links, addresses, routes of the host's namespace
    inside    the same in a sandbox, by path; one socket a sandbox for as long as a change is carried out, and the one that
              a new sandbox was made with for the first change that enters it
    netns     the thread that enters namespaces
    conntrack what is remembered of flows
    reaper    takes dying links away behind the answer
    firewall  the back end; chosen, and its tables made, at the first use
    ports     the host ports: who holds them, and their sockets
    proxy     the forwarder's client that the controller was given, or None
    names     who serves names in sandboxes, or None

All of it acts in the network namespace of the thread that made it.  Every method may be called from any thread.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from .errors import NotSupported
from .firewall.choice import select_backend
from .firewall.intents import FirewallBackend, NetworkRules, PortKey, PortRule
from .instance import Instance
from .kernel.conntrack import NETLINK_NETFILTER, Conntrack
from .kernel.netns import NetnsThread, open_netns
from .kernel.packet import PacketSocket
from .kernel.rtnetlink import Rtnetlink
from .naming import NameServer, Sockets
from .ports.hostports import HostPorts
from .proxying import Proxy
from .reaper import Reaper

if TYPE_CHECKING:
    from .firewall.watch import FirewallWatch

P = ParamSpec("P")
T = TypeVar("T")


FRESH = 8
"""Sandboxes that were made last and not entered since: as many are kept open, for what joins them next."""


@dataclass(frozen=True)
class Inside:
    """The means to act in one sandbox."""

    fd: int
    rtnl: Rtnetlink
    _thread: NetnsThread

    def close(self) -> None:
        self.rtnl.close()
        os.close(self.fd)

    def is_at(self, path: str) -> bool:
        """Whether it is the namespace that is pinned there now."""
        try:
            pinned, own = os.stat(path), os.fstat(self.fd)
        except OSError:
            return False
        return (pinned.st_dev, pinned.st_ino) == (own.st_dev, own.st_ino)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *function* in there, on the namespace thread."""
        return self._thread.call(self.fd, function, *args, **kwargs)


class Tools:
    def __init__(
        self, instance: Instance, *, firewall: str = "auto", proxy: Proxy | None = None, names: NameServer | None = None
    ) -> None:
        self.instance = instance
        self.proxy = proxy
        self.names = names
        self.name_sockets: dict[str, Sockets] = {}
        """By id of a sandbox: what its questions come to (kinds/resolver.py)."""
        self.ports = HostPorts(has_proxy=proxy is not None)
        self.firewall_name = firewall
        """What was asked for: "auto", "nftables" or "iptables"."""
        self._lock = threading.Lock()
        self._backend: FirewallBackend | None = None
        self._backend_ready = False
        self._visits = threading.local()
        self._fresh: dict[str, Inside] = {}
        self._fresh_lock = threading.Lock()
        self.rtnl = Rtnetlink()
        self.netns = NetnsThread()
        self.home = open_netns("/proc/thread-self/ns/net")
        """The host's namespace, in which the controller was made."""
        home = os.fstat(self.home)
        self._home_identity = home.st_dev, home.st_ino
        self.conntrack = Conntrack(
            lambda: self.netns.socket(self.home, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        )
        self._deleting = Rtnetlink()
        self.reaper = Reaper(self.rtnl, instance, self._deleting)

    def close(self) -> None:
        self.reaper.close()
        self._deleting.close()
        if self._backend is not None:
            self._backend.close()
        self.conntrack.close()
        for sockets in self.name_sockets.values():
            sockets.close()
        for path in list(self._fresh):
            self._close_fresh(path)
        self.netns.close()
        os.close(self.home)
        self.rtnl.close()
        self.ports.close()

    def wire(self, link: str, mac: str) -> PacketSocket:
        """The wire of a host's interface, as somebody with this MAC address would hear it; OSError."""
        index = self.rtnl.index(link)
        if not index:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), link)
        sock = self.netns.socket(self.home, socket.AF_PACKET, socket.SOCK_RAW, 0)
        return PacketSocket(sock, link, index, mac)

    def at_home(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *function* in the host's namespace, whichever the calling thread is in."""
        here = os.stat("/proc/thread-self/ns/net")
        if (here.st_dev, here.st_ino) == self._home_identity:
            return function(*args, **kwargs)
        return self.netns.call(self.home, function, *args, **kwargs)

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
        """Forget what was kept of this sandbox: another namespace will stand there, or none."""
        self._close_fresh(path)
        if getattr(self._visits, "stack", None) is not None:
            self._visits.known.pop(path, None)

    def made(self, path: str, fd: int, rtnl: Rtnetlink) -> None:
        """Keep (and own) what a new sandbox was made with: to enter it anew would be a tenth of a join."""
        with self._fresh_lock:
            self._fresh[path] = Inside(fd, rtnl, self.netns)
            oldest = next(iter(self._fresh)) if len(self._fresh) > FRESH else ""
        if oldest:
            self._close_fresh(oldest)

    def _close_fresh(self, path: str) -> None:
        if (inside := self._take_fresh(path)) is not None:
            inside.close()

    def _take_fresh(self, path: str) -> Inside | None:
        with self._fresh_lock:
            return self._fresh.pop(path, None)

    @contextmanager
    def _enter(self, path: str) -> Generator[Inside]:
        inside = self._take_fresh(path)
        if inside is not None and not inside.is_at(path):  # somebody pinned another one in its place
            inside.close()
            inside = None
        if inside is None:
            inside = self._open(path)
        try:
            yield inside
        finally:
            inside.close()

    def _open(self, path: str) -> Inside:
        fd = self.netns.open(path)
        try:
            return Inside(fd, Rtnetlink(self.netns.socket(fd, socket.AF_NETLINK, socket.SOCK_RAW)), self.netns)
        except BaseException:
            os.close(fd)
            raise

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
            self._backend = select_backend(self.firewall_name, instance=self.instance.suffix)
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

    def nat_connections(self) -> Mapping[PortKey, int]:
        """Connections that NAT led to each port that it counts.  Makes no tables; a host without a firewall counts nothing."""
        try:
            with self._lock:
                backend = self._choose_firewall()
        except NotSupported:
            return {}
        return backend.connections()

    def watch_firewall(self) -> FirewallWatch:
        """Have rules that others take away put back, from the first one on until the watch is closed."""
        from .firewall.nftables.render import table_name  # a controller that watches nothing loads neither
        from .firewall.watch import FirewallWatch

        try:
            events = self.netns.socket(self.home, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        except OSError as error:
            if error.errno not in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
                raise
            events = None
        return FirewallWatch(
            lambda: self._backend if self._backend_ready else None,
            events,
            table=table_name(self.instance.suffix),
            at_home=self.at_home,
        )

    def route_socket(self) -> socket.socket:
        """A new rtnetlink socket of the host's namespace, to listen to."""
        return self.netns.socket(self.home, socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)

    def diagnose(self) -> list[str]:
        """What on this host stands in the way of the rules that are there, a sentence each; nothing without a firewall."""
        try:
            with self._lock:
                backend = self._choose_firewall()
        except NotSupported:
            return []
        return backend.diagnose()
