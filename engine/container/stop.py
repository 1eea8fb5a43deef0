"""Ending containers: stop, kill, and the stop of everything.  What follows the end is end.py's."""

from __future__ import annotations

import logging
import sqlite3
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime

from ...netlib.errors import Conflict, InternalError, NotFound, NotModified, PynetError
from ...netlib.store.sqlite import StoreFailed
from ..core import Core
from .config import parse_signal
from .end import SIGKILL
from .record import Container
from .registry import Registry
from .specs import SIGTERM

log = logging.getLogger(__name__)

KILL_PATIENCE = 10.0
"""Seconds that a killed container's end is waited for; the kernel needs longer only when a process hangs in it."""


def stop_signal(container: Container) -> int:
    text = container.config.get("StopSignal")
    return parse_signal(text) if text else SIGTERM


def _not_running(container: Container) -> Conflict:
    return Conflict(
        f"cannot kill container: {container.name}: container {container.id} is not running",
        hint="`pynet start` it first; `pynet ps -a` shows its state",
    )


class Stop:
    def __init__(self, core: Core, registry: Registry) -> None:
        self._core = core
        self._registry = registry

    def stop(
        self, container: Container, *, signal: int | None = None, timeout: int | None = None, by_user: bool = True
    ) -> None:
        """Ask it to end, KILL it when it has not after *timeout* seconds (-1: never); returns when all is taken down.

        NotModified when it does not run.  Not *by_user*: the whole engine stops, and policies start it again later.
        """
        with container.lock:
            if not container.running:
                raise NotModified("container is already stopped")
            ended = container.expect("exit")
            self._asked(container, by_user)
        if timeout is None:
            timeout = container.config.get("StopTimeout")
        self._tell(container, "kill", signal=str(signal or stop_signal(container)))
        try:
            try:
                self._core.supervisor.stop(container.id, signal, 10 if timeout is None else timeout)
            except NotFound:
                pass  # it has ended by itself, and whoever saw that had the supervisor forget it
            self._wait(container, ended)
        finally:
            container.forget("exit", ended)
        self._tell(container, "stop")

    def kill(self, container: Container, signal: int = SIGKILL) -> None:
        """Send a signal; Conflict when it does not run."""
        with container.lock:
            if not container.running:
                raise _not_running(container)
            if signal in (SIGKILL, stop_signal(container)):
                self._asked(container, True)
            # moby, daemon/kill.go: a signal by which it may end resumes it; any may, unless the image names the one
            resumed = signal in (SIGKILL, stop_signal(container)) or not container.config.get("StopSignal")
        if container.state.stopped_by_user:
            self._core.supervisor.update_restart(container.id, {"name": "no", "max": 0})
        try:
            self._core.supervisor.kill(container.id, signal, resume=resumed)
        except (Conflict, NotFound):  # it has ended by itself just now
            raise _not_running(container) from None
        self._tell(container, "kill", signal=str(signal))

    def kill_and_wait(self, container: Container) -> None:
        """For ``rm -f``: end it and wait until it is taken down; fine when it does not run (any more)."""
        with container.lock:
            if not container.running:
                return
            ended = container.expect("exit")
            container.change(stopped_by_user=True)
        try:
            self._core.supervisor.stop(container.id, SIGKILL, 0)
        except (NotFound, Conflict, NotModified):
            pass  # it ended by itself just now; its event is on the way
        try:
            self._wait(container, ended)
        finally:
            container.forget("exit", ended)

    def stop_all(self) -> None:
        """Stop every container, all at once."""
        self._core.store.check_there()
        running = [container for container in self._registry.all() if container.running]
        stops = [self._core.pools.defer(self.stop, container, by_user=False) for container in running]
        for container, stop in zip(running, stops):
            try:
                stop.result()
            except PynetError as error:
                log.warning("container %s: %s", container.name, error)

    def _asked(self, container: Container, by_user: bool) -> None:
        """Note who wants its end, under the lock.  A disk that is too full for the note must not keep it from ending.

        StoreLost: nothing was changed, and it goes on as everything does then.
        """
        self._core.store.check_there()
        container.change(stopped_by_user=by_user)
        try:
            self._registry.save_end(container)
        except (StoreFailed, sqlite3.Error) as error:
            log.error("container %s: that it was to end is not on disk: %s", container.name, error)

    def _wait(self, container: Container, ended: Future[int]) -> None:
        try:
            ended.result(KILL_PATIENCE)
        except NotInTime:
            raise InternalError(
                f"container {container.name} did not end within {KILL_PATIENCE:.0f} s after KILL"
            ) from None

    def _tell(self, container: Container, action: str, **more: str) -> None:
        self._core.events.publish("container", action, container.id, container.attributes(**more))
