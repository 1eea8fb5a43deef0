"""Starting the name server of a run directory."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Self

from ...netlib.control.asker import TIMEOUT
from ...netlib.errors import PynetError, Unavailable
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


class NameService(NamesClient):
    """Names for a controller's sandboxes: a client that starts the server when there is something to serve, and ends the one that
    it has started when it is closed.

        with NameService(run) as names, Controller(root, run, names=names) as controller:
            names.watch(controller.serve_names)
    """

    def __init__(
        self, run: str | os.PathLike[str], *extra: str, timeout: float = TIMEOUT, spawner: Spawner = spawn
    ) -> None:
        super().__init__(run, timeout, starter=self._needed)
        self._run, self._extra, self._spawner = run, extra, spawner
        self._process: subprocess.Popen[bytes] | None = None
        self._watching: _Watch | None = None
        self.on_start: Callable[[], object] = lambda: None
        """Called in the thread whose request had one started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def watch(self, serve: Callable[[], object]) -> None:
        """From now on start a server that dies again, and call *serve* (``Controller.serve_names``), which gives it all that
        there is.  Without this, the next verb starts it, and ``Controller.repair`` gives it the rest."""
        watching = self._watching = _Watch(self, serve)
        self.on_start = watching.look

    def close(self) -> None:
        self._end_watching()
        super().close()
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait()

    def let_live(self) -> None:
        """Close the connection; a server that was started goes on."""
        self._end_watching()
        super().close()
        if self._process is not None:
            self._process.returncode = 0  # its exit status is init's business
            self._process = None

    def _end_watching(self) -> None:
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.close()

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


class _Watch:
    """A thread that waits for the server's end, by its pidfd."""

    def __init__(self, service: NameService, serve: Callable[[], object]) -> None:
        self._service, self._serve = service, serve
        self._end, self._told = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="pynet-names", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """There is a server to watch."""
        self._end.send(b".")

    def close(self) -> None:
        self._end.close()
        self._thread.join()
        self._told.close()

    def _run(self) -> None:
        while True:
            pidfds = self._find()
            try:
                poll = select.poll()
                for fd in (self._told.fileno(), *pidfds):
                    poll.register(fd, select.POLLIN)
                ready = {fd for fd, _ in poll.poll()}
            finally:
                for fd in pidfds:
                    os.close(fd)
            if self._told.fileno() not in ready:
                self._again()
            elif not self._told.recv(64):
                return

    def _find(self) -> list[int]:
        """A pidfd of the server, or none when there is no server."""
        try:
            return [os.pidfd_open(self._service.ping())]
        except (PynetError, ProcessLookupError):
            return []

    def _again(self) -> None:
        try:
            self._service.start()
            self._serve()
        except (PynetError, OSError) as error:
            print(f"pynet names: the name server can not be started again: {error}", file=sys.stderr, flush=True)
