"""Starting pynetd when the first command needs it.

    command -- flock RUN/pynetd.start.lock -- connect again: somebody else started it? --
        spawn  python -I -m pynet.engine.daemon --root ROOT --run RUN --ready-fd N
               (a session of its own, output to RUN/pynetd.log)
        read N: "1\n" it serves; text: why it can not, and what to do; end of file: it died, the log's last line says why
        another engine has the directory (one that was killed is started again by its other processes): wait for its socket

The pipe wakes us, and its end is an answer too.  ``-I`` keeps a rogue module in the current
directory out of a process that may be root's.
"""

from __future__ import annotations

import fcntl
import os
import sys

from ..netlib.errors import PynetError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .settings import Settings

LOG_NAME = "pynetd.log"
LOCK_NAME = "pynetd.start.lock"
READY_TIMEOUT = 60.0
"""Seconds; a cold start on a slow disk with many containers to take over takes a few."""
OTHER_TIMEOUT = 10.0
"""Seconds in which another engine that is about to serve must do so."""


class EngineFailed(PynetError):
    """The engine was started and ended before it served."""


def engine_argv(settings: Settings, options: Sequence[str] = ()) -> list[str]:
    """How the daemon is started; the caller adds --ready-fd."""
    argv = [sys.executable, "-I", "-m", "pynet.engine.daemon", "--root", settings.root, "--run", settings.run]
    return [*argv, *options]


def start_engine(settings: Settings, options: Sequence[str] = ()) -> None:
    """Return when the engine serves; raise when it can not.  *options* are for one that has to be started."""
    try:
        os.makedirs(settings.run, 0o711, exist_ok=True)
        lock = os.open(os.path.join(settings.run, LOCK_NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(
            f"the engine is not running and can not be started: {error.filename}: {error.strerror}",
            hint="run as root, or try `pynet playground`, which needs no privilege",
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_serving(settings):
            _spawn(settings, options)
    finally:
        os.close(lock)


def is_serving(settings: Settings) -> bool:
    """Whether somebody accepts connections at the engine's socket."""
    import socket

    assert isinstance(settings.address, str)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(settings.address)
        except OSError:
            return False
    return True


def _spawn(settings: Settings, options: Sequence[str]) -> None:
    path = os.path.join(settings.run, LOG_NAME)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    reader, writer = os.pipe()
    try:
        start = os.fstat(log).st_size
        os.set_inheritable(writer, True)
        argv = [*engine_argv(settings, options), "--ready-fd", str(writer)]
        # posix_spawn, not subprocess: a third of the time and no import; setsid makes it outlive this terminal
        os.posix_spawn(
            sys.executable,
            argv,
            dict(os.environ),
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)],
            setsid=True,
        )
        os.close(writer)
        writer = -1
        answer = _answer(reader)
    finally:
        for fd in (log, null, reader, writer):
            if fd >= 0:
                os.close(fd)
    reason, _, hint = answer.strip().partition("\n")
    if reason == "1" or ("is in use by another process" in reason and _wait_for_other(settings)):
        return
    reason = reason or _last_line(path, start) or "it ended without a word"
    raise EngineFailed(f"the engine did not start: {reason}", hint=hint or f"its log is {path}")


def _wait_for_other(settings: Settings) -> bool:
    """Whether the engine that has the directory comes to serve the socket."""
    import time

    deadline = time.monotonic() + OTHER_TIMEOUT
    while time.monotonic() < deadline:
        if is_serving(settings):
            return True
        time.sleep(0.02)  # nothing tells when a stranger's socket is there
    return False


def _answer(reader: int) -> str:
    import select

    text = b""
    while b"\n" not in text:
        if not select.select([reader], [], [], READY_TIMEOUT)[0]:
            return f"it did not answer within {READY_TIMEOUT:.0f} s"
        data = os.read(reader, 4096)
        if not data:
            break
        text += data
    return text.decode(errors="replace")


def _last_line(path: str, start: int) -> str:
    """The last line that this start wrote to the log."""
    with open(path, "rb") as log:
        log.seek(start)
        lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
