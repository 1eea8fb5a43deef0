"""Kernel parameters, of the host's namespace or a sandbox's.

One is set and stays: links of ours take theirs with them, others get theirs back (found.py), and parameters of the whole host
(ip_forward) may be needed by others by the time we leave.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import InvalidArgument, NotSupported
from ..kernel import sysctl
from ..tools import Tools
from . import found
from .kind import Kind, register
from .resource import Key, Resource
from .sight import Sight

log = logging.getLogger("pynet.netlib")

FORWARDING6 = ("net", "ipv6", "conf", "all", "forwarding")


@dataclass(frozen=True)
class Sysctl(Resource):
    path: tuple[str, ...]
    """Components below /proc/sys, e.g. ("net", "ipv4", "ip_forward")."""
    value: str
    netns: str = ""
    """Path of the sandbox's pin; "" for the host's namespace."""
    optional: bool = False
    """Nothing is to be done in a kernel that has no such parameter (IPv6 may be off altogether)."""

    @property
    def key(self) -> Key:
        return ("sysctl", self.netns, *self.path)

    @property
    def goes_with(self) -> tuple[Key, ...]:
        return (("netns", self.netns),) if self.netns else ()

    @property
    def exclusive(self) -> bool:
        return False

    @property
    def title(self) -> str:
        return f"sysctl {'.'.join(self.path)}" + (f" in {self.netns}" if self.netns else "")

    @property
    def details(self) -> str:
        return self.value


class SysctlKind(Kind[Sysctl]):
    noun = "sysctl"

    def make(self, tools: Tools, resource: Sysctl) -> None:
        if resource.netns:
            with tools.inside(resource.netns) as inside:
                inside.call(_ensure, resource)
            return
        link = tools.rtnl.link(name) if (name := found.link_of(resource.path)) else None
        if link is not None and link.group != tools.instance.link_group:
            found.remember(tools, link, (resource.path,))
        tools.at_home(_ensure, resource)

    def unmake(self, tools: Tools, resource: Sysctl) -> None:
        """See the module's text."""

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[Sysctl]) -> Iterable[tuple[str, Sysctl]]:
        there = set(tools.at_home(_there, [one for one in wanted if not one.netns]))
        for path in {one.netns for one in wanted if one.netns}:
            if sight.inside(path) is not None:
                with tools.inside(path) as inside:
                    there.update(inside.call(_there, [one for one in wanted if one.netns == path]))
        for one in wanted:
            if one not in there:
                yield ".".join(one.path), one


def _there(wanted: Sequence[Sysctl]) -> list[Sysctl]:
    """Of *wanted*, those that the calling thread's namespace has."""
    there: list[Sysctl] = []
    for one in wanted:
        try:
            if sysctl.same(sysctl.read(one.path), one.value):
                there.append(one)
        except FileNotFoundError:
            if one.optional and not os.path.exists(sysctl.path(one.path[:2])):
                there.append(one)  # this kernel has no such family; otherwise an interface is missing
    return there


def _ensure(resource: Sysctl) -> None:
    try:
        changed = sysctl.ensure(resource.path, resource.value) is not None
    except FileNotFoundError:
        if resource.optional:
            return
        if resource.netns and os.path.exists(sysctl.path(resource.path[:-1])):
            raise InvalidArgument(
                f"there is no kernel parameter {'.'.join(resource.path)}",
                hint=f"`ls /proc/sys/{'/'.join(resource.path[:-1])}` lists those that are there",
            ) from None
        if "ipv6" not in resource.path:
            raise
        raise NotSupported(
            "IPv6 is disabled in this kernel",
            hint="create the network without IPv6, or boot with ipv6.disable=0",
        ) from None
    except PermissionError as error:
        raise NotSupported(
            f"can not set {'.'.join(resource.path)}: {error.strerror}",
            hint="run pynet as root, or in `pynet playground`",
        ) from error
    if changed and resource.path == FORWARDING6:
        _warn_of_routers()


def _warn_of_routers() -> None:
    """A host that forwards IPv6 takes no router advertisements where accept_ra is 1 (ip-sysctl.rst): its own default route may
    run out.  To change that parameter is the administrator's decision."""
    deaf: list[str] = []
    for name in sorted(os.listdir("/proc/sys/net/ipv6/conf")):
        try:
            if name not in ("all", "default", "lo") and sysctl.read(("net", "ipv6", "conf", name, "accept_ra")) == "1":
                deaf.append(name)
        except OSError:
            continue  # the interface went meanwhile
    if deaf:
        deaf = [os.fsencode(name).decode(errors="replace") for name in deaf]  # a name is any bytes, a log is text
        log.warning(
            "IPv6 forwarding was switched on: %s take no more router advertisements (net.ipv6.conf.%s.accept_ra=2 lets them)",
            ", ".join(deaf),
            deaf[0],
        )


register(Sysctl, SysctlKind())
