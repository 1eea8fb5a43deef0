"""The engine: everything that pynetd holds, in one object that handlers and services share.

loop (HTTP, streams)  --work()-->  pool: calls of the API, events of containers     bounded, short
                      --wait()-->  pool: what may take long (stop, load, import)    bounded, apart, so that ten
                                                                                    stops do not hold up a list
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from ..netlib.instance import Instance
from .container.attachment import ContainerNetworks
from .container.containers import Containers
from .container.etc_files import HostFiles
from .container.execs import Execs
from .container.lifecycle import Lifecycle
from .container.recovery import Recovery
from .events import EventBus
from .images import Images
from .networks import Networks
from .reserve import Reserve
from .volumes import Volumes

if TYPE_CHECKING:
    from ..netlib.controller import Controller
    from ..runtime.client import SupervisorClient
    from .inotify import Inotify

log = logging.getLogger(__name__)

T = TypeVar("T")
WORKERS = 16
WAITERS = 128


class Engine:
    """See the module's text.  Made once the controller and the supervisor are there."""

    def __init__(self, instance: Instance, controller: Controller, supervisor: SupervisorClient) -> None:
        self.instance = instance
        self.controller = controller
        self.store = controller.store
        self.supervisor = supervisor
        self.reserve = Reserve(instance.root)
        self.events = EventBus()
        self.warnings: list[str] = []
        self.limit_controllers: frozenset[str] = frozenset()
        """cgroup controllers that containers can be limited by, as the supervisor found them.  Set by the daemon."""
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="work")
        self._waiters = ThreadPoolExecutor(WAITERS, thread_name_prefix="wait")
        self.images = Images(self)
        self.container_networks = ContainerNetworks(controller)
        self.networks = Networks(self)
        self.hosts = HostFiles(self)
        self.execs = Execs(self)
        self.containers = Containers(self)
        self.volumes = Volumes(self.store, instance.root, self.events, self.containers.volume_users)
        self.lifecycle = Lifecycle(self)
        self.recovery = Recovery(self)
        self.stopping: Callable[[bool], None] = lambda everything: None
        """Ends the daemon; True ends the containers and the other processes as well.  Set by the daemon."""
        self._inotify: Inotify | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def inotify(self) -> Inotify:
        """The loop's watch over log files, made by the first who follows one."""
        if self._inotify is None:
            from .inotify import Inotify

            self._inotify = Inotify()
        return self._inotify

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that nobody waits for; what it raises is told in the log."""

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("background work failed", exc_info=error)

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)

    def close(self) -> None:
        self._waiters.shutdown(wait=False, cancel_futures=True)
        self._workers.shutdown(wait=True, cancel_futures=True)

    def threads(self) -> int:
        return threading.active_count()

    async def work(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run short synchronous work; it runs to its end even when the caller goes away."""
        return await asyncio.wrap_future(self._workers.submit(function, *args, **kwargs))

    async def acquire(self, function: Callable[..., T], *args: Any, release: Callable[[T], None]) -> T:
        """``work`` whose result somebody must own: *release* gets it, in any thread, when the caller was cancelled.

        A cancelled caller does not stop the thread, whose result (descriptors, say) would be nobody's.
        """
        future = self._workers.submit(function, *args)

        def unclaimed(done: Future[T]) -> None:
            if not done.cancelled() and done.exception() is None:
                release(done.result())

        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(unclaimed)
            raise

    async def wait(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run synchronous work that may wait for a process or a stream."""
        return await asyncio.wrap_future(self._waiters.submit(function, *args, **kwargs))

    def defer(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """``wait`` for threads."""
        return self._waiters.submit(function, *args, **kwargs)

    def submit(self, function: Callable[..., None], *args: Any) -> None:
        """Run work that nobody waits for; what it raises is told in the log."""

        def run() -> None:
            try:
                function(*args)
            except Exception:
                log.exception("background work failed")

        try:
            self._workers.submit(run)
        except RuntimeError:
            pass  # we are ending: the next start looks at everything again

    def publish_network(self, action: str, name: str, id: str, **more: str) -> None:
        record = self.controller.registry.networks.get(id)
        kind = record.driver if record else "bridge"
        self.events.publish("network", action, id, {"name": name, "type": kind, **more})
