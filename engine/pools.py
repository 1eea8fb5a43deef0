"""The threads behind the event loop, and what is started in the background.

loop (HTTP, streams)  --work()-->  pool: looks, events of containers                bounded, short
                      --change()-> pool: what takes a container's lock or a         bounded, apart: who waits for a DHCP
                                   network's turn                                   server keeps nobody from looking
                      --wait()-->  pool: what may take long (stop, load, import)    bounded, apart, so that ten
                                                                                    stops do not hold up a list
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
WORKERS = 16
CHANGERS = 64
WAITERS = 128


class Pools:
    """See the module's text.  Coroutines are for the loop, the other methods for any thread."""

    def __init__(self) -> None:
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="work")
        self._changers = ThreadPoolExecutor(CHANGERS, thread_name_prefix="change")
        self._waiters = ThreadPoolExecutor(WAITERS, thread_name_prefix="wait")
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        self._waiters.shutdown(wait=False, cancel_futures=True)
        self._changers.shutdown(wait=True, cancel_futures=True)
        self._workers.shutdown(wait=True, cancel_futures=True)

    async def work(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run short synchronous work; it runs to its end even when the caller goes away."""
        return await asyncio.wrap_future(self._workers.submit(function, *args, **kwargs))

    async def change(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a change, which runs to its end even when the caller goes away, and even when we end."""
        return await asyncio.wrap_future(self._changers.submit(function, *args, **kwargs))

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

    def later(self, seconds: float, function: Callable[..., None], *args: Any) -> None:
        """``submit`` after some seconds; forgotten when we end before."""
        timer = threading.Timer(seconds, self.submit, (function, *args))
        timer.daemon = True
        timer.start()

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that nobody waits for; what it raises is told in the log."""

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("background work failed", exc_info=error)

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)
