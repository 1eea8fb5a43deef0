"""Starting containers, and what can be done to running ones.

start    network (sandbox, endpoints, ports) -> files -> supervisor      a failure undoes what was done before it
restart  by the supervisor (policy): the namespace stays, so the network does
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from typing import Any

from ...ipam.dhcp.client import NoServer
from ...netlib.errors import (
    Conflict,
    InternalError,
    InvalidArgument,
    NotFound,
    NotModified,
    PynetError,
    Unavailable,
)
from ...runtime.client import Started, StartFailed
from ...runtime.spec import Restart
from ..core import Core
from ..fields import Fields
from ..reserve import told
from ..volumes import Volumes
from .attachment import ContainerNetworks, rephrase
from .end import End
from .etc_files import HostFiles
from .hostconfig import check_limits
from .record import Container, State
from .registry import Registry
from .remove import Remove
from .sources import make_source
from .specs import build_spec
from .stop import Stop

log = logging.getLogger(__name__)

HELPER_PATIENCE = 10.0
"""Seconds that a start waits for the supervisor or the forwarder to come back; they need a fraction of one."""


class Run:
    def __init__(
        self,
        core: Core,
        registry: Registry,
        *,
        networks: ContainerNetworks,
        volumes: Volumes,
        hosts: HostFiles,
        end: End,
        stop: Stop,
        remove: Remove,
    ) -> None:
        self._core = core
        self._registry = registry
        self._networks = networks
        self._volumes = volumes
        self._hosts = hosts
        self._end = end
        self._stop = stop
        self._remove = remove

    # -- start -----------------------------------------------------------------------------------------------

    def start(self, container: Container) -> None:
        """Start it; NotModified when it runs.  On failure it is ``created`` (or ``exited``) as before, with an error."""
        with container.lock:
            self._check(container)
            failure = self._start(container)
        if failure is None:
            return
        if container.auto_remove:
            # the client that asked for --rm waits for the removal, as after an exit
            self._remove.automatically(container)
        raise failure

    def _check(self, container: Container) -> None:
        status = container.state.status
        if status == "paused":
            raise Conflict("cannot start a paused container, try unpause instead")
        if container.running:
            raise NotModified("container is already running")
        if status == "removing":
            raise Conflict("container is marked for removal and cannot be started")

    def _start(self, container: Container) -> PynetError | None:
        """Why it does not run; None when it does."""
        try:
            started = self._patiently(container)
        except (PynetError, OSError, sqlite3.Error) as cause:
            error = told(cause, self._core.instance.root)
            failure = error if isinstance(error, PynetError) else InternalError(f"can not start: {error}")
            failure.__cause__ = cause if failure is not cause else None
            self._failed(container, failure)
            return failure
        container.state = State(
            status="running", pid=started.pid, started=started.started, finished=container.state.finished
        )
        try:
            self._registry.save_end(container)
        except (PynetError, sqlite3.Error) as error:
            # it runs, and the supervisor knows: the next start of ours learns it from there
            log.error("container %s: its start is not on disk: %s", container.name, error)
        for warning in started.warnings:
            log.warning("container %s: %s", container.name, warning)
        self._size_console(container)
        container.announce("started")
        self._end.network_events(container, "connect")
        self._tell(container, "start")
        return None

    def _size_console(self, container: Container) -> None:
        height, width = container.host_config["ConsoleSize"]
        if container.tty and height and width:
            try:
                self._core.supervisor.resize(container.id, height, width)
            except PynetError:
                pass  # it has ended already

    def _patiently(self, container: Container) -> Started:
        """``_launch``; while the supervisor or the forwarder is on its way back, wait for it and do it again."""
        deadline = time.monotonic() + HELPER_PATIENCE
        while True:
            seen = self._core.revivals.count
            try:
                return self._launch(container)
            except Unavailable as error:
                if isinstance(error.__cause__, NoServer):  # it is nobody of ours, who would be started again
                    raise
                if not self._core.revivals.wait(seen, deadline - time.monotonic()):
                    raise
                log.info("container %s: the start is made again", container.name)
                self._end.drop_supervised(container.id)  # it may have run when the supervisor died

    def _launch(self, container: Container) -> Started:
        """Everything that the process stands on, and the process; a failure takes all of it down again."""
        for point in container.mounts:
            make_source(point, self._volumes)  # one that was removed since the create
        self._check_links(container)
        path = self._shared_netns(container)
        if path is None:
            path = self._networks.attach(container, container.bindings, self._hosts.naming(container))
        try:
            spec = build_spec(
                container,
                netns=path,
                cgroup_parent=self._core.instance.cgroup,
                log=str(self._registry.log_path(container)),
                files=self._hosts.prepare(container),
                volume_path=self._volumes.path,
            )
            # the endpoints are on record before the process is, so a kill in between loses nothing
            self._registry.save(container)
            container.supervised = True
            return self._core.supervisor.start(spec)
        except BaseException:
            self._end.network_down(container)
            raise

    def _check_links(self, container: Container) -> None:
        """Links over the default bridge lead to containers that run (moby, daemon/container_operations_unix.go)."""
        for link in container.host_config["Links"] or ():
            id, _, alias = link.partition(":")
            other = self._registry.find_id(id)
            name = other.name if other is not None else id[:12]
            if other is None or not other.running:
                raise InternalError(
                    f"Cannot link to a non running container: /{name} AS /{container.name}/{alias}",
                    hint="start that container first",
                )
            if "bridge" not in other.networks:
                raise InternalError(
                    f"Cannot link to /{name}, as it does not belong to the default network",
                    hint="put both on a network of their own, and give the link there",
                )

    def _failed(self, container: Container, error: PynetError) -> None:
        code = error.exit_code if isinstance(error, StartFailed) else 128
        container.change(exit_code=code, error=str(error))
        try:
            self._registry.save(container)
        except (PynetError, sqlite3.Error) as trouble:
            log.error("container %s: its state is not on disk: %s", container.name, trouble)
        container.announce("exit")
        log.info("container %s did not start: %s", container.name, error)

    def _shared_netns(self, container: Container) -> str | None:
        """The namespace of another container (``--network container:X``); None when it has its own."""
        if not container.network_mode.startswith("container:"):
            return None
        try:
            other = self._registry.get(container.network_mode.partition(":")[2])
            owner = self._registry.network_owner(container)
        except NotFound as error:
            raise NotFound(
                f"joining network namespace of container: {error}", hint="`pynet ps` lists the containers that run"
            ) from None
        for needed in (other, owner):
            if not needed.running:
                raise Conflict(
                    f"cannot join network namespace of a non running container: {needed.id}",
                    hint="start that container first",
                )
        return self._core.controller.sandbox(owner.id).path

    def restart(self, container: Container, *, signal: int | None = None, timeout: int | None = None) -> None:
        with container.lock:
            container.kept += 1
        try:
            self._stop.stop(container, signal=signal, timeout=timeout)
        except NotModified:
            pass
        finally:
            with container.lock:
                container.kept -= 1
        try:
            self.start(container)
        except NotModified:
            pass
        self._tell(container, "restart")

    # -- what runs -------------------------------------------------------------------------------------------

    def pause(self, container: Container) -> None:
        with container.lock:
            if container.state.status == "paused":
                raise Conflict(f"container {container.id} is already paused")
            if container.state.status == "restarting":
                raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
            if container.state.status != "running":
                raise Conflict(
                    f"container {container.id} is not running",
                    hint="`pynet start` it first; `pynet ps -a` shows its state",
                )
            self._core.supervisor.pause(container.id)
            self._set_status(container, "paused")
        self._tell(container, "pause")

    def unpause(self, container: Container) -> None:
        with container.lock:
            if container.state.status != "paused":
                raise Conflict(f"container {container.id} is not paused")
            self._core.supervisor.unpause(container.id)
            self._set_status(container, "running")
        self._tell(container, "unpause")

    def update(self, container: Container, changes: dict[str, Any]) -> None:
        """New limits and restart policy.  Limits of a running container take effect at its next start."""
        with container.lock:
            if container.state.status == "removing":
                raise Conflict(f"container {container.id} is marked for removal and cannot be updated")
            policy = changes.get("RestartPolicy")
            if policy and container.auto_remove and policy["Name"] != "no":
                raise InvalidArgument(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container"
                )
            before = container.host_config
            check_limits(Fields({**before, **changes}))  # together with what is set already
            container.host_config = {**before, **changes}
            try:
                self._registry.save(container)
            except BaseException:
                container.host_config = before
                raise
            if policy and container.running:
                restart: Restart = {"name": policy["Name"], "max": policy["MaximumRetryCount"]}
                self._core.supervisor.update_restart(container.id, restart)
        self._tell(container, "update")

    def _set_status(self, container: Container, status: str) -> None:
        container.change(status=status)
        self._registry.save(container)

    def _tell(self, container: Container, action: str) -> None:
        self._core.events.publish("container", action, container.id, container.attributes())


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
