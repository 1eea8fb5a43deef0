"""What should be, what is, and making the second like the first.

    should be    the plans of every network, every sandbox and every joined endpoint in the store
    is           links of our link group, pins in <run>/netns, the back end's rules, the forwarder's ports

``check`` compares and changes nothing; ``repair`` adds what is missing and removes what nobody asked for.  Both cost one
dump of each kind, however many objects there are.  Used at start (a process or the whole host may have died half-way), after a
firewall was flushed, and on demand (``pynet check``, ``pynet repair``).

Nothing else changes meanwhile: the controller calls both with every turn in its hand (turns.py).

Links are looked at through what one dump shows: a host end that is on its bridge and in operation has a peer that was
configured, because that is the last step of making it.  Default routes are compared where there is a choice, in sandboxes
with several endpoints; that takes a look into each of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .applier import Attempts, step
from .endpoint import route_moves
from .errors import PortInUse
from .kernel.netns import delete_netns, is_netns
from .kernel.rtnl_messages import OPERSTATE_UP
from .living import pin_again
from .model import EndpointRecord, PublishedPort, SandboxRecord
from .ports.publishing import socket_id
from .resources import (
    Bridge,
    DefaultRoute,
    Netns,
    NetworkFirewall,
    PortForwards,
    ProxyPorts,
    Resource,
    Sysctl,
    Veth,
    joined,
)

if TYPE_CHECKING:
    from .controller import Controller
    from .firewall.intents import NetworkRules, PortRule


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be."""

    state: Literal["missing", "stray"]
    kind: Literal["link", "netns", "route", "rule", "port"]
    name: str

    def __str__(self) -> str:
        return f"{self.state} {self.kind} {self.name}"


class _Survey:
    """Both sides, and their difference."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        with controller.lock:
            self.plan: list[Resource] = list(_whole_plan(controller))
        actions = controller.actions
        actions.settle()
        group = controller.instance.link_group
        self.links = {link.name: link for link in actions.rtnl.links()}
        self.addresses = {(a.index, f"{a.address}/{a.prefix}") for a in actions.rtnl.addresses()}
        self.own_links = {name for name, link in self.links.items() if link.group == group}
        directory = controller.instance.netns_dir
        self.pins = {str(directory / name) for name in os.listdir(directory)} if directory.exists() else set[str]()
        self.whole_pins = {path for path in self.pins if is_netns(path)}
        self.rules = {actions.complete_rules(r.rules) for r in self.plan if isinstance(r, NetworkFirewall)}
        self.ports: set[PortRule] = {rule for r in self.plan if isinstance(r, PortForwards) for rule in r.rules}
        networks, ports = actions.firewall_state(needed=bool(self.rules))
        self.kernel_rules: set[NetworkRules] = set(networks)
        self.kernel_ports: set[PortRule] = set(ports)
        self.proxied: set[str] = set(actions.proxy.stats()["ports"]) if actions.proxy else set()

    def missing(self) -> list[tuple[Difference, Resource]]:
        found: list[tuple[Difference, Resource]] = []
        actions = self.controller.actions
        gone_pins = {r.path for r in self.plan if isinstance(r, Netns) and r.path not in self.whole_pins}
        new_links = {r.netns for r in self.plan if isinstance(r, Veth) and not self._attached(r)}
        for resource in self.plan:
            match resource:
                case Netns(path=path) if path in gone_pins:
                    found.append((Difference("missing", "netns", path), resource))
                case Bridge(name=name) if not self._whole(resource):
                    found.append((Difference("missing", "link", name), resource))
                case Veth(host=name, netns=netns) if not self._attached(resource) or netns in gone_pins:
                    found.append((Difference("missing", "link", name), resource))
                case DefaultRoute(netns=netns, gateway=gateway):
                    if netns in gone_pins | new_links or gateway not in actions.default_gateways(netns):
                        found.append((Difference("missing", "route", f"{gateway} in {netns}"), resource))
                case NetworkFirewall(rules=rules) if actions.complete_rules(rules) not in self.kernel_rules:
                    found.append((Difference("missing", "rule", rules.bridge), resource))
                case PortForwards(rules=rules) if not self.kernel_ports.issuperset(rules):
                    for rule in sorted(set(rules) - self.kernel_ports, key=str):
                        found.append((Difference("missing", "rule", _port_name(rule)), resource))
                case ProxyPorts(ports=ports) if actions.proxy:
                    for port in ports:
                        if port.id not in self.proxied and port.id in actions.sockets:
                            found.append((Difference("missing", "port", port.id), resource))
                case _:
                    pass
        return found

    def _attached(self, veth: Veth) -> bool:
        link, bridge = self.links.get(veth.host), self.links.get(veth.bridge)
        if link is None or bridge is None or link.master != bridge.index:
            return False
        return link.operstate == OPERSTATE_UP

    def _whole(self, bridge: Bridge) -> bool:
        link = self.links.get(bridge.name)
        return link is not None and link.up and all((link.index, a) in self.addresses for a in bridge.addresses)

    def lost(self) -> list[Difference]:
        """Published ports whose sockets another program took while nobody held them."""
        return [Difference("missing", "port", socket_id(port)) for port in _lost_ports(self.controller)]

    def stray(self) -> list[Difference]:
        wanted_links = {r.name if isinstance(r, Bridge) else r.host for r in self.plan if isinstance(r, Bridge | Veth)}
        wanted_pins = {r.path for r in self.plan if isinstance(r, Netns)}
        wanted_proxied = {port.id for r in self.plan if isinstance(r, ProxyPorts) for port in r.ports}
        return [
            *(Difference("stray", "link", name) for name in sorted(self.own_links - wanted_links)),
            *(Difference("stray", "netns", path) for path in sorted(self.pins - wanted_pins)),
            *(Difference("stray", "rule", r.bridge) for r in sorted(self.kernel_rules - self.rules, key=str)),
            *(
                Difference("stray", "rule", _port_name(rule))
                for rule in sorted(self.kernel_ports - self.ports, key=str)
            ),
            *(Difference("stray", "port", id) for id in sorted(self.proxied - wanted_proxied)),
        ]


def check(controller: Controller) -> list[Difference]:
    with step("read", "the kernel's state"):
        survey = _Survey(controller)
        return [difference for difference, _ in survey.missing()] + survey.lost() + survey.stray()


def repair(controller: Controller) -> list[Difference]:
    """Strays go first: a stale link may stand where a missing one belongs.  Goes on after failures, raises them together."""
    actions, applier = controller.actions, controller.applier
    attempt = Attempts("could not repair everything")
    found_again = [Difference("missing", "port", socket_id(port)) for port in _lost_ports(controller)]
    controller.recover_sockets()
    with step("read", "the kernel's state"):
        found_again += _pin_again(controller)
        survey = _Survey(controller)
        strays = survey.stray()
        missing = survey.missing()
    for port in controller.lost_ports:
        attempt.problems.append(PortInUse(port.host_ip, port.host_port, port.proto))
    # links in a namespace that is made anew went with the old one, but the host end may still be dying
    stale = {r.host for _, r in missing if isinstance(r, Veth)} & survey.own_links
    names = {d.name for d in strays if d.kind == "link"} | stale
    attempt(_removing, "stray links", actions.rtnl.delete_links, [survey.links[name].index for name in sorted(names)])
    for difference in strays:
        if difference.kind == "netns":
            attempt(_removing, difference, delete_netns, difference.name)
    if actions.proxy is not None and any(d.kind == "port" for d in strays):
        attempt(actions.proxy.withdraw, [d.name for d in strays if d.kind == "port"])

    done: set[int] = set()
    rules_differ = any(d.kind == "rule" for d in strays)
    for difference, resource in missing:
        if difference.kind == "netns" and difference.name in survey.pins:
            # a file where the pin was: its mount table has gone
            attempt(_removing, difference, delete_netns, difference.name)
        if isinstance(resource, NetworkFirewall | PortForwards):
            rules_differ = True
        elif id(resource) not in done:
            done.add(id(resource))
            attempt(applier.apply, [*_sysctls_before(survey.plan, resource), resource])
            rules_differ |= isinstance(resource, Bridge)  # its sysctls went with it
    if rules_differ:
        attempt(_replace_rules, controller, survey)
    attempt.finish()
    return [difference for difference, _ in missing] + found_again + strays


def _pin_again(controller: Controller) -> list[Difference]:
    """Lost pins of namespaces in which somebody lives; what cuts nobody off is made anew later."""
    registry, actions = controller.registry, controller.actions
    lost = [room for room in registry.sandboxes.values() if room.path and not is_netns(room.path)]
    links = {link.name: link for link in actions.rtnl.links()} if lost else {}
    return [
        Difference("missing", "netns", room.path)
        for room in lost
        if pin_again(actions.netns, room.path, registry.endpoints_of_sandbox(room.id), links)
    ]


def _removing(what: object, act: Callable[[Any], None], argument: object) -> None:
    with step("remove", what):
        act(argument)


def _replace_rules(controller: Controller, survey: _Survey) -> None:
    with step("write", "the firewall's rules"):
        controller.actions.replace_rules(sorted(survey.rules, key=str), sorted(survey.ports, key=str))


def _lost_ports(controller: Controller) -> list[PublishedPort]:
    ports = (port for endpoint in controller.registry.endpoints.values() for port in endpoint.ports)
    return [port for port in ports if socket_id(port) not in controller.actions.sockets]


def _whole_plan(controller: Controller) -> list[Resource]:
    registry = controller.registry
    plan: list[Resource] = []
    for network in registry.networks.values():
        plan += controller.driver(network.driver).network_plan(network)
    for sandbox in registry.sandboxes.values():
        if sandbox.path:
            plan.append(Netns(sandbox.path))
        endpoints = registry.endpoints_of_sandbox(sandbox.id)
        # among several, the default route may have moved: an interface that is made again must not bring its own
        alone = SandboxRecord(sandbox.id, sandbox.path)
        for endpoint in endpoints:
            plan += _endpoint_plan(controller, endpoint, sandbox if len(endpoints) == 1 else alone)
        if len(endpoints) > 1:
            plan += route_moves(controller, alone, sandbox, endpoints)
    return plan


def _endpoint_plan(controller: Controller, endpoint: EndpointRecord, sandbox: SandboxRecord) -> list[Resource]:
    registry = controller.registry
    network = registry.networks[endpoint.network]
    driver = controller.driver(network.driver)
    plan = list(driver.endpoint_plan(network, endpoint, sandbox))
    plan += controller.publisher.plan(registry, controller.driver, endpoint)
    return plan


def _sysctls_before(plan: list[Resource], resource: Resource) -> list[Resource]:
    """The sysctls that stand directly before a resource belong to it (a new link takes its settings from them)."""
    at = next(i for i, other in enumerate(plan) if other is resource)
    first = at
    while first and isinstance(plan[first - 1], Sysctl):
        first -= 1
    return plan[first:at]


def _port_name(rule: PortRule) -> str:
    return f"{joined(rule.host_ip, rule.host_port)}/{rule.proto}"
