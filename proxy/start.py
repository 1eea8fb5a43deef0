"""Starting a helper process: the one way in which this room does it.

    start("pynet.proxy...", words, fds) --> python -I -m pynet.proxy... words      fds keep their numbers; all others are closed

A helper has a session of its own (a Ctrl-C at its starter's terminal is not for it), /dev/null to read, the starter's
stderr or a log to speak to, and nothing else: neither the directory nor the descriptors of whoever started it.  ``-I``:
neither PYTHON* in the environment nor files in the working directory say what is imported.  subprocess starts by vfork,
so no memory is copied.  ``ready_pipe`` and ``wait_ready`` are for helpers that say when they serve; ``Child`` is a helper
under an event loop.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


def command(module: str, *words: str) -> list[str]:
    """The command line that runs *module* of this package."""
    return [sys.executable, "-I", "-m", module, *words]


def start(argv: Sequence[str], fds: Iterable[int] = (), *, log: int | None = None) -> subprocess.Popen[bytes]:
    """Run *argv*, which inherits *fds* under their numbers.  *log*: where its output goes, if not to ours.

    The caller owns the process object: wait for it one day.
    """
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=tuple(fds),
        start_new_session=True,
        cwd="/",
    )


def start_ready(
    argv: Sequence[str], timeout: float, *, fds: Sequence[int] = (), log: int | None = None
) -> tuple[subprocess.Popen[bytes], str | None]:
    """Run *argv* with ``--ready-fd N`` behind it and wait for what it says there: ``0``, or ``1`` and on the next line why not.

    (process, None) when it serves; else why not in its words, which may be none, and the process may still run.
    """
    read, write = os.pipe()
    try:
        try:
            process = start([*argv, "--ready-fd", str(write)], [*fds, write], log=log)
        finally:
            os.close(write)
        said = _read_all(read, timeout)
    finally:
        os.close(read)
    if said.startswith(b"0\n"):
        return process, None
    return process, said.partition(b"\n")[2].decode(errors="replace").strip()


def _read_all(fd: int, timeout: float) -> bytes:
    """What comes from *fd* until its end or until *timeout*."""
    end = time.monotonic() + timeout
    said = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while len(said) < 65536 and (left := end - time.monotonic()) > 0 and poll.poll(left * 1000):
        data = os.read(fd, 4096)
        if not data:
            break
        said += data
    return said


class Child:
    """A process that the event loop reaps.  *on_exit* is called once, when that is done."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, process: subprocess.Popen[bytes], on_exit: Callable[[], None]
    ) -> None:
        """OSError when it can not be followed, no descriptor being left: it is ended then."""
        self.pid = process.pid
        self._loop, self._process, self._on_exit = loop, process, on_exit
        try:
            self._pidfd = os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise
        loop.add_reader(self._pidfd, self._exited)

    def kill(self) -> None:
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def forget(self) -> None:
        """Follow it no longer: it goes on by itself."""
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.returncode = 0  # it is not ours to wait for any more, and no warning is due

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._process.wait()
        os.close(self._pidfd)
        self._on_exit()
