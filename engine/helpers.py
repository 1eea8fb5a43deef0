"""The processes beside pynetd: found or started at the start, watched, started again when they die.

    pidfd of the supervisor   readable --> spawn it --> its client connects again by itself --> states are compared
    pidfd of the forwarder    readable --> spawn it --> every published port is sent again
    pidfd of the name server  readable --> spawn it --> it is given every sandbox's sockets, and told all

The first two in turn watch pynetd and start it when it dies without a goodbye.  The name server is started with the first
container that has names to resolve.  Each has a lock of its own, so two who start one at the same time end up with one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from ..names.process.launch import NameService
from ..names.process.launch import spawn as spawn_names
from ..netlib.errors import InvalidArgument, PynetError, Unavailable
from ..netlib.ports.bind import bind
from ..proxy.mapping import parse_endpoint
from ..proxy.ports import DEFAULT_DRAIN, MAX_DRAIN, MAX_WORKERS, parse_drain
from ..proxy.process.client import ForwarderClient
from ..proxy.process.launch import replace as replace_forwarder
from ..proxy.process.launch import spawn as spawn_forwarder
from ..runtime.client import SupervisorClient
from ..runtime.launch import spawn as spawn_supervisor

if TYPE_CHECKING:
    import subprocess

    from ..netlib.controller import Controller
    from ..netlib.instance import Instance

log = logging.getLogger(__name__)

END_PATIENCE = 5.0
"""Seconds that a process has to end when it was told to."""
RETRY_SECONDS = 1.0
"""Between two attempts to start a process that does not come up."""


class ProxySettings(NamedTuple):
    """How the forwarder is to be started, and where it tells Prometheus."""

    workers: int
    drain: float
    metrics: tuple[str, int] | None
    strict: bool = True
    """Whether an address of metrics that can not be had is an error: not when nobody is there to be told."""

    @classmethod
    def of(cls, workers: int | None, drain: float | None, metrics: str | None, *, strict: bool) -> Self:
        """From pynetd's options; None is the default.  InvalidArgument says which one is wrong."""
        workers = 1 if workers is None else workers
        if not 1 <= workers <= MAX_WORKERS:
            raise InvalidArgument(f"--proxy-workers must be from 1 to {MAX_WORKERS}, not {workers}")
        try:
            drain = DEFAULT_DRAIN if drain is None else parse_drain(drain)
        except InvalidArgument as error:
            raise InvalidArgument(f"--proxy-drain: {error}", hint="0 resets live connections at once") from None
        try:
            return cls(workers, drain, parse_endpoint(metrics) if metrics else None, strict)
        except InvalidArgument as error:
            raise InvalidArgument(
                f"--metrics-addr: {error}", hint="name a port of this host, as 127.0.0.1:9323"
            ) from None

    @property
    def forwarder(self) -> tuple[int, float]:
        """What ``ForwarderClient.settings`` answers when it was started so."""
        return self.workers, self.drain

    def options(self) -> list[str]:
        """The forwarder's command line."""
        return ["--workers", str(self.workers), "--drain", str(self.drain)]


class Helpers:
    """Owns both clients."""

    def __init__(self, instance: Instance, argv: list[str], proxy: ProxySettings) -> None:
        self._instance = instance
        self._proxy = proxy
        self._argv = argv
        """How pynetd is started; what the others run when it dies."""
        self._watching: dict[str, int] = {}
        self._revivals: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._forwarder_process: subprocess.Popen[bytes] | None = None
        self.forwarder = ForwarderClient(str(instance.run / "forwarder.sock"))
        self.names = NameService(instance.run, spawner=self._spawn_names)
        self._supervisor: SupervisorClient | None = None
        self._settings = proxy.forwarder
        """Of the forwarder that was found."""
        self.on_revival: Callable[[], None] = lambda: None
        """Called when one of them runs again."""
        self.forwarder_is_new = False
        """Whether none ran when we came: only then may a start that fails end it."""
        self.supervisor_is_new = False
        """Whether no supervisor ran when we came: the machine was restarted, or everything was stopped."""

    @property
    def supervisor(self) -> SupervisorClient:
        assert self._supervisor is not None, "find_supervisor comes first"
        return self._supervisor

    # -- start -----------------------------------------------------------------------------------------------

    def find_forwarder(self) -> None:
        """Connect to the forwarder that runs, or start one.  PortInUse, InvalidArgument when metrics can not be told there."""
        try:
            self._settings = self.forwarder.settings()
        except Unavailable:
            self._start_forwarder()
            self.forwarder_is_new = True
        else:
            self.forwarder.metrics(None)  # it may hold the very address, for the pynetd before us
        self._expose_metrics()

    def adjust_forwarder(self, controller: Controller) -> None:
        """Replace a forwarder that runs with other settings; no connection is lost.  When all else of the start is done."""
        if self._settings == self._proxy.forwarder:
            return
        log.info("the forwarder is replaced by one with the settings of this start")
        # between the two nobody but us holds the listeners: were we killed, somebody must bind them anew
        self.supervisor.watch(os.getpid(), self._argv)
        run, options = str(self._instance.run), self._proxy.options()
        self._forwarder_process = replace_forwarder(run, *options, drain=MAX_DRAIN)
        controller.serve_ports()  # the replacement told each port's old drain
        self._expose_metrics()

    def _expose_metrics(self) -> None:
        if self._proxy.metrics is None:
            return
        ip, port = self._proxy.metrics
        try:
            with socket.socket(fileno=bind("tcp", ip, port, both=not ip)) as sock:
                self.forwarder.metrics(sock)
        except PynetError as error:
            if self._proxy.strict:
                raise
            log.error("metrics are told nowhere: %s", error)

    def find_supervisor(self) -> None:
        path = self._instance.run / "supervisor.sock"
        try:
            self._supervisor = SupervisorClient(path)
        except Unavailable:
            self._start_supervisor()
            self.supervisor_is_new = True
            self._supervisor = SupervisorClient(path)

    def _start_forwarder(self) -> None:
        run = str(self._instance.run)
        try:
            self._forwarder_process = spawn_forwarder(run, *self._proxy.options())
        except Unavailable:
            # one that nobody can talk to (its socket was removed) holds the lock, and with it every port
            if not _end_holder(self._instance.run / "forwarder.lock", "pynet.proxy.process.forwarder"):
                raise
            self._forwarder_process = spawn_forwarder(run, *self._proxy.options())

    def _start_supervisor(self) -> None:
        spawn_supervisor(self._instance.run)

    def register(self) -> None:
        """Ask both to start us when we die."""
        pid = os.getpid()
        self.supervisor.watch(pid, self._argv)
        self.forwarder.watch(pid, self._argv)

    # -- watching --------------------------------------------------------------------------------------------

    def watch(self, controller: Controller) -> None:
        """In the event loop: see to it that both live."""
        self._watch("supervisor", int(self.supervisor.info()["pid"]), self._supervisor_again)
        self._watch("forwarder", self.forwarder.ping(), lambda: self._forwarder_again(controller))
        self._watch_names(controller)

    def _watch(self, name: str, pid: int, again: Callable[[], int]) -> None:
        if name in self._watching:
            return  # somebody who needed it was faster in starting it again
        loop = asyncio.get_running_loop()
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._revivals.add(loop.create_task(self._revive(name, again)))
            return
        self._watching[name] = pidfd

        def died() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            self._watching.pop(name, None)
            if not self._stopping:
                log.warning("the %s (process %d) has ended; it is started again", name, pid)
                self._revivals.add(loop.create_task(self._revive(name, again)))

        loop.add_reader(pidfd, died)

    async def _revive(self, name: str, again: Callable[[], int]) -> None:
        while not self._stopping:
            try:
                pid = await asyncio.to_thread(again)
            except (PynetError, OSError) as error:
                log.error("the %s can not be started: %s", name, error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                log.warning("the %s runs again as process %d", name, pid)
                self.on_revival()
                self._watch(name, pid, again)
                return

    def _watch_names(self, controller: Controller) -> None:
        """The name server that runs, and any that is started with a container."""
        loop = asyncio.get_running_loop()

        def watch(pid: int) -> None:
            if not self._stopping:
                self._watch("names", pid, lambda: self._names_again(controller))

        self.names.on_start = lambda: loop.call_soon_threadsafe(watch, self.names.ping())
        try:
            pid = self.names.ping()
        except Unavailable:
            return  # nobody has needed one
        watch(pid)

    def _spawn_names(self, run: os.PathLike[str], *options: str) -> subprocess.Popen[bytes] | None:
        try:
            return spawn_names(run, *options)
        except Unavailable:  # as for the forwarder: one that nobody can talk to holds the lock
            if not _end_holder(self._instance.run / "names.lock", "pynet.names.process.server"):
                raise
            return spawn_names(run, *options)

    def _names_again(self, controller: Controller) -> int:
        self.names.start()
        controller.serve_names()
        return self.names.ping()

    def _supervisor_again(self) -> int:
        self._start_supervisor()
        self.supervisor.watch(os.getpid(), self._argv)
        return int(self.supervisor.info()["pid"])

    def _forwarder_again(self, controller: Controller) -> int:
        if self._forwarder_process is not None:
            self._forwarder_process.wait()
        self._start_forwarder()
        self.forwarder.watch(os.getpid(), self._argv)
        controller.serve_ports()
        try:
            self._expose_metrics()
        except PynetError as error:
            log.error("metrics are told nowhere: %s", error)
        return self.forwarder.ping()

    # -- end -------------------------------------------------------------------------------------------------

    def goodbye(self, *, everything: bool) -> None:
        """Nobody is to start us again; with *everything*, both end too."""
        self._stopping = True
        try:
            if everything:
                self.supervisor.shutdown()
            else:
                self.supervisor.watch(os.getpid(), [])
        except PynetError as error:
            log.warning("goodbye to the supervisor: %s", error)
        try:
            if everything:
                self.forwarder.shutdown()
            else:
                self.forwarder.unwatch()
        except PynetError as error:
            log.warning("goodbye to the forwarder: %s", error)
        if everything:
            try:
                self.names.shutdown()
            except PynetError as error:
                log.warning("goodbye to the name server: %s", error)
        for pidfd in self._watching.values():
            os.close(pidfd)
        self._watching.clear()

    def give_up(self) -> None:
        """After a start that failed: end what was started for it, leave what was there before."""
        if self._supervisor is not None and self.supervisor_is_new:
            self._supervisor.shutdown()
        if self._forwarder_process is not None and self.forwarder_is_new:
            self.forwarder.shutdown()
            self._forwarder_process.wait()

    def close(self) -> None:
        self.supervisor.close()
        self.forwarder.close()
        self.names.let_live()
        if self._forwarder_process is not None:
            # it goes on without us; its exit status is init's business then
            self._forwarder_process.returncode = 0


def _end_holder(path: Path, module: str) -> bool:
    """End the process that holds the lock on *path*, when it is one of ours that runs *module*; whether there was one."""
    pid = lock_holder(path)
    if pid is None:
        return False
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        # after the descriptor is there the number can not become another's
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if module.encode() not in command:
            return False
        log.warning("process %d (%s) can not be talked to; it is ended", pid, module)
        ends = select.poll()  # select(2) takes no descriptor above 1023
        ends.register(pidfd, select.POLLIN)
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(pidfd, number)
            if ends.poll(END_PATIENCE * 1000):
                return True
    except ProcessLookupError:
        return True
    except FileNotFoundError:
        return True
    finally:
        os.close(pidfd)
    return False


def lock_holder(path: Path) -> int | None:
    """The process that holds an flock(2) on a file, as proc_locks(5) tells it."""
    try:
        inode = path.stat().st_ino
    except FileNotFoundError:
        return None
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode) and int(words[4]) > 0:
            return int(words[4])
    return None


def ensure_directories(*paths: Path) -> None:
    for path in paths:
        path.mkdir(parents=True, exist_ok=True, mode=0o711)
