"""After a start of pynetd, and after a new supervisor took over: what runs, what ended, what was left half-way.

The supervisor's list decides what runs: it outlived us.  Containers that ended meanwhile are treated as if the event had just
come.  Policies are applied only when the supervisor is new as well (the machine was restarted, or all was stopped): while
it lived it applied them itself.
"""

from __future__ import annotations

import logging
import sqlite3
from typing import Any

from ...netlib.errors import NotFound, PynetError
from ..core import Core
from .attachment import ContainerNetworks
from .end import End
from .record import RUNNING, Container
from .registry import Registry
from .remove import Remove
from .run import Run

log = logging.getLogger(__name__)


class Recovery:
    def __init__(
        self, core: Core, registry: Registry, *, networks: ContainerNetworks, end: End, remove: Remove, run: Run
    ) -> None:
        self._core = core
        self._registry = registry
        self._networks = networks
        self._end = end
        self._remove = remove
        self._run = run

    def follow_supervisor(self) -> None:
        """Compare with the supervisor's list: after our start, and whenever a new supervisor took over."""
        states = {state["id"]: state for state in self._core.supervisor.list()}
        for container in self._registry.all():
            state = states.pop(container.id, None)
            with container.lock:
                self._follow(container, state)
        for id in states:
            self._drop_stranger(id)

    def _follow(self, container: Container, found: dict[str, Any] | None) -> None:
        state = container.state
        if (found is not None and found["status"] in RUNNING) != container.running:
            # the list may be older than an event or a start that came since; under the lock nothing overtakes us
            found = self._fresh(container.id)
        container.supervised = found is not None
        if state.status == "removing":
            return
        if found is not None and found["status"] in RUNNING:
            if not container.running and not self._has_network(container):
                # its start was given up when the supervisor died in the middle
                self._drop_stranger(container.id)
                container.supervised = False
                return
            if not container.running:
                # we were killed between the supervisor's start and our record of it
                container.change(error="", exit_code=0)
            container.change(
                status=found["status"],
                pid=found.get("pid") or 0,
                started=found.get("started") or state.started,
                restarts=found.get("restarts", state.restarts),
            )
            self._registry.save(container)
        elif container.running:
            self._end.exited(container, found or {"error": "nobody saw the end of the process"})
        else:
            self._end.network_down(container)
            self._end.forget(container)

    def _fresh(self, id: str) -> dict[str, Any] | None:
        try:
            return self._core.supervisor.state(id)
        except NotFound:
            return None

    def _has_network(self, container: Container) -> bool:
        shared = container.network_mode.startswith("container:")
        return shared or container.id in self._core.controller.registry.sandboxes

    def _drop_stranger(self, id: str) -> None:
        """A container that no record names: its root file system is not ours to keep, so it ends."""
        log.warning("the supervisor holds container %s, which has no record: it is removed", id[:12])
        self._end.drop_supervised(id)

    def settle_endpoints(self) -> None:
        """After our start, before anybody is served: endpoints and containers' records agree again.

        A kill in the middle of a connect leaves an endpoint that no record names, which would keep its name and address and
        its network from being removed; one in the middle of a disconnect leaves a record that names an endpoint that is gone.
        """
        registry = self._core.controller.registry
        for container in self._registry.all():
            with container.lock:
                gone = [
                    name
                    for name, entry in container.networks.items()
                    if container.running and entry["endpoint_id"] and entry["endpoint_id"] not in registry.endpoints
                ]
                if gone:
                    self._networks.forget(container, gone)
                    self._registry.save(container)
        entries = [entry for one in self._registry.all() for entry in one.networks.values()]
        named = {entry.get(key, "") for entry in entries for key in ("endpoint_id", "kept_id")}
        for id in list(registry.endpoints):
            if id not in named:
                log.warning("endpoint %s is no container's: it is removed", id[:12])
                try:
                    self._core.controller.endpoint(id).delete()
                except (PynetError, OSError) as error:
                    log.error("endpoint %s: %s", id[:12], error)

    def finish_interrupted(self) -> None:
        """Removals that a kill interrupted, and --rm containers that ended while nobody looked."""
        for container in self._registry.all():
            status = container.state.status
            try:
                if status == "removing":
                    self._remove.resume(container)
                elif container.auto_remove and status == "exited":
                    self._remove.automatically(container)
            except (PynetError, OSError, sqlite3.Error) as error:
                log.error("removal of %s: %s", container.name, error)

    def apply_policies(self, was_running: set[str]) -> None:
        """After a full stop: start what ``always`` and ``unless-stopped`` (and a failed ``on-failure``) ask for."""
        for container in self._registry.all():
            policy, state = container.host_config["RestartPolicy"]["Name"], container.state
            wanted = (
                policy == "always"
                or (policy == "unless-stopped" and not state.stopped_by_user)
                or (policy == "on-failure" and container.id in was_running and state.exit_code != 0)
            )
            if not wanted or container.running or state.status in ("created", "removing"):
                continue
            try:
                self._run.start(container)
            except PynetError as error:
                log.error("container %s is not started again: %s", container.name, error)
