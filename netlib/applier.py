"""The applier: makes the resources of a plan, and unmakes them.

    apply(plan)    in order; when one fails, what this call made is unmade in reverse and the failure is raised,
                   with whatever the undoing met added to it as notes
    undo(plan)     in reverse; goes on after failures and raises them together at the end

One handler a kind of resource, in a table.  A handler that fails has cleaned up after itself: only it knows whether what
stands there now was there before (another program's link of the same name must survive our failure).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from .errors import MultipleErrors
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
)


class Actions(Protocol):
    """What the applier needs of the kernel; netlib/kernel/host.py has it, and tests have one that keeps a ledger."""

    def set_sysctl(self, resource: Sysctl) -> None: ...
    def make_netns(self, resource: Netns) -> None: ...
    def drop_netns(self, resource: Netns) -> None: ...
    def make_bridge(self, resource: Bridge) -> None: ...
    def drop_bridge(self, resource: Bridge) -> None: ...
    def make_veth(self, resource: Veth) -> None: ...
    def drop_veth(self, resource: Veth) -> None: ...
    def set_default_route(self, resource: DefaultRoute) -> None: ...
    def drop_default_route(self, resource: DefaultRoute) -> None: ...
    def add_network_rules(self, resource: NetworkFirewall) -> None: ...
    def remove_network_rules(self, resource: NetworkFirewall) -> None: ...
    def add_port_rules(self, resource: PortForwards) -> None: ...
    def remove_port_rules(self, resource: PortForwards) -> None: ...
    def add_proxy_ports(self, resource: ProxyPorts) -> None: ...
    def remove_proxy_ports(self, resource: ProxyPorts) -> None: ...


class Applier:
    def __init__(self, actions: Actions) -> None:
        self.actions = actions
        self._make: dict[type, Callable[[Any], None]] = {
            Sysctl: actions.set_sysctl,
            Netns: actions.make_netns,
            Bridge: actions.make_bridge,
            Veth: actions.make_veth,
            DefaultRoute: actions.set_default_route,
            NetworkFirewall: actions.add_network_rules,
            PortForwards: actions.add_port_rules,
            ProxyPorts: actions.add_proxy_ports,
        }
        self._unmake: dict[type, Callable[[Any], None]] = {
            Netns: actions.drop_netns,
            Bridge: actions.drop_bridge,
            Veth: actions.drop_veth,
            DefaultRoute: actions.drop_default_route,
            NetworkFirewall: actions.remove_network_rules,
            PortForwards: actions.remove_port_rules,
            ProxyPorts: actions.remove_proxy_ports,
        }
        """Sysctl is missing: see its text."""

    def apply(self, plan: Iterable[Resource]) -> None:
        made: list[Resource] = []
        try:
            for resource in plan:
                self._make[type(resource)](resource)
                made.append(resource)
        except BaseException as error:
            for problem in self._undo(made):
                error.add_note(f"while undoing: {problem}")
            raise

    def undo(self, plan: Iterable[Resource]) -> None:
        problems = self._undo(list(plan))
        if len(problems) == 1:
            raise problems[0]
        if problems:
            raise MultipleErrors("could not remove everything", problems)

    def _undo(self, plan: list[Resource]) -> list[BaseException]:
        problems: list[BaseException] = []
        for resource in reversed(plan):
            unmake = self._unmake.get(type(resource))
            if unmake is None:
                continue
            try:
                unmake(resource)
            except Exception as error:
                problems.append(error)
        return problems
