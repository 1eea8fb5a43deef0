"""The supervisor: the one process that starts containers, keeps their logs and exit codes, and restarts them.

    python -I -m pynet.runtime.supervisor.main --run RUN [--ready FD]

One thread, one epoll, no asyncio: it forks Python code into containers, which a threaded process must not (a lock
held by a thread that the child does not have is never released), and fork's price grows with size.  It can be killed
at any time: containers live on, and the next one finds everything in RUN/containers (runtime/supervisor/records.py).

--ready FD: one line is written there, "ready PID", "busy PID" (another one serves; this one ends with success) or
"failed WHY".
"""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import sys

from ...netlib import ipc
from ...netlib.kernel import syscall as k
from .supervisor import Supervisor


def _arguments(argv: list[str]) -> dict[str, str]:
    """--run and --ready; argparse would be a third of this process's start."""
    found: dict[str, str] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        key, equals, value = word.partition("=")
        if key not in ("--run", "--ready"):
            raise SystemExit(f"supervisor: unknown argument {word}")
        if not equals:
            if not words:
                raise SystemExit(f"supervisor: {word} needs a value")
            value = words.pop(0)
        found[key[2:]] = value
    if "run" not in found:
        raise SystemExit("supervisor: --run is missing")
    return found


def _lock(path: str) -> int:
    """Take the lock, or -1.  A POSIX lock is the process's alone: a child that is being started can not prolong it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return -1
    os.ftruncate(fd, 0)
    os.write(fd, str(os.getpid()).encode())
    return fd


def _say(ready: int, text: str) -> None:
    if ready >= 0:
        try:
            os.write(ready, text.encode() + b"\n")
        except BrokenPipeError:
            pass  # whoever has started us is gone, or waits no more: the containers are here all the same
        os.close(ready)


def main(argv: list[str]) -> int:
    while (standard := os.open("/dev/null", os.O_RDWR)) < 3:
        pass  # a child puts its own there, and would close what we keep (process.py)
    os.close(standard)
    options = _arguments(argv)
    run = os.path.abspath(options["run"])
    ready = int(options.get("ready", "-1"))
    if ready >= 0:
        os.set_inheritable(ready, False)
    os.makedirs(run, mode=0o700, exist_ok=True)
    lock = f"{run}/supervisor.lock"
    if _lock(lock) < 0:
        with open(lock, encoding="ascii") as file:
            _say(ready, f"busy {file.read().strip() or 0}")
        return 0
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as file:
            file.write("pynet-runtime")  # it was executed by a descriptor, whose number ps(1) would show (launch.py)
        k.prctl(k.PR_SET_DUMPABLE, 0)  # children in containers inherit it (CVE-2019-5736)
        k.prctl(k.PR_SET_CHILD_SUBREAPER, 1)
        supervisor = Supervisor(run)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        listener = ipc.listen(f"{run}/supervisor.sock")
        supervisor.restore()
        supervisor.serve(listener)
    except OSError as error:
        _say(ready, f"failed {error.filename or ''}: {error.strerror}")
        return 1
    _say(ready, f"ready {os.getpid()}")
    gc.collect()
    gc.freeze()  # the children's copies stay shared
    supervisor.loop.run()
    os.unlink(f"{run}/supervisor.sock")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
