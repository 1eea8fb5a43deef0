"""Removing containers: by a user, by ``--rm``, by a prune, and after a kill in the middle of a removal.

    record "removing" -> supervisor's record -> network -> directory to the trash -> anonymous volumes -> record gone

Every step may be done again, and the record goes last.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...netlib.errors import Conflict, MultipleErrors, NotFound, PynetError
from ...netlib.kernel.tree import discard_tree, tree_size
from ...netlib.store.sqlite import StoreLost
from ..core import Core
from ..filters import Filters
from ..reserve import is_full, told
from ..volumes import Volumes
from .attachment import ContainerNetworks
from .end import End
from .execs import Execs
from .record import Container
from .registry import Registry
from .stop import Stop

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
"""Between two attempts of a removal that nobody asks for again."""
PRUNE_FILTERS = frozenset({"until", "label", "label!"})


class Remove:
    def __init__(
        self,
        core: Core,
        registry: Registry,
        *,
        networks: ContainerNetworks,
        volumes: Volumes,
        execs: Execs,
        end: End,
        stop: Stop,
    ) -> None:
        self._core = core
        self._registry = registry
        self._networks = networks
        self._volumes = volumes
        self._execs = execs
        self._end = end
        self._stop = stop

    def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove a container; a running one only with *force*, which kills it."""
        container = self._registry.get(ref)
        status = container.state.status
        self._core.store.check_there()  # before anything is ended that can then not be removed
        if container.running:
            if not force:
                advice = "unpause and then stop" if status == "paused" else "stop"
                raise Conflict(
                    f'cannot remove container "{container.name}": container is {status}: '
                    f"{advice} the container before removing or force remove",
                    hint="`pynet stop` it first, or use `pynet rm -f`",
                )
            self._stop.kill_and_wait(container)
        with container.lock:
            if container.running:
                raise Conflict(
                    f'cannot remove container "{container.name}": container was started again',
                    hint="`pynet stop` it first, or use `pynet rm -f`",
                )
            if container.removal:
                raise Conflict(f"removal of container {ref} is already in progress")
            container.removal = True
            before = container.state
            container.change(status="removing", volumes_too=volumes or before.volumes_too)
            try:
                self._registry.save_end(container)
            except BaseException:
                container.state, container.removal = before, False  # nothing was removed: it can be used as before
                raise
        try:
            self.finish(container)
        finally:
            container.removal = False  # one that failed can be tried again

    def resume(self, container: Container) -> None:
        """A removal that a kill interrupted; nothing when somebody is at it just now, or it is gone."""
        with container.lock:
            if container.removal or self._registry.find_id(container.id) is not container:
                return
            container.removal = True
            if container.auto_remove:  # a record of before it said so
                container.change(volumes_too=True)
        try:
            self.finish(container)
        finally:
            container.removal = False

    def finish(self, container: Container) -> None:
        """From "removing" to gone, by who set ``removal``; may be done again after a crash."""
        errors: list[PynetError | OSError] = []
        steps: tuple[Callable[[Container], None], ...] = (self._end.forget, self._networks.detach)
        for step in steps:
            try:
                self._core.reserve.spend(step, container)
            except (PynetError, OSError) as error:
                if isinstance(error, MultipleErrors) and is_full(error):
                    raise  # not all could be written down: to be done again
                errors.append(error)
        self.discard(container.id)
        if container.state.volumes_too:
            for point in container.mounts:
                if point.anonymous and not self._registry.volume_users(point.name, container.id):
                    self._volumes.discard(point.name, but=container.id)
        with container.lock:
            self._registry.delete(container)
            container.announce("exit")
            container.announce("removed")
        self._execs.drop(container.id)
        self._core.events.publish("container", "destroy", container.id, container.attributes())
        if errors:
            raise errors[0]

    def automatically(self, container: Container) -> None:
        """``--rm``: by whoever saw the end.  Nothing happens when somebody else is at it."""
        try:
            self.remove(container.id, volumes=True)
        except (NotFound, Conflict):
            pass  # somebody removes it already, or started it again
        except (PynetError, OSError, sqlite3.Error) as error:
            # a full disk, most likely: whoever waits is told now, and the removal is done when there is room
            log.error("removal of %s: %s; it is tried again", container.name, error)
            with container.lock:
                container.removal_error = str(told(error, self._core.instance.root))
                container.announce("removed")
            self._core.pools.later(RETRY_SECONDS, self._again, container)

    def _again(self, container: Container) -> None:
        if self._registry.find_id(container.id) is container and not container.running:
            self.automatically(container)

    def prune(self, filters: Filters, until: Callable[[str], float]) -> dict[str, Any]:
        """Remove every container that does not run; what can not be removed stays, is told of, and keeps none of the others."""
        filters.allow(PRUNE_FILTERS)
        before = min((until(text) for text in filters.values("until")), default=float("inf"))
        removed: list[str] = []
        problems: list[str] = []
        space = 0
        for container in self._registry.all():
            if container.running or container.created > before:
                continue
            if filters.labels(container.labels) and filters.not_labels(container.labels):
                try:
                    written = tree_size(container.rootfs["upper"])
                    self.remove(container.id)
                except (NotFound, Conflict):
                    continue  # somebody else removed or started it meanwhile
                except StoreLost:
                    raise  # nothing can be removed any more
                except (PynetError, OSError, sqlite3.Error) as error:
                    problems.append(f"container {container.name}: {told(error, self._core.instance.root)}")
                    log.error("prune: %s", problems[-1])
                    if self._registry.find_id(container.id) is container:
                        continue
                    written = 0  # it is gone, and something of it stayed
                removed.append(container.id)
                space += written
        self._core.events.publish("container", "prune", "", {"reclaimed": str(space)})
        warnings = {"Warnings": problems} if problems else {}
        return {"ContainersDeleted": removed or None, "SpaceReclaimed": space, **warnings}

    # -- directories -----------------------------------------------------------------------------------------

    def discard(self, id: str) -> None:
        """Take a container's directory away at once and delete it when nobody waits: overlayfs makes that slow."""
        try:
            target = self._registry.throw_away(id)
        except FileNotFoundError:
            return  # a removal that was interrupted got this far
        except OSError as error:
            if not is_full(error):
                raise
            discard_tree(self._registry.path(id), log.warning)
            return
        self._core.pools.submit(self._delete, target)

    def _delete(self, target: Path) -> None:
        discard_tree(target, log.warning)
        self._core.reserve.make()

    def empty_trash(self) -> None:
        """What a kill left of removals."""
        discard_tree(self._registry.trash, log.warning)
