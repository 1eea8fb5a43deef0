"""The supervisor's events become states here.

They arrive on its client's thread; each goes to its container's inbox, and one worker at a time empties an inbox, under the
container's lock.  So events of one container keep their order, and those of others do not wait.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from ...netlib.errors import PynetError
from ..core import Core
from .end import End
from .execs import Execs
from .record import RUNNING, Container
from .registry import Registry
from .remove import Remove

log = logging.getLogger(__name__)


class Inbox:
    def __init__(self, core: Core, registry: Registry, execs: Execs, end: End, remove: Remove) -> None:
        self._core = core
        self._registry = registry
        self._execs = execs
        self._end = end
        self._remove = remove

    def on_event(self, event: dict[str, Any]) -> None:
        """On the client's dispatcher: hand the event to a worker, in order per container."""
        if event["event"] == "exec-exited":
            self._execs.on_exit(event)
            return
        container = self._registry.find_id(event.get("id", ""))
        if container is None:
            return
        container.inbox.append(event)
        self._core.pools.submit(self._empty, container)

    def _empty(self, container: Container) -> None:
        over = False
        with container.lock:
            while container.inbox:
                event = container.inbox.popleft()
                try:
                    self._handle(container, event)
                except Exception:
                    # whoever waits for the end must hear of it, and the next event must be looked at
                    log.exception("event %s of %s", event.get("event"), container.name)
                over = over or event["event"] == "exited"
            # looked at under the lock: a restart takes it to say that it has seen this end
            over = over and container.state.status == "exited" and container.auto_remove and not container.kept
        if over:
            self._remove.automatically(container)
        elif not container.running:
            self._end.forget(container)  # after everybody was told: the supervisor may still be busy with its cgroups

    def _is_old(self, container: Container, event: dict[str, Any]) -> bool:
        """Whether an end is that of an earlier run.  A clock that was set back makes it look so: then the supervisor knows."""
        if not container.running or event.get("time", 0.0) >= container.state.started:
            return False
        try:
            return self._core.supervisor.state(container.id)["status"] in RUNNING
        except PynetError:
            return False

    def _handle(self, container: Container, event: dict[str, Any]) -> None:
        kind, state = event["event"], container.state
        if kind == "started":
            if state.status == "restarting":
                container.change(
                    status="running",
                    pid=event.get("pid", 0),
                    started=event.get("time") or time.time(),
                    restarts=event.get("restarts", state.restarts + 1),
                )
                self._registry.save(container)
                self._core.events.publish("container", "start", container.id, container.attributes())
        elif kind == "exited" and self._is_old(container, event):
            pass  # of a start that was made again when the supervisor came back
        elif kind == "exited" and container.running and event.get("restarting"):
            self._end.restarting(container, event)
        elif kind == "exited" and container.running:
            self._end.exited(container, event)
        elif kind == "resumed" and state.status == "paused":
            container.change(status="running")
            self._registry.save(container)
            self._core.events.publish("container", "unpause", container.id, container.attributes())
        elif kind == "oom":
            container.change(oom_killed=True)
            self._core.events.publish("container", "oom", container.id, container.attributes())
