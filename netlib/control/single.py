"""One process of a kind in a run directory: a lock says that nobody else serves, a pipe says to whoever waits that we do.

take_lock(RUN, "forwarder.lock", ...)      released by the kernel, whatever the end
say_ready(fd, "0\\n")                       or "1\\n" and why not (proxy/start.py reads it)
"""

from __future__ import annotations

import fcntl
import os

from ..errors import RootBusy


def take_lock(run: str, name: str, what: str) -> int:
    """Hold *run*/*name* for the life of the process, or raise RootBusy: *what* ("a forwarder") has it."""
    fd = os.open(os.path.join(run, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise RootBusy(run, what) from error
    return fd


def say_ready(fd: int, text: str) -> None:
    try:
        os.write(fd, text.encode())
    except BrokenPipeError:
        pass  # whoever has started us is gone, or waits no more: that is no reason not to serve
    os.close(fd)
