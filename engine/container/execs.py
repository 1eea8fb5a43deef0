"""Commands run in containers (``docker exec``).  They live in memory only, as Docker's do.

    create -> {"id", ...}     start -> supervisor.exec -> descriptors     "exec-exited" -> exit code

The exit may be told before the reply to the start was worked on; the future for it is there from the creation.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ...netlib.errors import Conflict, InvalidArgument, NotFound
from ...runtime.client import ExecStarted, StartFailed
from ...runtime.spec import ExecSpec
from ..core import Core
from ..fields import Fields
from ..options import judge
from .hostconfig import console_size
from .record import Container
from .registry import Registry

KEEP = 256
"""Ended commands that can still be inspected, for all containers together."""


@dataclass
class Exec:
    id: str
    container_id: str
    args: list[str]
    env: list[str]
    """Beside the container's own, with which the supervisor merges it."""
    user: str
    cwd: str
    tty: bool
    privileged: bool
    stdin: bool
    stdout: bool
    stderr: bool
    detach_keys: str
    console: tuple[int, int] | None = None
    running: bool = False
    started: bool = False
    pid: int = 0
    exit_code: int | None = None
    ended: Future[int] = field(default_factory=Future)

    @property
    def process(self) -> ExecSpec:
        """The supervisor's view."""
        return {
            "args": self.args,
            "env": self.env,
            "cwd": self.cwd,
            "user": self.user,
            "tty": self.tty,
            "size": self.console,
            "privileged": self.privileged,
            "stdin": self.stdin,
        }


def parse_exec(body: Mapping[str, Any], container: Container) -> Exec:
    fields = Fields(body)
    judge(fields, "Exec", warn=False)
    args = fields.command("Cmd")
    if not args:
        raise InvalidArgument("No exec command specified")
    size = body.get("ConsoleSize")
    return Exec(
        id=secrets.token_hex(32),
        container_id=container.id,
        args=args,
        env=fields.strings("Env"),
        user=fields.text("User") or container.config["User"],
        cwd=fields.text("WorkingDir") or container.config["WorkingDir"] or "/",
        tty=fields.boolean("Tty"),
        privileged=fields.boolean("Privileged"),
        stdin=fields.boolean("AttachStdin"),
        stdout=fields.boolean("AttachStdout"),
        stderr=fields.boolean("AttachStderr"),
        detach_keys=fields.text("DetachKeys"),
        console=console_size(size),
    )


class Execs:
    """Thread-safe."""

    def __init__(self, core: Core, registry: Registry) -> None:
        self._supervisor = core.supervisor
        self._events = core.events
        self._registry = registry
        self._lock = threading.Lock()
        self._execs: dict[str, Exec] = {}

    def create(self, ref: str, body: Mapping[str, Any]) -> Exec:
        container = self._registry.get(ref)
        self._check(container)
        made = parse_exec(body, container)
        with self._lock:
            self._execs[made.id] = made
            ended = [e.id for e in self._execs.values() if e.ended.done()]
            for id in ended[: max(0, len(ended) - KEEP)]:
                del self._execs[id]
        self._tell(container, f"exec_create: {' '.join(made.args)}", made)
        return made

    def check(self, made: Exec) -> None:
        """Conflict when it can not be started (any more)."""
        if made.started:
            raise Conflict(
                f"exec command {made.id} is already running"
                if made.running
                else f"exec command {made.id} has already run"
            )
        self._check(self._registry.get(made.container_id))

    def _check(self, container: Container) -> None:
        status = container.state.status
        if status == "paused":
            raise Conflict(
                f"container {container.id} is paused, unpause the container before exec",
                hint="`pynet unpause` it first",
            )
        if status == "restarting":
            raise Conflict(
                f"container {container.id} is restarting, wait until the container is running",
                hint="wait until it runs, or `pynet stop` it",
            )
        if status != "running":
            raise Conflict(
                f"container {container.id} is not running", hint="`pynet start` it first; `pynet ps -a` shows its state"
            )

    def get(self, id: str) -> Exec:
        with self._lock:
            found = self._execs.get(id)
        if found is None:
            raise NotFound(f"No such exec instance: {id}")
        return found

    def ids_of(self, container_id: str) -> list[str]:
        return [made.id for made in self._of(container_id)]

    def _of(self, container_id: str) -> list[Exec]:
        """Those that have not ended."""
        with self._lock:
            return [e for e in self._execs.values() if e.container_id == container_id and not e.ended.done()]

    def drop(self, container_id: str) -> None:
        with self._lock:
            for id in [e.id for e in self._execs.values() if e.container_id == container_id]:
                del self._execs[id]

    def start(self, made: Exec) -> ExecStarted:
        """Run it; the descriptors are the caller's."""
        container = self._registry.get(made.container_id)
        with self._lock:
            self.check(made)
            made.started = True
        try:
            self._check(container)
            started = self._supervisor.exec(container.id, made.process, made.id)
        except BaseException as error:
            # what is neither 126 nor 127 is 126 as well (moby, daemon/exec.go)
            made.exit_code = 127 if isinstance(error, StartFailed) and error.exit_code == 127 else 126
            self._finish(made)
            raise
        made.pid = started.pid
        with self._lock:
            made.running = not made.ended.done()
        self._tell(container, f"exec_start: {' '.join(made.args)}", made)
        return started

    def _finish(self, made: Exec) -> None:
        with self._lock:
            made.running = False
            if not made.ended.done():
                made.ended.set_result(made.exit_code or 0)

    def on_exit(self, event: Mapping[str, Any]) -> None:
        with self._lock:
            made = self._execs.get(str(event.get("exec_id", "")))
        if made is None:
            return
        made.exit_code = event.get("exit_code")
        self._finish(made)
        container = self._registry.find_id(made.container_id)
        if container is not None:
            self._tell(container, "exec_die", made, exitCode=str(made.exit_code))

    def container_ended(self, container_id: str) -> None:
        """Nobody tells the exit of commands that went with their container's namespace."""
        for made in self._of(container_id):
            if made.started and made.exit_code is None:
                made.exit_code = 137
                self._finish(made)

    def _tell(self, container: Container, action: str, made: Exec, **more: str) -> None:
        self._events.publish("container", action, container.id, container.attributes(execID=made.id, **more))

    def inspect(self, id: str) -> dict[str, Any]:
        made = self.get(id)
        return {
            "ID": made.id,
            "Running": made.running,
            "ExitCode": made.exit_code,
            "ProcessConfig": {
                "tty": made.tty,
                "entrypoint": made.args[0],
                "arguments": made.args[1:],
                "privileged": made.privileged,
                "user": made.user,
            },
            "OpenStdin": made.stdin,
            "OpenStderr": made.stderr,
            "OpenStdout": made.stdout,
            "CanRemove": made.ended.done(),
            "ContainerID": made.container_id,
            "DetachKeys": made.detach_keys,
            "Pid": made.pid,
        }
