"""The applier: makes the resources of a plan, and unmakes them.

    apply(plan)    in order; when one fails, what this call made is unmade in reverse and the failure is raised,
                   with whatever the undoing met added to it as notes
    undo(plan)     in reverse; goes on after failures and raises them together at the end

What the kernel refuses leaves here as StepFailed, which says what was to be done to which object, and what helps; the
OSError is its cause.

One handler a kind of resource, in a table.  A handler that fails has cleaned up after itself: only it knows whether what
stands there now was there before (another program's link of the same name must survive our failure).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, Protocol

from .errors import InternalError, MultipleErrors, NotSupported
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


REPAIR = "`pynet repair` (Controller.repair) removes what is left"
_AGAIN = "somebody else removed it; `pynet repair` (Controller.repair) makes it again"
_FILES = "raise the limit of open files (ulimit -n)"
_HINTS = {
    errno.EPERM: "run as root, or in `pynet playground`",
    errno.EACCES: "run as root, or in `pynet playground`",
    errno.EOPNOTSUPP: "the kernel needs bridge, veth and network namespaces",
    errno.EAFNOSUPPORT: "the kernel needs IPv6; or create the network without it",
    errno.ENODEV: _AGAIN,
    errno.ENOENT: _AGAIN,
    errno.ENOSPC: "make room below the run directory; or raise user.max_net_namespaces or fs.mount-max",
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
}
_INSTALLATION = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EAFNOSUPPORT)


class StepFailed(InternalError):
    """The kernel refused a step; ``errno`` is its reason, ``__cause__`` the OSError."""

    def __init__(self, verb: str, what: object, error: OSError) -> None:
        super().__init__(f"can not {verb} {what}: {error}")
        self.hint = _HINTS.get(error.errno or 0) or (REPAIR if verb == "remove" else "")
        self.errno = error.errno


class StepNotPermitted(StepFailed, NotSupported):
    """The step needs a privilege or a part of the kernel that is missing here."""

    status = NotSupported.status


@contextmanager
def step(verb: str, what: object) -> Generator[None]:
    """Let an OSError out of the block as StepFailed: "can not <verb> <what>: ..."."""
    try:
        yield
    except OSError as error:
        kind = StepNotPermitted if error.errno in _INSTALLATION else StepFailed
        raise kind(verb, what, error) from error


class Attempts:
    """Steps that are all tried, whatever becomes of those before; ``finish`` raises what failed, together."""

    def __init__(self, message: str) -> None:
        self.problems: list[BaseException] = []
        self._message = message

    def __call__(self, act: Callable[..., object], *arguments: object) -> None:
        try:
            act(*arguments)
        except MultipleErrors as error:
            self.problems += error.errors
        except Exception as error:
            self.problems.append(error)

    def finish(self) -> None:
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            error = MultipleErrors(self._message, self.problems)
            error.hint = REPAIR
            raise error


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
                if type(resource) not in self._make:
                    raise InternalError(f"there is no way to make a {type(resource).__name__} ({resource})")
                with step("make", resource.title):
                    self._make[type(resource)](resource)
                made.append(resource)
        except BaseException as error:
            for problem in self._undo(made).problems:
                error.add_note(f"while undoing: {problem}")
            raise

    def undo(self, plan: Iterable[Resource]) -> None:
        self._undo(list(plan)).finish()

    def _undo(self, plan: list[Resource]) -> Attempts:
        attempt = Attempts("could not remove everything")
        for resource in reversed(plan):
            if type(resource) in self._unmake:
                attempt(self._remove, resource)
        return attempt

    def _remove(self, resource: Resource) -> None:
        with step("remove", resource.title):
            self._unmake[type(resource)](resource)
