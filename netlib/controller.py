"""The controller: where an embedding program and the daemon meet the Container Network Model.

    with Controller(root, run) as c:
        web = c.create_network("web", ipam=[IpamConfig(subnet="10.1.0.0/24")])
        sandbox = c.create_sandbox()
        endpoint = web.create_endpoint("a")
        endpoint.join(sandbox)
        endpoint.publish(parse_publish("8080:80"))

Every change has the same four steps: decide under the lock (names, addresses, ports, the default route); write the
decision to the store in one transaction; make it true in the kernel by applying a plan; on failure undo the plan and
the decision.  A removal likewise: the store first, then the kernel.  A process killed between the two leaves a store
that is ahead of the kernel, and ``repair`` makes the kernel follow it.

The controller holds an flock on ``<root>/lock``: one process controls a root at a time, others get RootBusy.  It is
thread-safe: ``lock`` is held while something is decided, and not while the kernel, the firewall or the proxy are
called; ``turns`` let the changes of one object come one after the other.  Who holds the lock asks for no turn.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .addressing import Addressing, host_avoids
from .applier import Applier, Attempts, step
from .driver import Driver, load_driver
from .errors import Forbidden, InvalidArgument, RootBusy
from .instance import Instance
from .model import IpamConfig, NetworkRecord, PublishedPort, SandboxRecord
from .network import Network, network_key
from .ports.publishing import Publisher
from .proxying import Proxy
from .registry import NetworkNameTaken, Registry
from .resources import Netns, ProxyPorts, Resource
from .sandbox import Sandbox, sandbox_key
from .store.sqlite import Store
from .turns import Turns

if TYPE_CHECKING:
    from .reconcile import Difference

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
PREDEFINED = ("bridge", "host", "none")
DEFAULT_BRIDGE = "pynet0"
"""Interface name of the predefined bridge network of the default root; others get a name made from the id."""


def new_id() -> str:
    """64 hex digits, as Docker's ids."""
    return secrets.token_hex(32)


class Controller:
    """Networks, endpoints and sandboxes of one root directory; see the module's text."""

    def __init__(
        self,
        root: Path | str | None = None,
        run: Path | str | None = None,
        *,
        proxy: Proxy | None = None,
        firewall: str = "auto",
    ) -> None:
        """Take the root directory and load what is there; nothing in the kernel is touched before it is needed.

        *proxy* serves published ports that NAT can not (loopback, IPv6 host to IPv4 container); without one, loopback
        goes through NAT as well.  *firewall* is "auto", "nftables" or "iptables".
        """
        from .kernel.host import HostActions

        self.instance = Instance.at(root, run)
        self.turns = Turns()
        self._drivers: dict[str, Driver] = {}
        with ExitStack() as opened:
            with step("make", f"directory {self.instance.root}"):
                _make_private(self.instance.root)
            for directory in (self.instance.run, self.instance.netns_dir):
                with step("make", f"directory {directory}"):
                    directory.mkdir(parents=True, exist_ok=True, mode=0o711)
            with step("lock", self.instance.root):
                opened.callback(os.close, _lock_root(self.instance.root))
            self.store = Store(self.instance.root / "pynet.db")
            opened.callback(self.store.close)
            self.registry = Registry(self.store)
            self.lock = self.registry.lock
            self.actions = HostActions(self.instance, firewall=firewall, proxy=proxy)
            opened.callback(self.actions.close)
            self.applier = Applier(self.actions)
            self.addressing = Addressing(self.instance.digest)
            self.publisher = Publisher(self.actions.sockets, has_proxy=proxy is not None)
            for network in self.registry.networks.values():
                endpoints = self.registry.endpoints_of_network(network.id)
                self.addressing.restore(network, endpoints)
                for endpoint in endpoints:
                    self.publisher.restore(endpoint.id, endpoint.ports)
            self.lost_ports: list[PublishedPort] = []
            """Published ports that another program took while nobody held their sockets."""
            self.recover_sockets(proxy)
            self._opened = opened.pop_all()

    def recover_sockets(self, proxy: Proxy | None = None) -> None:
        """The listening sockets of published ports that we have none of: from a *proxy* that outlived the last controller,
        else bound anew; ``lost_ports`` are those that could not be."""
        ports = [port for endpoint in self.registry.endpoints.values() for port in endpoint.ports]
        if not ports:
            return
        found: dict[str, socket.socket] = {}
        for listening in proxy.fetch() if proxy is not None else ():
            sock = listening.sock
            found[listening.id] = socket.socket(fileno=sock) if isinstance(sock, int) else sock
        self.lost_ports = self.publisher.adopt(ports, found)
        for stray in found.values():
            stray.close()

    def serve_ports(self) -> None:
        """Give every published port to the proxy, in one message: after a forwarder was started anew."""
        with self.turns.alone():
            plans = [
                resource
                for endpoint in self.registry.endpoints.values()
                for resource in self.publisher.plan(self.registry, self.driver, endpoint)
                if isinstance(resource, ProxyPorts)
            ]
            ports = tuple(p for plan in plans for p in plan.ports if p.id in self.actions.sockets)
            self.actions.add_proxy_ports(ProxyPorts("", ports))

    def take_down(self) -> None:
        """Remove what networks have in the kernel, and the firewall's tables; the store keeps them, ``repair`` makes them again.

        For the end of everything: sandboxes are to be gone.  Goes on after failures and raises them together.
        """
        with self.turns.alone():
            attempt = Attempts("could not take everything down")
            for network in list(self.registry.networks.values()):
                attempt(self._take_down, network)
            if self.actions.has_firewall:
                attempt(self.actions.firewall.destroy)
            attempt.finish()

    def _take_down(self, network: NetworkRecord) -> None:
        self.applier.undo(self.driver(network.driver).network_plan(network))

    def close(self) -> None:
        """Let go of the root directory; twice is fine.  What is in the kernel stays, and a later controller finds it."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def driver(self, name: str) -> Driver:
        driver = self._drivers.get(name)
        if driver is None:
            driver = self._drivers[name] = load_driver(name)
        return driver

    # -- networks --------------------------------------------------------------------------------------------

    def create_network(
        self,
        name: str,
        *,
        driver: str = "bridge",
        subnet: str = "",
        ipam: Sequence[IpamConfig] = (),
        ipv4: bool = True,
        ipv6: bool = False,
        internal: bool = False,
        attachable: bool = False,
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> Network:
        """Make a network.  *subnet* is short for ``ipam=[IpamConfig(subnet=subnet)]``; families without a subnet get one
        from the default pools.

        Raises InvalidArgument (names, options, subnets), Forbidden (overlap with another network), Conflict (the name),
        NotFound (no such driver).
        """
        record = NetworkRecord(
            id=id or new_id(),
            name=name,
            driver=driver,
            created=time.time(),
            internal=internal,
            ipv4=ipv4,
            ipv6=ipv6,
            attachable=attachable,
            options=dict(options or {}),
            labels=dict(labels or {}),
        )
        configs = [IpamConfig(subnet=subnet), *ipam] if subnet else list(ipam)
        the_driver = self._validated(record)
        with self.turns.of(network_key(the_driver, record)):
            return self._create_network(the_driver, record, configs)

    def plan_network(
        self,
        name: str,
        *,
        driver: str = "bridge",
        subnet: str = "",
        ipam: Sequence[IpamConfig] = (),
        ipv4: bool = True,
        ipv6: bool = False,
        internal: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> list[Resource]:
        """What ``create_network`` would make in the kernel, or its error; nothing is made.

        ``str()`` of each is a line that says it.
        """
        record = NetworkRecord(
            new_id(), name, driver, 0.0, ipv4=ipv4, ipv6=ipv6, internal=internal, options=dict(options or {})
        )
        the_driver = self._validated(record)
        with self.lock:
            record = self._decide(the_driver, record, [IpamConfig(subnet=subnet), *ipam] if subnet else ipam)
            self.addressing.close(record.id)
        return list(the_driver.network_plan(record))

    def _validated(self, record: NetworkRecord) -> Driver:
        self._check_name(record.name)
        driver = self.driver(record.driver)
        driver.validate(record)
        if not record.ipv4 and not record.ipv6:
            raise InvalidArgument("IPv4 or IPv6 must be enabled")
        return driver

    def _decide(self, driver: Driver, record: NetworkRecord, configs: Sequence[IpamConfig]) -> NetworkRecord:
        """The record with its subnets, whose pools are open, once nothing stands against it."""
        if self.registry.has_network_named(record.name):
            raise NetworkNameTaken(record.name)
        if driver.needs_addresses:
            record = replace(record, ipam=self.addressing.open(record, configs, host_avoids()))
        elif configs:
            raise InvalidArgument(f"the {record.driver} driver takes no subnets")
        try:
            self._check_conflicts(driver, record)
        except BaseException:
            self.addressing.close(record.id)
            raise
        return record

    def _create_network(self, the_driver: Driver, record: NetworkRecord, configs: Sequence[IpamConfig]) -> Network:
        with self.lock:
            record = self._decide(the_driver, replace(record, scope=the_driver.scope), configs)
            try:
                self.registry.save(record)
            except BaseException:
                self.addressing.close(record.id)
                raise
        try:
            self.applier.apply(the_driver.network_plan(record))
        except BaseException:
            with self.lock:
                self.registry.remove(record)
                self.addressing.close(record.id)
            raise
        return Network(self, record.id)

    def _check_name(self, name: str) -> None:
        if not name.strip():
            raise InvalidArgument("invalid network name: name is empty")
        if not _NAME.fullmatch(name):
            raise InvalidArgument(
                f"invalid network name {name!r}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
            )

    def _check_conflicts(self, driver: Driver, record: NetworkRecord) -> None:
        for other in self.registry.networks.values():
            if other.driver != record.driver:
                continue
            reason = driver.conflicts(record, other)
            if driver.singleton:
                raise Forbidden(reason)
            if reason:
                raise Forbidden(
                    f"cannot create network {record.id} ({record.name}): conflicts with network {other.id} "
                    f"({other.name}): {reason}",
                    hint=f"choose another subnet or bridge name, or remove the network {other.name}",
                )

    def network(self, ref: str) -> Network:
        """By exact id, exact name, or a prefix of the id; NotFound, or InvalidArgument when it is ambiguous."""
        with self.lock:
            return Network(self, self.registry.network(ref).id)

    def networks(self) -> list[Network]:
        """All networks, oldest first."""
        with self.lock:
            records = sorted(self.registry.networks.values(), key=lambda record: (record.created, record.name))
        return [Network(self, record.id) for record in records]

    def ensure_predefined(self) -> None:
        """Make the networks that Docker's users expect to find: bridge, host, none."""
        bridge = {} if self.instance.suffix else {"com.docker.network.bridge.name": DEFAULT_BRIDGE}
        for name in PREDEFINED:
            if not self.registry.has_network_named(name):
                self.create_network(name, driver=name, options=bridge if name == "bridge" else None)

    # -- sandboxes -------------------------------------------------------------------------------------------

    def create_sandbox(self, id: str | None = None, *, host: bool = False) -> Sandbox:
        """Make a network namespace, pinned at ``sandbox.path``; with *host*, a sandbox that is the host's own."""
        id = id or new_id()
        if not _NAME.fullmatch(id) or len(id) > 64:
            raise InvalidArgument(f"invalid sandbox id {id!r}: up to 64 of [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        path = "" if host else str(self.instance.netns_dir / id)
        record = SandboxRecord(id=id, path=path)
        with self.turns.of(sandbox_key(id)):
            with self.lock:
                if id in self.registry.sandboxes:
                    raise Forbidden(f"container {id} is already present in sandbox {id}")
                self.registry.save(record)
            try:
                self.applier.apply([Netns(path)] if path else [])
            except BaseException:
                with self.lock:
                    self.registry.remove(record)
                raise
        return Sandbox(self, id)

    def sandbox(self, id: str) -> Sandbox:
        """The sandbox with exactly this id; NotFound."""
        return Sandbox(self, id).checked()

    def sandboxes(self) -> list[Sandbox]:
        with self.lock:
            return [Sandbox(self, id) for id in sorted(self.registry.sandboxes)]

    # -- what should be and what is --------------------------------------------------------------------------

    def check(self) -> list[Difference]:
        """How the kernel differs from the store; changes nothing.  Waits for changes that are under way."""
        from .reconcile import check

        with self.turns.alone():
            return check(self)

    def warnings(self) -> list[str]:
        """What keeps networks and ports from working and is not ours to mend, a sentence each: other programs' rules,
        sysctls of the host (docs/firewall.md)."""
        with step("read", "the host's settings"):
            return self.actions.diagnose()

    def repair(self) -> list[Difference]:
        """Make the kernel as the store says: add what is missing, remove strays; returns what was found."""
        from .reconcile import repair

        with self.turns.alone():
            return repair(self)


def _make_private(root: Path) -> None:
    """The root directory is its owner's alone: images and volumes hold setuid programs, records hold secrets (CVE-2021-41091).

    So is one that an older pynet made 0711.  One that was there before us keeps its mode: it may be anybody's.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (root / "pynet.db").exists():
        root.chmod(root.stat().st_mode & 0o7700)


def _lock_root(root: Path) -> int:
    fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise RootBusy(str(root), f"process {holder}" if holder else "") from None
    except BaseException:
        os.close(fd)
        raise
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd
