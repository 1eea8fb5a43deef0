"""Starting the name server of a run directory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

from ...netlib.control.asker import TIMEOUT
from ...netlib.errors import Unavailable
from ...proxy import start as starting
from .client import NamesClient

_MODULE = "pynet.names.process.server"


def command(run: str | os.PathLike[str], *extra: str) -> list[str]:
    """The command line of the name server of *run*."""
    return starting.command(_MODULE, "--run", os.fspath(run), *extra)


def spawn(
    run: str | os.PathLike[str], *extra: str, timeout: float = TIMEOUT, log: str | None = None
) -> subprocess.Popen[bytes] | None:
    """Start the name server of *run* in a session of its own and wait until it serves.

    None when another one serves already (the lock decides).  Unavailable, with its last words, when none does.
    *log*: a file for its messages; default RUN/names.log.  The caller owns the process object: wait for it one day.
    """
    os.makedirs(run, mode=0o711, exist_ok=True)
    with open(log or os.path.join(run, "names.log"), "ab") as output:
        process, words = starting.start_ready(command(run, *extra), timeout, log=output.fileno())
    if words is None:
        return process
    process.kill()
    process.wait()
    client = NamesClient(run)
    try:
        client.ping()
    except Unavailable:
        words = words or "it did not say why"
        raise Unavailable(f"the name server of {run} did not start: {words}") from None
    finally:
        client.close()
    return None


Spawner = Callable[..., "subprocess.Popen[bytes] | None"]


class Started(NamesClient):
    """A client that starts the server when there is something to serve, and ends the one that it has started when it is
    closed."""

    def __init__(
        self, run: str | os.PathLike[str], *extra: str, timeout: float = TIMEOUT, spawner: Spawner = spawn
    ) -> None:
        super().__init__(run, timeout, starter=self._needed)
        self._run, self._extra, self._spawner = run, extra, spawner
        self._process: subprocess.Popen[bytes] | None = None
        self.on_start: Callable[[], object] = lambda: None
        """Called in the thread whose request had one started."""

    def close(self) -> None:
        super().close()
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait()

    def let_live(self) -> None:
        """Close the connection; a server that was started goes on."""
        super().close()
        if self._process is not None:
            self._process.returncode = 0  # its exit status is init's business
            self._process = None

    def start(self) -> None:
        """Have one run, whoever has started it; Unavailable."""
        with self._starting:
            if self._is_away():
                self._start()

    def _start(self) -> None:
        if self._process is not None:
            self._process.wait()  # it does not listen any more
        self._process = self._spawner(self._run, *self._extra)

    def _needed(self) -> None:
        self._start()
        self.on_start()
