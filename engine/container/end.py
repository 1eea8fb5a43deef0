"""What follows the end of a container: it is written down, its network goes, whoever waits is told.

exit     state saved -> ports and links gone -> "die" -> waiters        --rm is for who called (inbox.py)
"""

from __future__ import annotations

import logging
import sqlite3
import time
from typing import Any

from ...netlib.errors import NotFound, PynetError
from ...runtime.spec import UNKNOWN_EXIT
from ..core import Core
from .attachment import ContainerNetworks
from .etc_files import HostFiles
from .execs import Execs
from .record import RUNNING, Container
from .registry import Registry

log = logging.getLogger(__name__)

SIGKILL = 9


class End:
    """Calls for one container come under its lock."""

    def __init__(
        self, core: Core, registry: Registry, networks: ContainerNetworks, hosts: HostFiles, execs: Execs
    ) -> None:
        self._core = core
        self._registry = registry
        self._networks = networks
        self._hosts = hosts
        self._execs = execs

    def exited(self, container: Container, event: dict[str, Any]) -> None:
        """All that follows; *event* is the supervisor's, or its last state."""
        container.ending = True  # before it stops running: whoever looks without the lock sees the one or the other
        self._ended(container, "exited", event)
        try:
            self._save(container)
            self.network_down(container)
            self.network_events(container, "disconnect")
            self._execs.container_ended(container.id)
        finally:
            self._died(container)  # whoever waits must be told, whatever went wrong

    def restarting(self, container: Container, event: dict[str, Any]) -> None:
        """It ended, and the supervisor starts it again: the namespace stays, so the network does."""
        self._ended(container, "restarting", event)
        self._save(container)
        self._died(container)

    def _save(self, container: Container) -> None:
        try:
            self._registry.save_end(container)
        except (PynetError, sqlite3.Error) as error:
            # what follows frees space, and those who wait must be told
            log.error("container %s: its end is not on disk: %s", container.name, error)

    def network_down(self, container: Container) -> None:
        """Take the network down; what can not be removed now is left to ``repair`` and told in the log."""
        try:
            self._hosts.links.end(container)
        except (PynetError, OSError, sqlite3.Error) as error:
            log.error("links of %s: %s", container.name, error)
        try:
            self._core.reserve.spend(self._networks.rest, container)
        except (PynetError, OSError, sqlite3.Error) as error:
            log.error("network of %s: %s", container.name, error)
        try:
            self._hosts.follow_links(container)
        except (PynetError, OSError) as error:  # of others' names; whoever waits for this end must hear of it
            log.error("who has links to %s: %s", container.name, error)

    def network_events(self, container: Container, action: str) -> None:
        for name, entry in container.networks.items():
            self._core.publish_network(action, name, entry["network_id"], container=container.id)

    def forget(self, container: Container) -> None:
        """Have the supervisor drop what it knows of a container that ended; fine when that is nothing."""
        with container.lock:
            if container.running or not container.supervised:
                return
            try:
                self._core.supervisor.remove(container.id)
            except NotFound:
                pass
            container.supervised = False

    def drop_supervised(self, id: str) -> None:
        """End what the supervisor may hold of a container, and have it forget that."""
        try:
            if self._core.supervisor.state(id)["status"] in RUNNING:
                self._core.supervisor.stop(id, SIGKILL, 0)
            self._core.supervisor.remove(id)
        except NotFound:
            pass
        except PynetError as error:
            log.warning("container %s: %s", id[:12], error)

    def _ended(self, container: Container, status: str, event: dict[str, Any]) -> None:
        code = event.get("exit_code")
        container.change(
            status=status,
            exit_code=UNKNOWN_EXIT if code is None else code,
            finished=event.get("finished") or event.get("time") or time.time(),
            oom_killed=bool(event.get("oom_killed", container.state.oom_killed)),
            restarts=event.get("restarts", container.state.restarts),
            error=event.get("error") or "",
            pid=0,
        )

    def _died(self, container: Container) -> None:
        """Tell everybody."""
        duration = int(max(container.state.finished - container.state.started, 0))
        self._core.events.publish(
            "container", "die", container.id,
            container.attributes(exitCode=str(container.state.exit_code), execDuration=str(duration)),
        )  # fmt: skip
        container.announce("exit")
