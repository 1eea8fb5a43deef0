"""The supervisor as seen by its callers: one method an operation, safe to call from many threads at once.

    threads --- send (one lock) ---> supervisor.sock ---> reader thread: a reply wakes the caller that waits for its number
                                                                    an event goes to the dispatcher's queue
                                                          dispatcher thread: calls every subscriber, in order

Subscribers run on the dispatcher, so they may call the client again.  When the connection ends, every waiting call
fails with Unavailable and the reader tries to connect again until ``close``; a call made meanwhile waits *patience*
seconds for it.  The client keeps descriptors of every container: a pidfd, and the FIFOs of its output or the pty's
master.  They came with the ``start`` reply or with ``hold``.  While the supervisor is away they keep what is in the FIFOs
and the terminal alive; after a new connection they are given back (``adopt``), and the new supervisor learns by them
the exit codes of containers that ended meanwhile.  Then ``hold`` fetches what this client does not have, then
*on_reconnect* is called (on the dispatcher): the caller lists and compares.

``spawn`` starts the supervisor process and returns when its socket answers.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..netlib import errors
from ..netlib.errors import InternalError, InvalidArgument, PynetError, Unavailable
from ..netlib.ipc import Channel, Message, ProtocolError, connect
from .spec import ContainerSpec, Restart

_log = logging.getLogger(__name__)

Event = dict[str, Any]
State = dict[str, Any]
Descriptors = list[int]  # names for types, because a method is called list
States = list[State]
Events = list[Event]

CALL_TIMEOUT = 60.0
"""Seconds that an operation may take (``stop`` adds its own time-out)."""
_RETRY_SECONDS = 0.02
_MAX_EARLY = 1000
"""Most events kept for the first subscriber."""


_WHEN_NOT_STARTED = {
    126: "is it a program that this user may execute? `pynet run --rm IMAGE ls -l FILE` shows it",
    127: "look for the command in the image: `pynet run --rm IMAGE ls /bin`",
}


class StartFailed(InvalidArgument):
    """A container or exec process could not be started; ``exit_code`` is Docker's 125, 126 or 127.

    The message is what runc's would be behind "unable to start container process: ".
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, hint=_WHEN_NOT_STARTED.get(code, ""))
        self.exit_code = code  # type: ignore[misc]  # the class's own is the CLI's for all other errors


class Started(NamedTuple):
    pid: int
    started: float
    warnings: list[str]


class ExecStarted(NamedTuple):
    pid: int
    fds: list[int]
    """With a tty [master], else [stdin (when asked for), stdout, stderr]; the caller owns and closes them."""


class _Call:
    """One request that waits for its reply."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.reply: Message | None = None
        self.fds: list[int] = []


class SupervisorClient:
    """A connection to ``<run>/supervisor.sock``; Unavailable when nobody answers there."""

    def __init__(
        self, path: str | Path, *, on_reconnect: Callable[[], None] | None = None, patience: float = 5.0
    ) -> None:
        self.path = str(path)
        self.on_reconnect = on_reconnect
        self.patience = patience
        self._lock = threading.Lock()  # guards what follows
        self._calls: dict[int, _Call] = {}
        self._next = 1
        self._held: dict[str, list[int]] = {}
        self._callbacks: list[Callable[[Event], None]] = []
        self._early: Events = []
        self._channel: Channel | None = None
        self._send_lock = threading.Lock()
        self._connected = threading.Event()
        self._closing = threading.Event()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._open()
        self._reader = threading.Thread(target=self._read, name="supervisor-reader", daemon=True)
        self._dispatcher = threading.Thread(target=self._dispatch, name="supervisor-events", daemon=True)
        self._reader.start()
        self._dispatcher.start()
        try:
            self._call({"op": "subscribe"})
            self._hold()
        except BaseException:
            self.close()
            raise

    # -- operations ------------------------------------------------------------------------------------------

    def start(self, spec: ContainerSpec) -> Started:
        """Start a container; returns when its program runs.  StartFailed says why it does not."""
        reply, fds = self._request({"op": "start", "spec": spec})
        self._keep(spec["id"], fds)
        return Started(reply["pid"], reply["started"], reply.get("warnings", []))

    def kill(self, id: str, signal: int = 9) -> None:
        """Send *signal* to the container's first process."""
        self._call({"op": "kill", "id": id, "signal": signal})

    def stop(self, id: str, signal: int | None = None, timeout: int | None = None) -> State:
        """Send the stop signal, wait *timeout* seconds (-1: for ever), KILL; returns the state after the exit."""
        message: Message = {"op": "stop", "id": id}
        if signal is not None:
            message["signal"] = signal
        if timeout is not None:
            message["timeout"] = timeout
        state: State = self._call(message, timeout=None)["state"]
        return state

    def pause(self, id: str) -> None:
        self._call({"op": "pause", "id": id})

    def unpause(self, id: str) -> None:
        self._call({"op": "unpause", "id": id})

    def update_restart(self, id: str, restart: Restart) -> None:
        self._call({"op": "update", "id": id, "restart": restart})

    def exec(self, id: str, process: dict[str, Any], exec_id: str) -> ExecStarted:
        """Run {args, env, cwd, user, tty, privileged, stdin} in a running container; an "exec-exited" event follows."""
        reply, fds = self._request({"op": "exec", "id": id, "exec": process, "exec_id": exec_id})
        return ExecStarted(reply["pid"], fds)

    def attach(self, id: str) -> Descriptors:
        """The pty's master, or the write end of stdin, or nothing.  The caller owns and closes what it gets.

        The master is for input and resizing only: output is read from the log.  With ``stdin_once`` the container
        sees the end of its input when the last descriptor that was handed out is closed.
        """
        return self._request({"op": "attach", "id": id})[1]

    def resize(self, id: str, height: int, width: int, *, exec_id: str | None = None) -> None:
        """Set the terminal's size, of the container or of one exec process in it."""
        self._call({"op": "resize", "id": id, "exec_id": exec_id, "height": height, "width": width})

    def list(self) -> States:
        containers: States = self._call({"op": "list"})["containers"]
        return containers

    def state(self, id: str) -> State:
        state: State = self._call({"op": "state", "id": id})["state"]
        return state

    def stats(self, id: str) -> dict[str, Any]:
        """{"memory": bytes, "memory_limit", "memory_max", "cpu": nanoseconds, "pids", "oom_kills"}; absent is unknown."""
        stats: dict[str, Any] = self._call({"op": "stats", "id": id})["stats"]
        return stats

    def processes(self, id: str) -> Descriptors:
        """Process ids (in the supervisor's namespace) that run in the container."""
        pids: Descriptors = self._call({"op": "processes", "id": id})["pids"]
        return pids

    def remove(self, id: str) -> None:
        """Forget an exited container: its record and cgroups are gone afterwards."""
        self._call({"op": "remove", "id": id})
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
        self._call({"op": "watch", "pid": pid, "start": [*argv], "env": env})

    def info(self) -> dict[str, Any]:
        """{"pid", "cgroups": [controllers], "warnings": [...]} of the supervisor."""
        info: dict[str, Any] = self._call({"op": "info"})["info"]
        return info

    def shutdown(self) -> None:
        """End the supervisor; containers run on, the next supervisor takes them over."""
        self._closing.set()
        self._call({"op": "shutdown"})
        self.close()

    def close(self) -> None:
        """Close the connection; the supervisor and its containers are not touched."""
        self._closing.set()
        with self._lock:
            channel = self._channel
        if channel is not None:
            try:
                channel.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it ended by itself
        current = threading.current_thread()
        if current is not self._reader:
            self._reader.join()
        self._queue.put(None)
        if current is not self._dispatcher:
            self._dispatcher.join()
        with self._lock:
            held, self._held = self._held, {}
        for fds in held.values():
            _close_all(fds)

    def __enter__(self) -> SupervisorClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- requests --------------------------------------------------------------------------------------------

    def _call(self, message: Message, *, timeout: float | None = CALL_TIMEOUT) -> Message:
        reply, fds = self._request(message, timeout=timeout)
        _close_all(fds)
        return reply

    def _request(
        self, message: Message, fds: Descriptors | None = None, *, timeout: float | None = CALL_TIMEOUT
    ) -> tuple[Message, Descriptors]:
        if not self._connected.is_set() and threading.current_thread() is not self._reader:
            self._connected.wait(self.patience)
        call = _Call()
        with self._lock:
            channel = self._channel
            if channel is None:
                raise Unavailable(f"the supervisor at {self.path} is away", hint="it is started again; try again")
            number, self._next = self._next, self._next + 1
            self._calls[number] = call
        try:
            with self._send_lock:
                channel.send({**message, "seq": number}, fds)
        except (OSError, ProtocolError) as error:
            with self._lock:
                self._calls.pop(number, None)
            if isinstance(error, ProtocolError):
                raise InvalidArgument(str(error)) from error
            raise Unavailable(f"the supervisor at {self.path} went away: {error}") from error
        if not call.done.wait(timeout):
            with self._lock:
                self._calls.pop(number, None)
            if not call.done.is_set():
                raise Unavailable(f"the supervisor did not answer {message['op']} within {timeout} s")
        if call.reply is None:
            raise Unavailable(f"the supervisor went away during {message['op']}", hint="it is started again; try again")
        if not call.reply.get("ok"):
            _close_all(call.fds)
            raise _error(call.reply.get("error") or {})
        return call.reply, call.fds

    # -- descriptors held for the supervisor -----------------------------------------------------------------

    def _keep(self, id: str, fds: Descriptors) -> None:
        with self._lock:
            old = self._held.get(id, [])
            self._held[id] = fds
        _close_all(old)

    def _drop(self, id: str) -> None:
        with self._lock:
            fds = self._held.pop(id, [])
        _close_all(fds)

    def _hold(self) -> None:
        """Fetch a pidfd (and master) of every container that runs and that we do not hold."""
        with self._lock:
            known = list(self._held)
        reply, fds = self._request({"op": "hold", "known": known})
        for entry in reply["containers"]:
            count = entry["fds"]
            own, fds = fds[:count], fds[count:]
            self._keep(entry["id"], own)

    def _give_back(self) -> None:
        with self._lock:
            held = {id: [os.dup(fd) for fd in fds] for id, fds in self._held.items()}
        for id, fds in held.items():
            try:
                reply, _ = self._request({"op": "adopt", "id": id}, fds)
                if not reply["known"]:
                    self._drop(id)
            finally:
                _close_all(fds)

    # -- threads ---------------------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            channel = connect(self.path)
        except OSError as error:
            raise Unavailable(f"no supervisor answers at {self.path}: {error.strerror}") from error
        with self._lock:
            self._channel = channel
        self._connected.set()

    def _read(self) -> None:
        while True:
            with self._lock:
                channel = self._channel
            assert channel is not None
            self._receive(channel)
            self._connected.clear()
            with self._lock:
                self._channel = None
                calls, self._calls = self._calls, {}
            channel.close()
            for call in calls.values():
                call.done.set()
            if not self._reconnect():
                return

    def _receive(self, channel: Channel) -> None:
        while True:
            try:
                frame = channel.receive()
            except (OSError, ProtocolError):
                return
            if frame is None:
                return
            message, fds = frame
            if "event" in message:
                _close_all(fds)
                self._queue.put(partial(self._deliver, message))
                continue
            with self._lock:
                call = self._calls.pop(message.get("seq", 0), None)
            if call is None:
                _close_all(fds)
                continue
            call.reply, call.fds = message, fds
            call.done.set()

    def _reconnect(self) -> bool:
        while not self._closing.is_set():
            try:
                self._open()
            except Unavailable:
                self._closing.wait(_RETRY_SECONDS)
                continue
            self._queue.put(self._restore)
            return True
        return False

    def _restore(self) -> None:
        """On the dispatcher, after a new connection: subscribe, give back, fetch, tell."""
        try:
            self._call({"op": "subscribe"})
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
            self._drop(event["id"])
        with self._lock:
            callbacks = list(self._callbacks)
            if not callbacks:
                self._early.append(event)
                del self._early[:-_MAX_EARLY]
        for callback in callbacks:
            callback(event)


def _close_all(fds: Descriptors) -> None:
    for fd in fds:
        os.close(fd)


def _error(body: dict[str, Any]) -> PynetError:
    message, name = str(body.get("message", "the supervisor gave no reason")), str(body.get("class", ""))
    if name == "StartFailed":
        return StartFailed(message, int(body.get("code") or 125))
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, PynetError):
        return kind(message)
    return InternalError(message)


def spawn(run: str | Path, root: str | Path | None = None, *, timeout: float = 10.0) -> int:
    """Start the supervisor of *run* in a session of its own; returns its pid once it answers.

    When another one holds the lock already, that one serves and its pid is returned.
    """
    argv = [sys.executable, "-I", "-m", "pynet.runtime.supervisor.main", "--run", str(run), "--ready", "3"]
    if root is not None:
        argv += ["--root", str(root)]
    os.makedirs(run, mode=0o700, exist_ok=True)
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
            argv[0],
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
    threading.Thread(target=_reap, args=(pid,), name="supervisor-reaper", daemon=True).start()
    try:
        readable, _, _ = select.select([ready], [], [], timeout)
        said = os.read(ready, 4096).decode(errors="replace").strip() if readable else ""
    finally:
        os.close(ready)
    word, _, rest = said.partition(" ")
    if word in ("ready", "busy"):
        return int(rest)
    raise Unavailable(f"the supervisor did not start: {rest or f'see {log}'}")


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # somebody else in this program waits for every child
