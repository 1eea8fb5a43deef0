"""What tests of the library share: looks into sandboxes, and appliers that stop, fail or die where a test says."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from pynet.netlib.applier import Applier, step
from pynet.netlib.controller import Controller
from pynet.netlib.handles import Sandbox
from pynet.netlib.kernel.netns import NetnsThread
from pynet.netlib.kinds.resource import Resource
from pynet.plugins.testhost import Namespace


def call_in(controller: Controller, path: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run *function* inside the sandbox that is pinned at *path*."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return controller.tools.netns.call(fd, function, *arguments)
    finally:
        os.close(fd)


def default_gateways(controller: Controller, path: str) -> set[str]:
    """The next hops of a sandbox's default routes."""
    with controller.tools.inside(path) as inside:
        return {r.gateway for version in (4, 6) for r in inside.rtnl.routes(version) if r.destination == "default"}


@contextmanager
def inside_of(controller: Controller, sandbox: Sandbox) -> Generator[Namespace]:
    """The sandbox's namespace, for tests that play who is in it."""
    namespace = Namespace(NetnsThread(), controller.tools.netns.open(sandbox.path))
    try:
        yield namespace
    finally:
        namespace.close()


class Watched(Applier):
    """An applier whose every step calls ``before(verb, resource)`` first."""

    def __init__(self, inner: Applier, before: Callable[[str, Resource], None]) -> None:
        super().__init__(inner.tools)
        self._before = before

    def make(self, resource: Resource) -> None:
        self._wrapped("make", resource, super().make, resource)

    def unmake(self, resource: Resource) -> None:
        self._wrapped("remove", resource, super().unmake, resource)

    def alter(self, old: Resource, new: Resource) -> None:
        self._wrapped("make", new, super().alter, old, new)

    def forsake(self, resource: Resource) -> None:
        self._wrapped("remove", resource, super().forsake, resource)

    def _wrapped(self, verb: str, resource: Resource, act: Callable[..., None], *arguments: Resource) -> None:
        with step(verb, resource.title):
            self._before(verb, resource)
        act(*arguments)
