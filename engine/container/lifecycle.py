"""Starting and stopping, and what follows when a container ends; the supervisor's events become states here.

    start    network (sandbox, endpoints, ports) -> files -> supervisor      a failure undoes what was done before it
    exit     state saved -> ports and links gone -> "die" -> waiters -> --rm
    restart  by the supervisor (policy): the namespace stays, so the network does

The supervisor's events arrive on its client's thread; each goes to its container's inbox, and one worker at a time empties
an inbox, under the container's lock.  So events of one container keep their order, and those of others do not wait.
"""

from __future__ import annotations

import concurrent.futures
import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...netlib.errors import Conflict, InternalError, InvalidArgument, NotFound, NotModified, PynetError
from ...runtime.client import StartFailed
from ...runtime.spec import Restart
from ..reserve import told
from .attachment import rephrase
from .config import parse_signal
from .containers import port_bindings
from .record import UNKNOWN_EXIT, Container, State
from .specs import SIGTERM, build_spec

if TYPE_CHECKING:
    from ..service import Engine

log = logging.getLogger(__name__)

SIGKILL = 9
KILL_PATIENCE = 10.0
"""Seconds that a killed container's end is waited for; the kernel needs longer only when a process hangs in it."""


class Lifecycle:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # -- start -----------------------------------------------------------------------------------------------

    def start(self, container: Container) -> None:
        """Start it; NotModified when it runs.  On failure it is ``created`` (or ``exited``) as before, with an error."""
        with container.lock:
            status = container.state.status
            if status == "paused":
                raise Conflict("cannot start a paused container, try unpause instead")
            if container.running:
                raise NotModified("container is already running")
            if status == "removing":
                raise Conflict("container is marked for removal and cannot be started")
            try:
                self._start(container)
            except (PynetError, OSError, sqlite3.Error) as cause:
                error = told(cause, self._engine.instance.root)
                failure = error if isinstance(error, PynetError) else InternalError(f"can not start: {error}")
                self._failed(container, failure)
            else:
                return
        if container.auto_remove:
            # the client that asked for --rm waits for the removal, as after an exit
            self._engine.containers.remove(container.id, volumes=True)
        raise failure

    def _start(self, container: Container) -> None:
        engine = self._engine
        networks = engine.container_networks
        engine.containers.ensure_sources(container)
        path = self._shared_netns(container)
        if path is None:
            path = networks.attach(container, port_bindings(container.config, container.host_config))
        try:
            files = engine.hosts.prepare(container)
            spec = build_spec(
                container,
                netns=path,
                cgroup_parent=engine.instance.cgroup,
                log=str(engine.containers.log_path(container)),
                files=files,
                volume_path=engine.volumes.path,
            )
            # the endpoints are on record before the process is, so a kill in between loses nothing
            engine.containers.save(container)
            container.supervised = True
            started = engine.supervisor.start(spec)
        except BaseException:
            self.network_down(container)
            raise
        state = container.state
        container.state = State(
            status="running",
            pid=started.pid,
            started=started.started,
            finished=state.finished,
        )
        try:
            engine.containers.save_end(container)
        except (PynetError, sqlite3.Error) as error:
            # it runs, and the supervisor knows: the next start of ours learns it from there
            log.error("container %s: its start is not on disk: %s", container.name, error)
        for warning in started.warnings:
            log.warning("container %s: %s", container.name, warning)
        container.announce("started")
        self._network_events(container, "connect")
        engine.events.publish("container", "start", container.id, container.attributes())

    def _failed(self, container: Container, error: PynetError) -> None:
        if isinstance(error, StartFailed):
            container.state.exit_code = error.exit_code
        else:
            container.state.exit_code = 128
        container.state.error = str(error)
        try:
            self._engine.containers.save(container)
        except (PynetError, sqlite3.Error) as trouble:
            log.error("container %s: its state is not on disk: %s", container.name, trouble)
        container.announce("exit")
        log.info("container %s did not start: %s", container.name, error)

    def _shared_netns(self, container: Container) -> str | None:
        """The namespace of another container (``--network container:X``); None when it has its own."""
        if not container.network_mode.startswith("container:"):
            return None
        try:
            other = self._engine.containers.get(container.network_mode.partition(":")[2])
        except NotFound as error:
            raise NotFound(
                f"joining network namespace of container: {error}", hint="`pynet ps` lists the containers that run"
            ) from None
        if not other.running:
            raise Conflict(
                f"cannot join network namespace of a non running container: {other.id}",
                hint="start that container first",
            )
        return self._engine.controller.sandbox(other.id).path

    def network_down(self, container: Container) -> None:
        """Take the network down; what can not be removed now is left to ``repair`` and told in the log."""
        ids = {entry["network_id"] for entry in container.networks.values()} - {""}
        try:
            self._engine.reserve.spend(self._engine.container_networks.detach, container)
        except (PynetError, OSError, sqlite3.Error) as error:
            log.error("network of %s: %s", container.name, error)
        if ids:
            user_made = {name for name in container.networks if name not in ("bridge", "host", "none")}
            if user_made:
                try:
                    self._engine.hosts.follow_networks(ids)
                except (PynetError, OSError) as error:  # of others' files; whoever waits for this end must hear of it
                    log.error("the hosts files beside %s: %s", container.name, error)

    def _network_events(self, container: Container, action: str) -> None:
        for name, entry in container.networks.items():
            self._engine.publish_network(action, name, entry["network_id"], container=container.id)

    # -- stop ------------------------------------------------------------------------------------------------

    def stop_signal(self, container: Container) -> int:
        text = container.config.get("StopSignal")
        return parse_signal(text) if text else SIGTERM

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
            container.state.stopped_by_user = by_user
            self._engine.containers.save_end(container)
        if timeout is None:
            timeout = container.config.get("StopTimeout")
        self._engine.events.publish(
            "container", "kill", container.id, container.attributes(signal=str(signal or self.stop_signal(container)))
        )
        try:
            self._engine.supervisor.stop(container.id, signal, 10 if timeout is None else timeout)
            self._wait(container, ended)
        finally:
            container.forget("exit", ended)
        self._engine.events.publish("container", "stop", container.id, container.attributes())

    def _wait(self, container: Container, ended: concurrent.futures.Future[int]) -> None:
        try:
            ended.result(KILL_PATIENCE)
        except concurrent.futures.TimeoutError:
            raise InternalError(
                f"container {container.name} did not end within {KILL_PATIENCE:.0f} s after KILL"
            ) from None

    def kill(self, container: Container, signal: int = SIGKILL) -> None:
        """Send a signal; Conflict when it does not run."""
        with container.lock:
            if not container.running:
                raise Conflict(
                    f"cannot kill container: {container.name}: container {container.id} is not running",
                    hint="`pynet start` it first; `pynet ps -a` shows its state",
                )
            if signal in (SIGKILL, self.stop_signal(container)):
                container.state.stopped_by_user = True
                self._engine.containers.save_end(container)
        if container.state.stopped_by_user:
            self._engine.supervisor.update_restart(container.id, {"name": "no", "max": 0})
        self._engine.supervisor.kill(container.id, signal)
        self._engine.events.publish("container", "kill", container.id, container.attributes(signal=str(signal)))

    def kill_and_wait(self, container: Container) -> None:
        """For ``rm -f``: end it and wait until it is taken down; fine when it does not run (any more)."""
        with container.lock:
            if not container.running:
                return
            ended = container.expect("exit")
            container.state.stopped_by_user = True
        try:
            self._engine.supervisor.stop(container.id, SIGKILL, 0)
        except (NotFound, Conflict, NotModified):
            pass  # it ended by itself just now; its event is on the way
        try:
            self._wait(container, ended)
        finally:
            container.forget("exit", ended)

    def restart(self, container: Container, *, signal: int | None = None, timeout: int | None = None) -> None:
        try:
            self.stop(container, signal=signal, timeout=timeout)
        except NotModified:
            pass
        try:
            self.start(container)
        except NotModified:
            pass
        self._engine.events.publish("container", "restart", container.id, container.attributes())

    def stop_all(self) -> None:
        """Stop every container, all at once."""
        running = [container for container in self._engine.containers.all() if container.running]
        stops = [self._engine.defer(self.stop, container, by_user=False) for container in running]
        for container, stop in zip(running, stops):
            try:
                stop.result()
            except PynetError as error:
                log.warning("container %s: %s", container.name, error)

    def pause(self, container: Container) -> None:
        with container.lock:
            if container.state.status == "paused":
                raise Conflict(f"container {container.id} is already paused")
            if container.state.status != "running":
                raise Conflict(
                    f"container {container.id} is not running",
                    hint="`pynet start` it first; `pynet ps -a` shows its state",
                )
            self._engine.supervisor.pause(container.id)
            self._set_status(container, "paused")
        self._engine.events.publish("container", "pause", container.id, container.attributes())

    def unpause(self, container: Container) -> None:
        with container.lock:
            if container.state.status != "paused":
                raise Conflict(f"container {container.id} is not paused")
            self._engine.supervisor.unpause(container.id)
            self._set_status(container, "running")
        self._engine.events.publish("container", "unpause", container.id, container.attributes())

    def update(self, container: Container, changes: dict[str, Any]) -> None:
        """New limits and restart policy.  Limits of a running container take effect at its next start."""
        with container.lock:
            if container.state.status == "removing":
                raise Conflict(f"container {container.id} is marked for removal and cannot be updated")
            policy = changes.get("RestartPolicy")
            if policy and container.auto_remove and policy["Name"] != "no":
                raise InvalidArgument(
                    "restart policy cannot be updated because AutoRemove is enabled for the container"
                )
            container.host_config |= changes
            self._engine.containers.save(container)
            if policy and container.running:
                restart: Restart = {"name": policy["Name"], "max": policy["MaximumRetryCount"]}
                self._engine.supervisor.update_restart(container.id, restart)
        self._engine.events.publish("container", "update", container.id, container.attributes())

    def _set_status(self, container: Container, status: str) -> None:
        container.state.status = status
        self._engine.containers.save(container)

    def forget(self, container: Container) -> None:
        """Have the supervisor drop what it knows of a container that ended; fine when that is nothing."""
        with container.lock:
            if container.running or not container.supervised:
                return
            try:
                self._engine.supervisor.remove(container.id)
            except NotFound:
                pass
            container.supervised = False

    # -- events ----------------------------------------------------------------------------------------------

    def on_event(self, event: dict[str, Any]) -> None:
        """On the client's dispatcher: hand the event to a worker, in order per container."""
        if event["event"] == "exec-exited":
            self._engine.execs.on_exit(event)
            return
        container = self._engine.containers.find_id(event.get("id", ""))
        if container is None:
            return
        container.inbox.append(event)
        self._engine.submit(self._empty_inbox, container)

    def _empty_inbox(self, container: Container) -> None:
        removal: Callable[[], None] | None = None
        with container.lock:
            while container.inbox:
                event = container.inbox.popleft()
                try:
                    self._handle(container, event)
                except Exception:
                    # whoever waits for the end must hear of it, and the next event must be looked at
                    log.exception("event %s of %s", event.get("event"), container.name)
                if container.auto_remove and container.state.status == "exited" and event["event"] == "exited":
                    removal = lambda: self._auto_remove(container)  # noqa: E731
        if removal is not None:
            removal()
        elif not container.running:
            self.forget(container)  # after everybody was told: the supervisor may still be busy with its cgroups

    def _handle(self, container: Container, event: dict[str, Any]) -> None:
        kind, state = event["event"], container.state
        if kind == "started":
            if state.status == "restarting":
                state.status, state.pid = "running", event.get("pid", 0)
                state.started = event.get("time") or time.time()
                state.restarts = event.get("restarts", state.restarts + 1)
                self._engine.containers.save(container)
                self._engine.events.publish("container", "start", container.id, container.attributes())
        elif kind == "exited" and container.running and event.get("restarting"):
            self._ended(container, event)
            state.status = "restarting"
            self._engine.containers.save_end(container)
            self._died(container)
        elif kind == "exited" and container.running:
            self.exited(container, event)
        elif kind == "oom":
            state.oom_killed = True
            self._engine.events.publish("container", "oom", container.id, container.attributes())

    def _ended(self, container: Container, state: dict[str, Any]) -> None:
        code = state.get("exit_code")
        container.state.exit_code = UNKNOWN_EXIT if code is None else code
        container.state.finished = state.get("finished") or state.get("time") or time.time()
        container.state.oom_killed = bool(state.get("oom_killed", container.state.oom_killed))
        container.state.restarts = state.get("restarts", container.state.restarts)
        container.state.error = state.get("error") or ""
        container.state.pid = 0

    def exited(self, container: Container, event: dict[str, Any]) -> None:
        """What follows the end of a container, with its lock held; *event* is the supervisor's, or its last state."""
        container.ending = True  # before it stops running: whoever looks without the lock sees the one or the other
        self._ended(container, event)
        container.state.status = "exited"
        try:
            self._engine.containers.save_end(container)
        except (PynetError, sqlite3.Error) as error:
            # what follows frees space, and those who wait must be told
            log.error("container %s: its end is not on disk: %s", container.name, error)
        self.network_down(container)
        self._network_events(container, "disconnect")
        self._engine.execs.container_ended(container.id)
        self._died(container)

    def _died(self, container: Container) -> None:
        """Tell everybody."""
        duration = int(max(container.state.finished - container.state.started, 0))
        self._engine.events.publish(
            "container", "die", container.id,
            container.attributes(exitCode=str(container.state.exit_code), execDuration=str(duration)),
        )  # fmt: skip
        container.announce("exit")

    def _auto_remove(self, container: Container) -> None:
        try:
            self._engine.containers.remove(container.id, volumes=True)
        except (NotFound, Conflict):
            pass  # somebody removes it already, or started it again
        except PynetError:
            log.exception("removal of %s", container.name)


def exec_error(error: StartFailed) -> PynetError:
    """The same for a command in a running container."""
    return rephrase(error, f"OCI runtime exec failed: exec failed: unable to start container process: {error}: unknown")


def start_error(error: StartFailed) -> PynetError:
    """runc's story around what went wrong, by which clients choose their exit status."""
    text = (
        "failed to create task for container: failed to create shim task: OCI runtime create failed: "
        f"unable to start container process: {error}: unknown"
    )
    if os.strerror(errno.ENOSPC) in str(error):
        return InternalError(text, hint="make room on the file systems of the root and the run directory")
    return rephrase(error, text)
