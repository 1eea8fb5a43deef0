"""One container's life in the supervisor.

                    start                        exit, no restart
    (no record) ------------> running <-> paused ----------------> exited --remove--> (no record)
                                ^              \\ exit, restart        ^
                                '--- delay over --- restarting --------'  stop, kill, remove

``State`` (on disk, in replies and events) has the keys of docs/design.md.  It is written before the child is let go
and at each change after, so that the next supervisor can take over at any point:

* the process lives: watched by pidfd, it is no child any more (``linux.exit_status``);
* it is gone: somebody's pidfd tells the exit code (``adopt``); when nobody brings one within ADOPT_SECONDS, the code is
  255 and the error says that it is unknown;
* it was never let go (``never_began``): nothing of it has happened, and the start is made again, by whom it was asked for;
* "restarting": the delay runs again.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from ...netlib.errors import Conflict, InvalidArgument, NotModified, NotSupported
from .. import linux
from ..spec import UNKNOWN_EXIT, ContainerSpec, Restart
from . import backoff, spawn
from .context import Context
from .errors import StartError, describe
from .execs import Execs
from .loop import Timer
from .records import Record
from .run import Run

State = dict[str, Any]
ADOPT_SECONDS = 3.0
_LAST_SIGNAL = 64
"""signal(7), SIGRTMAX."""
_UNKNOWN = "exit code unknown: it ended while its supervisor was away"


StartReply = Callable[[StartError | None], None]


class Container:
    """*forget* is called when nothing is left of it."""

    def __init__(
        self, context: Context, record: Record, spec: ContainerSpec, forget: Callable[[Container], None]
    ) -> None:
        self.context, self.record, self.spec = context, record, spec
        self._forget = forget
        self.id = spec["id"]
        self.state: State = {
            "id": self.id, "name": spec["name"], "status": "exited", "pid": 0, "start_time": 0, "started": 0.0,
            "finished": 0.0, "exit_code": 0, "oom_killed": False, "restarts": 0, "error": "", "stopped": False,
            "delay": 0.0, "warnings": [], "execs": [], "pidfd_inode": None,
        }  # fmt: skip
        self.run = Run(context, record, spec, self._ended, self._oom)
        self.execs = Execs(self)
        self._reply: StartReply | None = None
        self._restart_timer: Timer | None = None
        self._kill_timer: Timer | None = None
        self._lost_timer: Timer | None = None
        self._waiters: list[Callable[[], None]] = []
        self._forgotten = False

    # -- state -----------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self.state["status"] in ("running", "paused")

    def save(self) -> None:
        """Put the state on disk.  A full disk is reported and does not stop a life that goes on anyway."""
        try:
            self.record.save("state", self.state)
        except OSError as error:
            print(f"the state of container {self.id} can not be saved: {error}", file=sys.stderr, flush=True)

    def emit(self, event: str, **fields: Any) -> None:
        self.context.emit({"event": event, "id": self.id, "time": time.time(), **fields})

    # -- start -----------------------------------------------------------------------------------------------

    def start(self, reply: StartReply | None) -> None:
        """Clone the first process; *reply* hears of it when its program runs, or can not."""
        self._reply = reply
        self.state["error"] = ""
        self.state["warnings"] = []
        try:
            try:
                self.record.create()
                self.record.save("spec", self.spec)
            except OSError as error:
                raise StartError(f"{error.filename}: {error.strerror}") from error
            self._clone()
        except StartError as error:
            self._release()
            self._start_failed(error)

    def _clone(self) -> None:
        warnings: list[str] = []
        child = self.run.clone(warnings)
        try:
            self.state.update(
                status="running", pid=child.pid, start_time=child.start_time, started=time.time(), finished=0.0,
                exit_code=0, oom_killed=False, warnings=warnings, pidfd_inode=os.fstat(child.pidfd).st_ino,
            )  # fmt: skip
            self.record.save("state", self.state)  # no child without a record: its successor could not find it
        except OSError as error:
            child.cancel()
            raise StartError(describe(error)) from error
        self.run.first.follow(child, self._runs, self._start_failed)
        child.go()

    def _runs(self) -> None:
        self.run.confinement.watch(self.spec)
        self.emit("started", pid=self.state["pid"], restarts=self.state["restarts"])
        reply, self._reply = self._reply, None
        if reply is not None:
            reply(None)

    def _start_failed(self, error: StartError) -> None:
        self.run.drain()
        self._release()
        self.state.update(
            status="exited", pid=0, exit_code=error.code, error=error.message, finished=time.time(), stopped=True
        )
        self.save()
        self.run.confinement.remove()
        reply, self._reply = self._reply, None
        if reply is not None:
            reply(error)
        else:  # a restart by policy
            self.emit("exited", exit_code=error.code, oom_killed=False, error=error.message, restarting=False)
        self._wake()

    def _oom(self) -> None:
        if not self.state["oom_killed"]:
            self.state["oom_killed"] = True
            self.emit("oom")

    # -- exit ------------------------------------------------------------------------------------------------

    def _ended(self, known: int | None) -> None:
        """The first process has ended."""
        code, error = (known, "") if known is not None else (UNKNOWN_EXIT, _UNKNOWN)
        self.run.drain()
        oom = self.state["oom_killed"] or self.run.confinement.oom_killed
        if oom and not self.state["oom_killed"]:
            self.emit("oom")  # the exit has overtaken the kernel's notice
        self._release()
        now = time.time()
        ran = now - self.state["started"]
        again = backoff.wants_restart(
            self.spec["restart"],
            exit_code=code,
            restarts=self.state["restarts"],
            stopped_by_user=self.state["stopped"],
        )
        self.state.update(
            status="restarting" if again else "exited", pid=0, exit_code=code, oom_killed=oom, finished=now, error=error,
            execs=[],
        )  # fmt: skip
        if again:
            self.state["delay"] = backoff.next_delay(self.state["delay"], ran=ran)
        self.save()
        self.emit("exited", exit_code=code, oom_killed=oom, error=error, restarting=again)
        self.run.confinement.remove()
        if again:
            self._arm_restart()
        self._wake()

    def _arm_restart(self) -> None:
        self.emit("restarting", delay=self.state["delay"])
        self._restart_timer = self.context.loop.later(self.state["delay"], self._restart)

    def _restart(self) -> None:
        self._restart_timer = None
        self.run.confinement.when_removed(self._start_again)

    def _start_again(self) -> None:
        if self.state["status"] == "restarting":  # nobody has stopped it while its old cgroup was busy
            self.state["restarts"] += 1
            self.start(None)

    def _release(self) -> None:
        """Close what belongs to the ended process."""
        for timer in (self._kill_timer, self._lost_timer):
            if timer is not None:
                timer.cancel()
        self._kill_timer = self._lost_timer = None
        self.run.release()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()
        if self.state["status"] == "exited" and not self.spec["hold"]:
            self.remove(lambda: None)

    # -- requests --------------------------------------------------------------------------------------------

    def need_alive(self) -> None:
        if not self.alive or self.run.first.pidfd < 0:
            raise Conflict(f"container {self.id} is not running")

    def kill(self, number: int, *, resume: bool = False) -> None:
        """Send a signal; a paused one gets it when it is resumed: at once with *resume*, or by KILL."""
        if not 0 <= number <= _LAST_SIGNAL:
            raise InvalidArgument(f"invalid signal: {number}")
        if self.state["status"] == "restarting":
            self._stop_restarting()
            return
        self.need_alive()
        if number in (signal.SIGKILL, signal.SIGTERM, self.spec["stop_signal"]):
            self.state["stopped"] = True
            self.save()
        self.run.first.signal(number)
        if self.state["status"] == "paused" and (resume or number == signal.SIGKILL):
            self._thaw()

    def _thaw(self) -> None:
        if self.run.group is not None:
            self.run.group.freeze(False)
        self.state["status"] = "running"
        self.save()
        self.emit("resumed")

    def _stop_restarting(self) -> None:
        if self._restart_timer is not None:
            self._restart_timer.cancel()
            self._restart_timer = None
        self.state.update(status="exited", stopped=True)
        self.save()
        state = self.state
        self.emit(
            "exited",
            exit_code=state["exit_code"],
            oom_killed=state["oom_killed"],
            error=state["error"],
            restarting=False,
        )
        self._wake()

    def stop(self, number: int | None, timeout: float | None, done: Callable[[], None]) -> None:
        """Stop signal, then KILL after *timeout* seconds (negative: never); *done* after the exit."""
        if number is not None and not 0 < number <= _LAST_SIGNAL:
            raise InvalidArgument(f"invalid signal: {number}")
        if self.state["status"] == "restarting":
            self._stop_restarting()
            done()
            return
        if not self.alive:
            raise NotModified(f"container {self.id} is already stopped")
        self.need_alive()
        self.state["stopped"] = True
        self.save()
        if self.state["status"] == "paused":
            self._thaw()
        self._waiters.append(done)
        self.run.first.signal(number or self.spec["stop_signal"] or signal.SIGTERM)
        seconds = self.spec["stop_timeout"] if timeout is None else timeout
        if self._kill_timer is not None:
            self._kill_timer.cancel()
            self._kill_timer = None
        if seconds >= 0:
            self._kill_timer = self.context.loop.later(seconds, self._kill_now)

    def _kill_now(self) -> None:
        self._kill_timer = None
        if self.run.first.pidfd >= 0:
            self.run.first.signal(signal.SIGKILL)
        if self.state["status"] == "paused":  # again, since it was asked to end
            self._thaw()

    def pause(self, frozen: bool) -> None:
        self.need_alive()
        if frozen and self.state["status"] == "paused":
            raise Conflict(f"Container {self.id} is already paused")
        if not frozen and self.state["status"] != "paused":
            raise Conflict(f"Container {self.id} is not paused")
        if self.run.group is None:
            raise NotSupported("the container has no cgroup to freeze")
        self.run.group.freeze(frozen)
        self.state["status"] = "paused" if frozen else "running"
        self.save()
        self.emit("paused" if frozen else "unpaused")

    def update_restart(self, policy: Restart) -> None:
        self.spec["restart"] = policy
        self.record.save("spec", self.spec)
        if self.state["status"] == "restarting" and policy["name"] == "no":
            self._stop_restarting()

    def attach(self) -> list[int]:
        """New descriptors for a client: the master, or a write end of stdin."""
        self.need_alive()
        return self.run.streams.attach()

    def resize(self, exec_id: str | None, height: int, width: int) -> None:
        master = self.run.streams.master
        if exec_id is not None:
            master = self.execs.master(exec_id)
        if master < 0:
            raise Conflict("the process has no terminal")
        spawn.resize(master, height, width)

    def processes(self) -> list[int]:
        self.need_alive()
        found = self.run.group.processes() if self.run.group is not None else []
        return found or [self.state["pid"], *self.execs.pids]

    def stats(self) -> dict[str, int]:
        return self.run.group.stats() if self.run.group is not None and self.alive else {}

    def held_descriptors(self) -> list[int]:
        """What a client keeps open for the case of our death (run.py)."""
        return self.run.held() if self.alive else []

    def abandon(self) -> None:
        """The specification turned out to be malformed half-way: nothing stays."""
        self._release()
        if self.run.group is not None:
            self.run.group.remove()
        self.record.remove()

    def remove(self, done: Callable[[], None], *, quiet: bool = False) -> None:
        """Forget an ended container; *done* when its record and cgroup are gone.  *quiet*: it starts again at once."""
        if self.alive:
            raise Conflict(f"container {self.id} is running: stop the container before removing")
        if self.state["status"] == "restarting":
            self._stop_restarting()

        def finish() -> None:
            if self._forgotten:
                done()
                return
            self._forgotten = True
            self.record.remove()
            self._forget(self)
            if not quiet:
                self.emit("removed")
            done()

        self.run.confinement.when_removed(finish)

    # -- take over -------------------------------------------------------------------------------------------

    def never_began(self, state: State) -> bool:
        """Whether *state*, on record, is of a first start whose process ended at its gate: its supervisor was killed."""
        if state["status"] != "running" or state["restarts"] or self.record.has_begun():
            return False
        pidfd = linux.open_pidfd(state["pid"], state["start_time"])
        if pidfd < 0:
            return True
        os.close(pidfd)
        return False

    def restore(self, state: State) -> None:
        """Go on where the supervisor before has been killed."""
        self.state.update(state)
        self.run.confinement.find(self.spec)
        if self.state["status"] == "restarting":
            self.run.confinement.remove()
            self._arm_restart()
            return
        if not self.alive:
            self.run.confinement.remove()
            self._wake()
            return
        lives = self.run.first.take_over(self.state["pid"], self.state["start_time"])
        if not lives and not self.record.has_begun():  # a restart that nobody has seen
            self.state.update(status="restarting", pid=0)
            self.run.confinement.remove()
            self._arm_restart()
            return
        self.run.resume()
        if not lives:
            self._lost_timer = self.context.loop.later(ADOPT_SECONDS, lambda: self._ended(None))
            return
        self.run.confinement.watch(self.spec)
        self.execs.restore(self.state["execs"])

    def adopt(self, fds: list[int]) -> None:
        """A client gives back what it held.  The descriptors are ours now."""
        self.run.adopt(fds, self.state["pidfd_inode"] if self.alive else -1)
