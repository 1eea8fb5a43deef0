"""The controller: where an embedding program and the daemon meet the Container Network Model.

    with Controller(root, run) as c:
        web = c.create_network("web", ipam=[IpamConfig(subnet="10.1.0.0/24")])
        sandbox = c.create_sandbox()
        endpoint = web.create_endpoint("a")
        endpoint.join(sandbox)
        sandbox.publish(parse_publish("8080:80"))

It makes networks and sandboxes and finds them; what they can do is in handles.py, how a verb becomes a change in core.py.

The controller holds an flock on ``<root>/lock``: one process controls a root at a time, others get RootBusy.  It is
thread-safe: ``lock`` is held while records are looked at together, and not while the kernel, the firewall or the proxy are
called; ``turns`` let the changes of one object come one after the other.  Who holds the lock asks for no turn.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..ipam.defaults import replaced_pools
from . import predefined
from .applier import Attempts, step
from .change import Step
from .core import Core, sandbox_key
from .creation import create_network
from .decisions import decide_sandbox
from .driver import Driver
from .errors import Forbidden, InvalidArgument
from .firewall.intents import PortKey
from .handles import Endpoint, Network, Sandbox
from .host_uses import routes_in_the_way
from .instance import Instance
from .kinds import resolver
from .kinds.names import SandboxNames
from .kinds.proxy_ports import ProxyPorts
from .model import IpamConfig, Naming, NetworkRecord, PublishedPort, Room, new_id
from .naming import NameServer
from .ports.leases import UNSPECIFIED
from .ports.portspec import PortBinding
from .predefined import ANY_BRIDGE, DefaultBridge
from .proxying import Proxy
from .reconcile import Difference, check, lost_sockets, repair
from .registry import Registry
from .rehearsal import Attachment, rehearse
from .root import lock_root, make_private
from .store.sqlite import Store
from .tools import Tools

if TYPE_CHECKING:
    from .firewall.watch import FirewallWatch
    from .link_watch import LinkWatch

PUBLISH_POLICIES = ("nat", "host-input")
DEFAULT_NAMING = Naming()


class Controller:
    """Networks, endpoints and sandboxes of one root directory; see the module's text."""

    def __init__(
        self,
        root: Path | str | None = None,
        run: Path | str | None = None,
        *,
        proxy: Proxy | None = None,
        names: NameServer | None = None,
        firewall: str = "auto",
        default_pools: Sequence[tuple[str, int]] = (),
        publish_policy: str = "nat",
    ) -> None:
        """Take the root directory and load what is there; nothing in the kernel is touched before it is needed.

        *proxy* serves published ports that NAT can not (loopback, IPv6 host to IPv4 container); without one, loopback
        goes through NAT as well.  *names* answers name queries in sandboxes (naming.py).  *firewall* is "auto", "nftables" or
        "iptables".  *default_pools* are blocks that subnets of a length are cut from ("10.50.0.0/16", 24) for networks that
        name none; a family that they say nothing of keeps its own (ipam/defaults.py).  *publish_policy* "host-input" has
        *proxy* alone serve published ports, so that the host's INPUT rules judge who reaches them; "nat" is the fast way past
        these rules.
        """
        _check_policy(publish_policy, has_proxy=proxy is not None)
        self.instance = Instance.at(root, run)
        self.default_pools = tuple(default_pools)
        pools = replaced_pools(default_pools, self.instance.digest)
        with ExitStack() as opened:
            self._make_directories()
            with step("lock", self.instance.root):
                opened.callback(os.close, lock_root(self.instance.root))
            self.store = Store(self.instance.root / "pynet.db", expect=self._pinned)
            opened.callback(self.store.close)
            self.registry = Registry(self.store)
            opened.callback(self.registry.close)
            self.tools = Tools(self.instance, firewall=firewall, proxy=proxy, names=names)
            opened.callback(self.tools.close)
            self.core = Core(self.registry, self.tools, pools, host_input=publish_policy == "host-input")
            opened.callback(self.core.close)
            self.core.restore()
            self.lost_ports: list[PublishedPort] = []
            """Published ports that another program took while nobody held their sockets."""
            self.recover_sockets(proxy)
            resolver.recover(self.tools, self.registry.sandboxes)
            self.core.renewal.expect()
            self._opened = opened.pop_all()
        self._watch: FirewallWatch | None = None
        self._link_watch: LinkWatch | None = None
        self.lock, self.turns = self.core.lock, self.core.turns

    def _make_directories(self) -> None:
        with step("make", f"directory {self.instance.root}"):
            make_private(self.instance.root)
        for directory in (self.instance.run, self.instance.netns_dir):
            with step("make", f"directory {directory}"):
                directory.mkdir(parents=True, exist_ok=True, mode=0o711)

    def _pinned(self) -> str:
        """Why there must have been a store before this one."""
        pins = sorted(path.name for path in self.instance.netns_dir.iterdir())
        return f"{self.instance.netns_dir / pins[0]} is pinned" if pins else ""

    def recover_sockets(self, proxy: Proxy | None = None) -> None:
        """The listening sockets of published ports that we have none of: from a *proxy* that outlived the last controller,
        else bound anew; ``lost_ports`` are those that could not be."""
        with self.core.lock:
            ports = [port for sandbox in self.registry.sandboxes.values() for port in sandbox.ports]
        if not ports:
            self.lost_ports = []
            return
        found: dict[str, socket.socket] = {}
        for listening in proxy.fetch() if proxy is not None else ():
            sock = listening.sock
            found[listening.id] = socket.socket(fileno=sock) if isinstance(sock, int) else sock
        self.lost_ports = self.tools.ports.recover(ports, found)
        for stray in found.values():
            stray.close()

    def serve_ports(self) -> None:
        """Give every published port to the proxy, in one message: after a forwarder was started anew."""
        with self.turns.alone():
            plan, _ = self.core.plans.whole((), self.registry.rooms())
            ports = tuple(port for one in plan if isinstance(one, ProxyPorts) for port in one.ports)
            self.core.applier.make(ProxyPorts("", ports))

    def serve_names(self) -> None:
        """Give every sandbox to who serves names, and tell it all: after it was started anew."""
        if self.tools.names is None:
            return
        with self.turns.alone():
            told = [one for one in self.core.plans.whole((), self.registry.rooms())[0] if isinstance(one, SandboxNames)]
            self.tools.names.tell([one.view for one in told], [name for one in told for name in one.names])
            owners = {one.owner for one in told}
            self.tools.names.serve([held for held in self.tools.name_sockets.values() if held.sandbox in owners])

    def take_down(self) -> None:
        """Remove what networks have in the kernel, and the firewall's tables; the store keeps them, ``repair`` makes them again.

        For the end of everything: sandboxes are to be gone.  Goes on after failures and raises them together.
        """
        self._stop_watching()
        with self.turns.alone():
            attempt = Attempts("could not take everything down")
            for network in list(self.registry.networks.values()):
                attempt(self._take_down, network)
            attempt(self.tools.reaper.settle)
            if self.tools.has_firewall:
                attempt(self.tools.firewall.destroy)
            attempt.finish()

    def _take_down(self, network: NetworkRecord) -> None:
        self.core.applier.undo(self.core.plans.network(network))

    def close(self) -> None:
        """Let go of the root directory; twice is fine.  What is in the kernel stays, and a later controller finds it."""
        self._stop_watching()
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def driver(self, name: str) -> Driver:
        return self.core.driver(name)

    def planned(self, verb: Callable[..., object], *args: Any, **kwargs: Any) -> tuple[Step, ...]:
        """What a verb would do, or its error: ``c.planned(c.create_network, "web")``, ``c.planned(endpoint.join, sandbox)``.

        ``str()`` of each step is a line that says it.  Nothing is written or made, and no lease is kept; ports that other
        programs hold are not seen.
        """
        return self.core.planned(verb, *args, **kwargs)

    def rehearsed(
        self,
        sandbox: str,
        attachments: Sequence[Attachment] = (),
        bindings: Sequence[PortBinding] = (),
        *,
        host: bool = False,
        naming: Naming | None = DEFAULT_NAMING,
    ) -> tuple[Step, ...]:
        """``planned`` for several verbs at once: what it would take that this sandbox, which is made where it is not there (with
        *host* in the host's namespace), has these endpoints and ports besides those it has."""
        path = "" if host else str(self.instance.netns_dir / sandbox)
        return rehearse(self.core, sandbox, path, attachments, bindings, naming=None if host else naming)

    # -- networks --------------------------------------------------------------------------------------------

    def create_network(
        self,
        name: str,
        *,
        driver: str = "bridge",
        subnet: str = "",
        ipam: Sequence[IpamConfig] = (),
        ipam_driver: str = "",
        ipam_options: Mapping[str, str] | None = None,
        ipv4: bool = True,
        ipv6: bool = False,
        internal: bool = False,
        attachable: bool = False,
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        config_only: bool = False,
        config_from: str = "",
        id: str | None = None,
    ) -> Network:
        """Make a network.  *subnet* is short for ``ipam=[IpamConfig(subnet=subnet)]``; families without a subnet get one
        from the default pools.  *ipam_driver* gives its addresses; "" is the one that its driver wants.  With *config_only* it
        holds a configuration for others, that are made with its name as *config_from* (configuration.py).

        Raises InvalidArgument (names, options, subnets), Forbidden (overlap with another network), Conflict (the name),
        NotFound (no such driver, no such configuration).
        """
        record = NetworkRecord(
            id=id or new_id(),
            name=name,
            driver=driver,
            created=time.time(),
            ipam_driver=ipam_driver,
            ipam_options=dict(ipam_options or {}),
            internal=internal,
            ipv4=ipv4,
            ipv6=ipv6,
            attachable=attachable,
            options=dict(options or {}),
            labels=dict(labels or {}),
            config_only=config_only,
            config_from=config_from,
        )
        configs = [IpamConfig(subnet=subnet), *ipam] if subnet else list(ipam)
        return Network(self.core, create_network(self.core, record, configs))

    def network(self, ref: str) -> Network:
        """By exact id, exact name, or a prefix of the id; NotFound, or InvalidArgument when it is ambiguous."""
        with self.lock:
            return Network(self.core, self.registry.network(ref).id)

    def networks(self) -> list[Network]:
        """All networks, oldest first."""
        with self.lock:
            records = sorted(self.registry.networks.values(), key=lambda record: (record.created, record.name))
        return [Network(self.core, record.id) for record in records]

    def ensure_predefined(self, bridge: DefaultBridge | None = ANY_BRIDGE) -> None:
        """Make the networks that Docker's users expect to find and that are not there; without *bridge* not that one."""
        predefined.ensure(self.core, bridge)

    def adapt_bridge(self, bridge: DefaultBridge) -> bool:
        """Make the network ``bridge`` anew, under its id, if it is not as asked; False while something is joined to it."""
        return predefined.adapt(self.core, bridge)

    def routes_in_the_way(self, network: Network) -> list[str]:
        """A sentence for each subnet of the network that a route of the host overlaps: a subnet that was asked for may."""
        with step("read", "the host's routes"):
            return routes_in_the_way(network.record.ipam, self.core.own_links())

    # -- sandboxes and endpoints -------------------------------------------------------------------------------

    def create_sandbox(
        self, id: str | None = None, *, host: bool = False, naming: Naming | None = DEFAULT_NAMING
    ) -> Sandbox:
        """Make a network namespace, pinned at ``sandbox.path``; with *host*, a sandbox that is the host's own.

        *naming* says what it resolves beside what is on its networks, where the controller was given *names*; None: it is not
        served.
        """
        id = id or new_id()
        record = decide_sandbox(id, "" if host else str(self.instance.netns_dir / id), None if host else naming)
        with self.turns.of(sandbox_key(id)):
            if id in self.registry.sandboxes:
                raise Forbidden(f"container {id} is already present in sandbox {id}")
            self.core.carry_out(self.core.plans.change(None, Room(record)))
        return Sandbox(self.core, id)

    def sandbox(self, id: str) -> Sandbox:
        """The sandbox with exactly this id; NotFound."""
        return Sandbox(self.core, self.registry.sandbox(id).id)

    def sandboxes(self) -> list[Sandbox]:
        with self.lock:
            return [Sandbox(self.core, id) for id in sorted(self.registry.sandboxes)]

    def endpoint(self, id: str) -> Endpoint:
        """The endpoint with exactly this id; NotFound."""
        return Endpoint(self.core, self.registry.endpoint(id).id)

    def nat_connections(self) -> dict[str, int]:
        """How many connections NAT led to each published port, by the port's id, since its rule was written; ports that NAT does
        not serve, or does not count (iptables), are not in there.  What the proxy carried: ``tools.proxy.stats()``."""
        with step("read", "the firewall's counters"):
            counted = self.tools.nat_connections()
        with self.lock:
            ports = [port for sandbox in self.registry.sandboxes.values() for port in sandbox.ports]
        return {port.id: counted[key] for port in ports if (key := _rule_key(port)) in counted}

    # -- what should be and what is --------------------------------------------------------------------------

    def check(self) -> list[Difference]:
        """How the kernel differs from the store; changes nothing.  Waits for changes that are under way."""
        with self.turns.alone():
            return check(self.core)

    def warnings(self) -> list[str]:
        """What keeps networks and ports from working and is not ours to mend, a sentence each: other programs' rules,
        sysctls of the host (docs/firewall.md)."""
        with step("read", "the host's settings"):
            watches = [watch for watch in (self._watch, self._link_watch) if watch is not None]
            return self.tools.diagnose() + [sentence for watch in watches for sentence in watch.warnings()]

    def watch_firewall(self) -> FirewallWatch:
        """Put rules back as soon as another program takes them away, until the watch (a context manager) or the controller is
        closed; docs/firewall.md says what is noticed, and how soon.  A second call gives the same watch."""
        if self._watch is None or self._watch.closed:
            with step("watch", "the firewall"):
                self._watch = self.tools.watch_firewall()
        return self._watch

    def watch_links(self) -> LinkWatch:
        """Repair as soon as another program deletes a bridge, a container's interface or a bridge's address, or sets one down,
        until the watch (a context manager) or the controller is closed.  A second call gives the same watch."""
        from .link_watch import LinkWatch

        if self._link_watch is None or self._link_watch.closed:
            with step("watch", "interfaces"):
                self._link_watch = LinkWatch(self.core, self.tools.route_socket(), self.repair)
        return self._link_watch

    def _stop_watching(self) -> None:
        for watch in (self._watch, self._link_watch):
            if watch is not None:
                watch.close()

    def repair(self) -> list[Difference]:
        """Make the kernel as the store says: add what is missing, remove strays; returns what was found."""
        with self.turns.alone():
            lost = lost_sockets(self.core)
            self.recover_sockets()
            return lost + repair(self.core, self.lost_ports)


def _check_policy(policy: str, *, has_proxy: bool) -> None:
    if policy not in PUBLISH_POLICIES:
        raise InvalidArgument(f"unknown publish policy {policy!r}", hint="one of " + ", ".join(PUBLISH_POLICIES))
    if policy == "host-input" and not has_proxy:
        raise InvalidArgument(
            "the publish policy host-input needs the userland proxy, and there is none",
            hint="give the controller one: Controller(..., proxy=ForwarderClient(...))",
        )


def _rule_key(port: PublishedPort) -> PortKey:
    """What the port's rule is known by (firewall/intents.py)."""
    version, host_ip = 6 if ":" in port.host_ip else 4, "" if port.host_ip in UNSPECIFIED else port.host_ip
    return port.proto, version, host_ip, port.host_port
