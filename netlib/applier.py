"""The applier: makes resources and unmakes them, through the table of kinds (kinds/kind.py).

What the kernel refuses leaves here as StepFailed, which says what was to be done to which object, and what helps; the OSError
is its cause.  A kind whose verb fails has cleaned up after itself: only it knows whether what stands there now was there before
(another program's link of the same name must survive our failure).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

from .errors import InternalError, MultipleErrors, NotSupported
from .kinds.kind import Kind, kind_of
from .kinds.resource import Resource
from .tools import Tools

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

    def __call__(self, act: Callable[..., object], *arguments: object, **options: object) -> None:
        try:
            act(*arguments, **options)
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
    """Makes and unmakes through the table of kinds; one step at a time, or a list that is made whole or not at all."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools

    def make(self, resource: Resource) -> None:
        with step("make", resource.title):
            self._kind(resource).make(self.tools, resource)

    def unmake(self, resource: Resource) -> None:
        with step("remove", resource.title):
            self._kind(resource).unmake(self.tools, resource)

    def alter(self, old: Resource, new: Resource) -> None:
        with step("make", new.title):
            self._kind(new).alter(self.tools, old, new)

    def forsake(self, resource: Resource) -> None:
        with step("remove", resource.title):
            self._kind(resource).forsake(self.tools, resource)

    @staticmethod
    def _kind(resource: Resource) -> Kind[Any]:
        kind = kind_of(resource)
        if kind is None:
            raise InternalError(
                f"there is no way to make a {type(resource).__name__} ({resource})",
                hint="the package of the driver that asks for it must register its kind",
            )
        return kind

    def apply(self, make: Iterable[Resource], alter: Iterable[tuple[Resource, Resource]] = ()) -> None:
        """Make in order, then alter in order.  When a step fails, what was done is undone in reverse and the failure is raised,
        with whatever the undoing met added to it as notes."""
        done: list[tuple[Callable[..., None], tuple[Resource, ...]]] = []
        try:
            for resource in make:
                self.make(resource)
                done.append((self.unmake, (resource,)))
            for old, new in alter:
                self.alter(old, new)
                done.append((self.alter, (new, old)))
        except BaseException as error:
            attempt = Attempts("could not undo everything")
            for undo, resources in reversed(done):
                attempt(undo, *resources)
            for problem in attempt.problems:
                error.add_note(f"while undoing: {problem}")
            raise

    def undo(self, plan: Iterable[Resource]) -> None:
        """Unmake in reverse; goes on after failures and raises them together at the end."""
        attempt = Attempts("could not remove everything")
        for resource in reversed(list(plan)):
            attempt(self.unmake, resource)
        attempt.finish()
