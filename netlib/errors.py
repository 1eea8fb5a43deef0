"""One tree of errors, sorted by who must act.

    PynetError
      |-- the caller:      InvalidArgument 400, NotFound 404, Forbidden 403, Conflict 409, NotModified 304
      |-- the installation: Unavailable 503 (a program is away, try again), NotSupported 501 (kernel, library
      |                     or privilege is missing)
      `-- pynet itself:    InternalError 500 (a kernel call failed that should not have; a bug; a broken store)

Each class carries the Engine API status and the CLI's exit status; an instance carries its message (one line that says
what and why), its fields, and one hint (one line that says what to do; may be empty).  Messages that Docker's clients
match on keep Docker's wording.  Every room may import this module; it imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing costs a command 4 ms of its start
if TYPE_CHECKING:
    from typing import ClassVar


class PynetError(Exception):
    """Root of the tree.  ``str(error)`` is one line that says what happened and why."""

    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    hint: str = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class InvalidArgument(PynetError):
    """The request itself is wrong; repeating it can not help."""

    status = 400


class Forbidden(PynetError):
    """The request is well formed, but not allowed on this object."""

    status = 403


class NotFound(PynetError):
    """No object answers to this name or id."""

    status = 404


class Conflict(PynetError):
    """The request collides with something that exists; remove it or choose another."""

    status = 409


class NotModified(PynetError):
    """The object is already in the state that was asked for."""

    status = 304


class Unavailable(PynetError):
    """A process or service that is needed is away for now."""

    status = 503


class NotSupported(PynetError):
    """The kernel, a library or a privilege that is needed is missing on this machine."""

    status = 501


class InternalError(PynetError):
    """Something failed that should not have; the message says which step."""

    status = 500


class MultipleErrors(InternalError):
    """Several undo or clean-up steps failed; ``errors`` holds all of them, first to last."""

    def __init__(self, message: str, errors: list[BaseException]) -> None:
        super().__init__(message + ": " + "; ".join(str(error) or type(error).__name__ for error in errors))
        self.errors = errors


# -- errors that several rooms raise ------------------------------------------------------------------------------


class PortInUse(Conflict):
    """A host port is held by another mapping or another program (Docker's wording; Docker answers 500)."""

    status = 500
    hint = "stop what uses the port, or publish another host port"

    def __init__(self, host_ip: str, port: int, proto: str, *, holder: str = "") -> None:
        shown = f"[{host_ip}]" if ":" in host_ip else host_ip
        if holder:
            text = f"Bind for {shown}:{port} failed: port is already allocated"
        else:
            text = f"failed to bind host port {shown}:{port}/{proto}: address already in use"
        super().__init__(text, hint=f"{holder} holds it; {self.hint}" if holder else None)
        self.host_ip, self.port, self.proto, self.holder = host_ip, port, proto, holder


class BindFailed(InvalidArgument):
    """A host address can not be bound (Docker's wording; Docker answers 500).  *reason* is the kernel's."""

    status = 500

    def __init__(self, host_ip: str, port: int, proto: str, reason: str, *, hint: str | None = None) -> None:
        shown = f"[{host_ip}]" if ":" in host_ip else host_ip
        super().__init__(f"failed to bind host port {shown}:{port}/{proto}: {reason}", hint=hint)
        self.host_ip, self.port, self.proto, self.reason = host_ip, port, proto, reason


class StateTooNew(InternalError):
    """The state directory was written by a newer pynet."""

    hint = "run the newer pynet, or choose another --root"

    def __init__(self, path: str, found: int, known: int) -> None:
        super().__init__(f"{path} has schema version {found}, this pynet knows up to {known}")
        self.path, self.found, self.known = path, found, known


class RootBusy(Unavailable):
    """Another process controls this state directory."""

    hint = "use the daemon that runs there (PYNET_HOST), or choose another --root and --run"

    def __init__(self, path: str, holder: str = "") -> None:
        super().__init__(f"{path} is in use by another process" + (f" ({holder})" if holder else ""))
        self.path, self.holder = path, holder
