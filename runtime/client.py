"""The supervisor as seen by its callers: one method an operation, safe to call from many threads at once.

    operations ---> link.py ---> supervisor.sock
    subscribers <--- dispatcher thread, in order <--- events

Subscribers run on the dispatcher, so they may call the client again.  A call that meets a supervisor that dies waits for
the next one, *patience* seconds at most; what may be done twice is asked again, and a start is looked up.

The client keeps descriptors of every container: a pidfd, and the FIFOs of its output or the pty's master.  They came with
the ``start`` reply or with ``hold``.  While the supervisor is away they keep what is in the FIFOs and the terminal alive;
after a new connection they are given back (``adopt``), and the new supervisor learns by them the exit codes of containers
that ended meanwhile.  Then ``hold`` fetches what this client does not have, then *on_reconnect* is called (on the
dispatcher): the caller lists and compares.

launch.py starts the supervisor process.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..netlib.errors import NotFound, NotModified, PynetError
from ..netlib.ipc import Message
from .link import CALL_TIMEOUT, Link, Lost, StartFailed, close_all
from .spec import ContainerSpec, ExecSpec, Restart

__all__ = ["CALL_TIMEOUT", "ExecStarted", "StartFailed", "Started", "SupervisorClient"]

_log = logging.getLogger(__name__)

Event = dict[str, Any]
State = dict[str, Any]
Descriptors = list[int]  # names for types, because a method is called list
States = list[State]
Events = list[Event]

_MAX_EARLY = 1000
"""Most events kept for the first subscriber."""


class Started(NamedTuple):
    pid: int
    started: float
    warnings: list[str]


class ExecStarted(NamedTuple):
    """A command that runs, and the ends of its terminal or pipes; -1 is one that it has not.  The caller owns and closes them."""

    pid: int
    master: int = -1
    """With a terminal, in place of all others."""
    stdin: int = -1
    stdout: int = -1
    stderr: int = -1

    @property
    def fds(self) -> list[int]:
        """Those that there are, in this order."""
        return [fd for fd in self[1:] if fd >= 0]

    def close(self) -> None:
        close_all(self.fds)


class SupervisorClient:
    """A connection to ``<run>/supervisor.sock``; Unavailable when nobody answers there."""

    def __init__(
        self, path: str | Path, *, on_reconnect: Callable[[], None] | None = None, patience: float = 5.0
    ) -> None:
        self.path = str(path)
        self.on_reconnect = on_reconnect
        self.patience = patience
        self._lock = threading.Lock()  # guards what follows
        self._held: dict[str, list[int]] = {}
        self._starting: dict[str, bool] = {}
        """Starts whose answers are under way, and whether the container was removed meanwhile (events have their own thread)."""
        self._callbacks: list[Callable[[Event], None]] = []
        self._early: Events = []
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._link = Link(
            self.path,
            patience,
            on_event=lambda message: self._queue.put(partial(self._deliver, message)),
            on_connected=lambda: self._queue.put(self._restore),
        )
        self._dispatcher = threading.Thread(target=self._dispatch, name="supervisor-events", daemon=True)
        self._dispatcher.start()
        try:
            self._ask("subscribe")
            self._hold()
        except BaseException:
            self.close()
            raise

    # -- operations ------------------------------------------------------------------------------------------

    def start(self, spec: ContainerSpec) -> Started:
        """Start a container; returns when its program runs.  StartFailed says why it does not.

        When the supervisor dies over it, its successor says whether the container was begun.
        """
        with self._lock:
            self._starting[spec["id"]] = False
        try:
            return self._start(spec)
        finally:
            with self._lock:
                self._starting.pop(spec["id"], None)

    def _start(self, spec: ContainerSpec) -> Started:
        message: Message = {"op": "start", "spec": spec}
        try:
            reply, fds = self._link.request(message)
        except Lost:
            try:
                state = self.state(spec["id"])
            except NotFound:
                reply, fds = self._link.request(message)
            else:  # what is to be held of it comes with the new connection
                return Started(state["pid"], state["started"], state["warnings"])
        self._keep(spec["id"], fds)
        return Started(reply["pid"], reply["started"], reply.get("warnings", []))

    def kill(self, id: str, signal: int = 9, *, resume: bool = False) -> None:
        """Send *signal* to the container's first process; with *resume* a paused one goes on, to get it."""
        self._call("kill", id=id, signal=signal, resume=resume, again=signal == 9)

    def stop(self, id: str, signal: int | None = None, timeout: int | None = None) -> State:
        """Send the stop signal, wait *timeout* seconds (-1: for ever), KILL; returns the state after the exit."""
        fields: dict[str, Any] = {"id": id}
        if signal is not None:
            fields["signal"] = signal
        if timeout is not None:
            fields["timeout"] = timeout
        state: State
        try:
            state = self._call("stop", timeout_seconds=None, **fields)["state"]
        except Lost:
            try:
                state = self._call("stop", timeout_seconds=None, again=True, **fields)["state"]
            except NotModified:  # it has ended meanwhile
                state = self.state(id)
        return state

    def pause(self, id: str) -> None:
        self._call("pause", id=id)

    def unpause(self, id: str) -> None:
        self._call("unpause", id=id)

    def update_restart(self, id: str, restart: Restart) -> None:
        self._ask("update", id=id, restart=restart)

    def exec(self, id: str, process: ExecSpec, exec_id: str) -> ExecStarted:
        """Run *process* in a running container; an "exec-exited" event follows.  StartFailed says why it does not run."""
        reply, fds = self._link.request({"op": "exec", "id": id, "exec": process, "exec_id": exec_id})
        if process["tty"]:
            return ExecStarted(reply["pid"], master=fds[0])
        stdin = fds.pop(0) if process["stdin"] else -1
        return ExecStarted(reply["pid"], stdin=stdin, stdout=fds[0], stderr=fds[1])

    def attach(self, id: str) -> Descriptors:
        """The pty's master, or the write end of stdin, or nothing.  The caller owns and closes what it gets.

        The master is for input and resizing only: output is read from the log.  With ``stdin_once`` the container
        sees the end of its input when the last descriptor that was handed out is closed.
        """
        return self._link.request({"op": "attach", "id": id}, again=True)[1]

    def resize(self, id: str, height: int, width: int, *, exec_id: str | None = None) -> None:
        """Set the terminal's size, of the container or of one exec process in it."""
        self._ask("resize", id=id, exec_id=exec_id, height=height, width=width)

    def list(self) -> States:
        containers: States = self._ask("list")["containers"]
        return containers

    def state(self, id: str) -> State:
        state: State = self._ask("state", id=id)["state"]
        return state

    def stats(self, id: str) -> dict[str, Any]:
        """{"memory": bytes, "memory_limit", "memory_max", "cpu": nanoseconds, "pids", "oom_kills"}; absent is unknown."""
        stats: dict[str, Any] = self._ask("stats", id=id)["stats"]
        return stats

    def processes(self, id: str) -> Descriptors:
        """Process ids (in the supervisor's namespace) that run in the container."""
        pids: Descriptors = self._ask("processes", id=id)["pids"]
        return pids

    def remove(self, id: str) -> None:
        """Forget an exited container: its record and cgroups are gone afterwards."""
        try:
            self._call("remove", id=id)
        except Lost:
            try:
                self._ask("remove", id=id)
            except NotFound:
                pass  # the one that went away has done it
        self._drop(id)

    def subscribe(self, callback: Callable[[Event], None]) -> None:
        """Call *callback* (on the dispatcher thread) for every event from now on; the first gets those before, too."""
        with self._lock:
            self._callbacks.append(callback)
            early, self._early = self._early, []
        for event in early:
            self._queue.put(partial(callback, event))

    def watch(self, pid: int, argv: Sequence[str], env: dict[str, str] | None = None) -> None:
        """Start *argv* again when process *pid* dies; a later call replaces an earlier one, [] ends it."""
        self._ask("watch", pid=pid, start=[*argv], env=env)

    def info(self) -> dict[str, Any]:
        """{"pid", "cgroups": [controllers], "warnings": [...]} of the supervisor."""
        info: dict[str, Any] = self._ask("info")["info"]
        return info

    def shutdown(self) -> None:
        """End the supervisor; containers run on, the next supervisor takes them over."""
        self._link.leave()
        self._call("shutdown")
        self.close()

    def close(self) -> None:
        """Close the connection; the supervisor and its containers are not touched."""
        self._link.close()
        self._queue.put(None)
        if threading.current_thread() is not self._dispatcher:
            self._dispatcher.join()
        with self._lock:
            held, self._held = self._held, {}
        for fds in held.values():
            close_all(fds)

    def __enter__(self) -> SupervisorClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- requests --------------------------------------------------------------------------------------------

    def _call(
        self, op: str, *, timeout_seconds: float | None = CALL_TIMEOUT, again: bool = False, **fields: Any
    ) -> Message:
        reply, fds = self._link.request({"op": op, **fields}, timeout=timeout_seconds, again=again)
        close_all(fds)
        return reply

    def _ask(self, op: str, **fields: Any) -> Message:
        """What may be asked twice."""
        return self._call(op, again=True, **fields)

    # -- descriptors held for the supervisor -----------------------------------------------------------------

    def _keep(self, id: str, fds: Descriptors) -> None:
        with self._lock:
            if self._starting.get(id):
                old = fds  # it has ended and is forgotten: nobody asks for them any more
            else:
                old = self._held.get(id, [])
                self._held[id] = fds
        close_all(old)

    def _drop(self, id: str) -> None:
        with self._lock:
            fds = self._held.pop(id, [])
        close_all(fds)

    def _hold(self, *, anew: str = "") -> None:
        """Fetch the descriptors of every container that runs and that we do not hold; of *anew* in any case."""
        with self._lock:
            known = [id for id in self._held if id != anew]
        reply, fds = self._link.request({"op": "hold", "known": known})
        for entry in reply["containers"]:
            count = entry["fds"]
            own, fds = fds[:count], fds[count:]
            self._keep(entry["id"], own)

    def _give_back(self) -> None:
        with self._lock:
            ids = list(self._held)
        for id in ids:
            try:
                fds = self._copies(id)
            except OSError as error:
                _log.warning("no descriptor is left to give those of container %s back: %s", id, error)
                continue
            try:
                reply, _ = self._link.request({"op": "adopt", "id": id}, fds)
                if not reply["known"]:
                    self._drop(id)
            finally:
                close_all(fds)

    def _copies(self, id: str) -> Descriptors:
        copies: Descriptors = []
        with self._lock:
            try:
                for fd in self._held.get(id, []):
                    copies.append(os.dup(fd))
            except OSError:
                close_all(copies)
                raise
        return copies

    def _hold_again(self, id: str) -> None:
        """Its restart policy has started it: what we hold is of the run before."""
        try:
            self._hold(anew=id)
        except PynetError:
            pass  # gone: a new connection fetches it

    # -- the dispatcher --------------------------------------------------------------------------------------

    def _restore(self) -> None:
        """On the dispatcher, after a new connection: subscribe, give back, fetch, tell."""
        try:
            self._call("subscribe")
            self._give_back()
            self._hold()
        except PynetError:
            return  # gone again: the reader connects again and this runs again
        if self.on_reconnect is not None:
            self.on_reconnect()

    def _dispatch(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except Exception:  # a subscriber's bug must not cost the others their events
                _log.exception("a subscriber to the supervisor's events failed")

    def _deliver(self, event: Event) -> None:
        if event["event"] == "removed":
            with self._lock:
                if event["id"] in self._starting:
                    self._starting[event["id"]] = True
            self._drop(event["id"])
        elif event["event"] == "started" and event["restarts"]:
            self._hold_again(event["id"])
        with self._lock:
            callbacks = list(self._callbacks)
            if not callbacks:
                self._early.append(event)
                del self._early[:-_MAX_EARLY]
        for callback in callbacks:
            callback(event)
