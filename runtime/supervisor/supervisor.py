"""The supervisor's operations: what each request does, events, and taking over what is on record.

Protocol, on RUN/supervisor.sock (0600, frames of netlib/ipc.py).  A request is {"op", "seq", ...}; its reply
{"seq", "ok": true, ...} or {"seq", "ok": false, "error": {"message", "class", "code"}}, where class is a name of
netlib/errors.py or "StartFailed", whose code is 125, 126 or 127.  Replies may come out of order.

    start {spec}                  -> {pid, started, warnings} + [pidfd, stdout, stderr] or [pidfd, pty master]
    kill {id, signal, resume?}  pause {id}  unpause {id}  update {id, restart}
    stop {id, signal?, timeout?}  -> {state}, after the exit
    exec {id, exec_id, exec}      -> {pid} + [master], or [stdin]? stdout stderr
    attach {id}                   -> {} + [master], or [write end of stdin], or nothing
    resize {id, exec_id?, height, width}
    list                          -> {containers: [state]}          state {id} -> {state}
    stats {id} -> {stats}         processes {id} -> {pids}
    remove {id}
    hold {known: [id]}            -> {containers: [{id, fds: count}]} + the same descriptors of each
    adopt {id} + what hold or start gave -> {known}
    subscribe                     then {"event", "id", "time", ...}: started {pid, restarts}, exited {exit_code, oom_killed,
                                  error, restarting}, restarting {delay}, oom, paused, unpaused, resumed (by a signal), removed,
                                  exec-exited {exec_id, exit_code}
    watch {pid, start, env?}      start the command when pid dies; start [] ends it
    info -> {info}                shutdown
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from ...netlib.errors import Conflict, InternalError, InvalidArgument, NotFound, PynetError
from ..spec import ContainerSpec, ExecSpec
from .cgroups import Cgroups
from .connection import Connection, Request
from .container import Container
from .context import Context
from .errors import StartError
from .host import Host
from .loop import Loop
from .parents import Parents
from .records import Record, check_id
from .watchdog import Watchdog

_MAX_BACKLOG = 1000
"""Most events kept for a subscriber to come."""
_PARK = 0.05
"""Seconds until connections are taken again after there was no descriptor for one."""

Fields = dict[str, Any]


def _unknown(request: Request) -> None:
    raise InvalidArgument(f"unknown operation {request.message.get('op')!r}")


class Supervisor:
    def __init__(self, run: str) -> None:
        self.run_directory = run
        self.loop = Loop()
        self.connections: set[Connection] = set()
        self.containers: dict[str, Container] = {}
        place = f"{run}/rootfs"
        os.makedirs(place, mode=0o700, exist_ok=True)
        os.makedirs(f"{run}/containers", mode=0o700, exist_ok=True)
        host = Host(place)
        cgroups = Cgroups()
        host.cgroup2 = bool(cgroups.v2) and not cgroups.v1
        host.devices_guarded = cgroups.guards_devices
        self.context = Context(self.loop, host, cgroups, self.emit)
        self._backlog: list[Fields] = []
        self._parents = Parents(self.loop, cgroups, f"{run}/cgroups", lambda: not self.containers)
        self._watchdog = Watchdog(self.loop)
        self._operations: dict[str, Callable[[Request], None]] = {
            "start": self._start,
            "kill": self._kill,
            "stop": self._stop,
            "pause": lambda request: self._pause(request, True),
            "unpause": lambda request: self._pause(request, False),
            "update": self._update,
            "exec": self._exec,
            "attach": self._attach,
            "resize": self._resize,
            "list": self._list,
            "state": lambda request: request.reply(state=self._find(request).state),
            "stats": lambda request: request.reply(stats=self._find(request).stats()),
            "processes": lambda request: request.reply(pids=self._find(request).processes()),
            "remove": lambda request: self._find(request).remove(request.reply),
            "hold": self._hold,
            "adopt": self._adopt,
            "subscribe": self._subscribe,
            "watch": self._watch,
            "info": self._info,
            "shutdown": self._shutdown,
        }

    # -- start and take over -------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Take over what is on record."""
        for name in os.listdir(f"{self.run_directory}/containers"):
            record = Record(f"{self.run_directory}/containers/{name}")
            try:
                spec, state = record.load("spec"), record.load("state")
            except (OSError, ValueError) as error:
                # it may be of a container that lives: what is not understood is not removed
                print(f"the record {record.directory} can not be read: {error}", file=sys.stderr, flush=True)
                continue
            if spec is None or state is None:
                self._remove_torso(record, spec)
                continue
            try:
                self._take_over(name, record, spec, state)
            except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
                print(f"container {name} can not be taken over: {error!r}", file=sys.stderr, flush=True)
        self._parents.restore()

    def _take_over(self, name: str, record: Record, spec: ContainerSpec, state: Fields) -> None:
        container = Container(self.context, record, spec, self._forget)
        if container.never_began(state):
            self._remove_torso(record, spec)
            return
        self.containers[name] = container
        self._parents.remember(spec["cgroup"])
        container.restore(state)

    def _remove_torso(self, record: Record, spec: ContainerSpec | None) -> None:
        """Of a container whose first process was never let go."""
        if spec is not None:
            self.context.cgroups.find(spec["cgroup"], spec["limits"]).remove()
        record.remove()

    def serve(self, listener: socket.socket) -> None:
        def accept(_: int) -> None:
            try:
                sock, _address = listener.accept()
            except BlockingIOError:
                return  # gone again
            except OSError:
                # no descriptor is free: who connects waits in the backlog, and the loop must not spin meanwhile
                self.loop.discard(listener.fileno())
                self.loop.later(_PARK, lambda: self.loop.add(listener.fileno(), accept))
                return
            connection = Connection(sock, self.loop, self.handle, self.connections.discard)
            self.connections.add(connection)
            self.loop.add(sock.fileno(), connection.handle)

        self.loop.on_child(self._reap)
        self.loop.add(listener.fileno(), accept)

    def _reap(self) -> None:
        while True:
            try:
                result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return
            if result is None:
                return
            ended = self.context.children.pop(result.si_pid, None)
            if ended is not None:
                ended(result.si_status << 8 if result.si_code == os.CLD_EXITED else result.si_status)

    # -- messages ------------------------------------------------------------------------------------------------

    def emit(self, event: Fields) -> None:
        """Tell all subscribers; while there is none (the daemon is being started again), keep it for the first."""
        subscribers = [connection for connection in self.connections if connection.subscribed]
        if not subscribers:
            self._backlog.append(event)
            del self._backlog[:-_MAX_BACKLOG]
        for connection in subscribers:
            connection.send(event)

    def handle(self, connection: Connection, message: Fields, fds: list[int]) -> None:
        request = Request(connection, message, fds)
        try:
            self._answer(request, self._operations.get(str(message.get("op")), _unknown))
        finally:
            for fd in request.fds:
                os.close(fd)

    def _answer(self, request: Request, operation: Callable[[Request], None]) -> None:
        """Have it done, now or later; what goes wrong is the answer."""
        message = request.message
        try:
            operation(request)
        except (PynetError, StartError) as error:
            request.fail(error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            request.fail(InvalidArgument(f"malformed {message.get('op')}: {type(error).__name__}: {error}"))
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            request.fail(StartError(f"{message.get('op')}: {where}{error.strerror}"))
        except Exception as error:  # a bug: its caller must not wait for ever, and the loop reports it
            request.fail(InternalError(f"{message.get('op')}: {error!r}"))
            raise

    def _find(self, request: Request) -> Container:
        id = request.text("id")
        if id not in self.containers:
            raise NotFound(f"No such container: {id}")
        return self.containers[id]

    # -- operations ----------------------------------------------------------------------------------------------

    def _start(self, request: Request) -> None:
        spec: Any = request.mapping("spec")
        id = check_id(spec.get("id"))
        missing = sorted(key for key in ContainerSpec.__annotations__ if key not in spec)
        if missing:
            raise InvalidArgument(f"malformed start: the specification lacks {', '.join(missing)}")
        cgroup = spec["cgroup"]
        if not isinstance(cgroup, str) or not cgroup or cgroup.startswith("/") or ".." in cgroup.split("/"):
            raise InvalidArgument(f"invalid cgroup {cgroup!r}")
        container = self.containers.get(id)
        if container is not None and container.alive:
            raise Conflict(f"container {id} is running already")
        if container is not None:
            # perhaps a while from now: its cgroup may be busy
            container.remove(lambda: self._answer(request, lambda _: self._start_fresh(request, id, spec)), quiet=True)
        else:
            self._start_fresh(request, id, spec)

    def _start_fresh(self, request: Request, id: str, spec: ContainerSpec) -> None:
        if id in self.containers:
            raise Conflict(f"container {id} is running already")  # another start has waited for the same
        container = Container(self.context, Record(f"{self.run_directory}/containers/{id}"), spec, self._forget)
        self.containers[id] = container
        self._parents.remember(spec["cgroup"])

        def done(error: StartError | None) -> None:
            if error is not None:
                request.fail(error)
                container.remove(lambda: None)
                return
            state = container.state
            request.reply(
                container.held_descriptors(),
                or_without=True,
                pid=state["pid"],
                started=state["started"],
                warnings=state["warnings"],
            )

        try:
            container.start(done)
        except BaseException:
            self.containers.pop(id, None)
            container.abandon()
            raise

    def _forget(self, container: Container) -> None:
        if self.containers.get(container.id) is container:
            del self.containers[container.id]
        self._parents.remove_later()

    def _kill(self, request: Request) -> None:
        self._find(request).kill(request.number("signal"), resume=bool(request.message.get("resume")))
        request.reply()

    def _stop(self, request: Request) -> None:
        container = self._find(request)
        number = request.number("signal", 0) or None
        timeout = request.number("timeout") if "timeout" in request.message else None
        container.stop(number, timeout, lambda: request.reply(state=container.state))

    def _pause(self, request: Request, frozen: bool) -> None:
        self._find(request).pause(frozen)
        request.reply()

    def _update(self, request: Request) -> None:
        policy: Any = request.mapping("restart")
        if policy.get("name") not in ("no", "on-failure", "always", "unless-stopped"):
            raise InvalidArgument(f"invalid restart policy: unknown policy {policy.get('name')!r}")
        self._find(request).update_restart({"name": policy["name"], "max": int(policy.get("max", 0))})
        request.reply()

    def _exec(self, request: Request) -> None:
        def done(error: StartError | None, pid: int, fds: list[int]) -> None:
            if error is not None:
                request.fail(error)
            else:
                request.reply(fds, pid=pid)

        wanted: Any = request.mapping("exec")
        missing = sorted(key for key in ExecSpec.__annotations__ if key not in wanted)
        if missing:
            raise InvalidArgument(f"malformed exec: the specification lacks {', '.join(missing)}")
        self._find(request).execs.start(check_id(request.message.get("exec_id")), wanted, done)

    def _attach(self, request: Request) -> None:
        fds = self._find(request).attach()
        try:
            request.reply(fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _resize(self, request: Request) -> None:
        exec_id = request.message.get("exec_id")
        self._find(request).resize(exec_id, request.number("height"), request.number("width"))
        request.reply()

    def _list(self, request: Request) -> None:
        request.reply(containers=[container.state for container in self.containers.values()])

    def _hold(self, request: Request) -> None:
        known = set(request.message.get("known") or [])
        entries: list[Fields] = []
        fds: list[int] = []
        for id, container in self.containers.items():
            own = container.held_descriptors()
            if id not in known and own:
                entries.append({"id": id, "fds": len(own)})
                fds += own
        request.reply(fds, containers=entries)

    def _adopt(self, request: Request) -> None:
        container = self.containers.get(request.text("id"))
        if container is not None:
            fds, request.fds = request.fds, []
            container.adopt(fds)
        request.reply(known=container is not None and container.alive)

    def _watch(self, request: Request) -> None:
        argv = [str(word) for word in request.message.get("start") or []]
        self._watchdog.watch(request.number("pid", 0), argv, request.message.get("env"))
        request.reply()

    def _subscribe(self, request: Request) -> None:
        request.connection.subscribed = True
        request.reply()
        backlog, self._backlog = self._backlog, []
        for event in backlog:
            request.connection.send(event)

    def _info(self, request: Request) -> None:
        cgroups, host = self.context.cgroups, self.context.host
        request.reply(
            info={
                "pid": os.getpid(),
                "cgroups": cgroups.controllers,
                "cgroup_version": 2 if host.cgroup2 else 1,
                "user_namespace": host.user_namespace,
                "containers": len(self.containers),
                "warnings": self._warnings(),
            }
        )

    def _warnings(self) -> list[str]:
        cgroups, host = self.context.cgroups, self.context.host
        if cgroups.refused or not (cgroups.v1 or cgroups.v2):
            return [f"no limits and no pausing: cgroups may not be made here ({cgroups.refused or 'none are mounted'})"]
        found = [
            f"no {controller} limits: the host has no such cgroup controller"
            for controller in ("memory", "cpu", "pids", "cpuset")
            if controller not in cgroups.controllers
        ]
        if not host.devices_guarded:
            found.append("no filter for devices: containers run without CAP_MKNOD")
        return found

    def _shutdown(self, request: Request) -> None:
        """End, when no group is being removed any more: nobody would try again."""
        for container in self.containers.values():
            if container.run.confinement.busy:
                container.run.confinement.when_removed(lambda: self._shutdown(request))
                return
        self._parents.remove()
        request.reply()
        self.loop.running = False
