"""Starting the supervisor: a process of its own that outlives whoever starts it."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path

from ..netlib.errors import Unavailable
from ..netlib.kernel import syscall as k
from . import linux


def spawn(run: str | Path, *, timeout: float = 10.0) -> int:
    """Start the supervisor of *run* in a session of its own; returns its pid once it answers.

    When another one holds the lock already, that one serves and its pid is returned.
    """
    argv = [sys.executable, "-I", "-m", "pynet.runtime.supervisor.main", "--run", str(run), "--ready", "3"]
    os.makedirs(run, mode=0o700, exist_ok=True)
    program = _sealed_interpreter()
    ready, theirs = os.pipe()
    log = os.path.join(run, "supervisor.log")
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_DUP2, theirs, 3),
        ]
        pid = os.posix_spawn(
            argv[0] if program < 0 else f"/proc/self/fd/{program}",
            argv,
            dict(os.environ),
            file_actions=actions,
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE],
        )
    except BaseException:
        os.close(ready)
        raise
    finally:
        os.close(theirs)
        if program >= 0:
            os.close(program)
    _Reaper(pid).start()
    try:
        poll = select.poll()  # select(2) takes no descriptor above 1023: three a container
        poll.register(ready, select.POLLIN)
        said = os.read(ready, 4096).decode(errors="replace").strip() if poll.poll(timeout * 1000) else ""
    finally:
        os.close(ready)
    word, _, rest = said.partition(" ")
    if word in ("ready", "busy"):
        return int(rest)
    raise Unavailable(f"the supervisor did not start: {rest or f'see {log}'}")


def _sealed_interpreter() -> int:
    """This interpreter on a read-only mount that nobody else has, -1 where none may be made: what the supervisor runs.

    A container whose program is /proc/self/exe, or has it behind "#!", runs the file that the child ran before: the host's
    Python. It could keep that, and write to it as soon as nothing on the host runs it (CVE-2019-5736); the mount goes where
    the file goes, and says EROFS.  argv[0] keeps the name by which Python finds its home.
    """
    try:
        low = linux.open_tree(k.AT_FDCWD, os.path.realpath(sys.executable))
        try:
            linux.mount_setattr(low, set=k.MOUNT_ATTR_RDONLY)
            return fcntl(low, F_DUPFD_CLOEXEC, 10)  # above what the spawned process gets as its own
        finally:
            os.close(low)
    except OSError:
        return -1  # an ordinary user, whose containers run as himself


class _Reaper(threading.Thread):
    """Collects the supervisor when it ends."""

    def __init__(self, pid: int) -> None:
        super().__init__(name="supervisor-reaper", daemon=True)
        self.pid = pid

    def run(self) -> None:
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass  # somebody else in this program waits for every child
