"""A small event loop: epoll, timers and SIGCHLD, in one thread and with few imports (asyncio alone is 10 MB).

Work that can wait, the copying of output, is asked for by ``soon``: one such call a round, after whatever timers and
descriptors have to say, in the order in which they were asked for.  So a hundred containers that write as fast as they can
get equal shares, and a client waits for one of them at most.
"""

from __future__ import annotations

import heapq
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

Callback = Callable[[int], None]
LONGEST = 1e9
"""Seconds, 31 years: a timer that is due later never is."""
_LONGEST_POLL = 3600.0
"""Seconds: epoll_wait(2) takes an int of milliseconds."""


class Timer:
    """A call in the future; ``cancel`` may be called at any time, also twice."""

    __slots__ = ("call", "due")

    def __init__(self, due: float, call: Callable[[], None] | None) -> None:
        self.due, self.call = due, call

    def cancel(self) -> None:
        self.call = None

    def __lt__(self, other: Timer) -> bool:
        return self.due < other.due


def _ignore(_number: int, _frame: object) -> None:
    """A handler, because the default action sends nothing to the wake-up descriptor."""


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._timers: list[Timer] = []
        self._soon: deque[Callable[[], None]] = deque()
        self._wakeup: tuple[int, ...] = ()
        self.running = True

    def add(self, fd: int, callback: Callback, events: int = select.EPOLLIN) -> None:
        """Call *callback* with the events of *fd* until ``discard``."""
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def modify(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def discard(self, fd: int) -> None:
        """Before the descriptor is closed.  One that is not watched is passed over."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call *call* in that many seconds: at once when negative, never when more than LONGEST."""
        timer = Timer(time.monotonic() + min(seconds, LONGEST), call)
        heapq.heappush(self._timers, timer)
        return timer

    def soon(self, call: Callable[[], None]) -> None:
        """Call *call* when it is its turn; what is not wanted any more is the caller's to know."""
        self._soon.append(call)

    def on_child(self, call: Callable[[], None]) -> None:
        """Call *call* after SIGCHLD; the signal's only other effect is to wake the loop."""
        reader, writer = self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

        def woken(_: int) -> None:
            os.read(reader, 4096)
            call()

        self.add(reader, woken)

    def run(self) -> None:
        while self.running:
            self._run_timers()
            if not self.running:
                return
            timeout = -1.0
            if self._soon:
                timeout = 0.0
            elif self._timers:
                timeout = min(max(0.0, self._timers[0].due - time.monotonic()), _LONGEST_POLL)
            for fd, events in self._epoll.poll(timeout):
                callback = self._callbacks.get(fd)  # an earlier callback of this round may have discarded it
                if callback is not None:
                    self.call(callback, events)
            if self._soon:
                self.call(self._soon.popleft())

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and (self._timers[0].due <= now or self._timers[0].call is None):
            timer = heapq.heappop(self._timers)
            if timer.call is not None:
                self.call(timer.call)

    def call(self, callback: Callable[..., None], *arguments: Any) -> None:
        """A bug in one callback must not end the loop that all containers depend on; it is reported."""
        try:
            callback(*arguments)
        except Exception:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()

    def close(self) -> None:
        if self._wakeup:
            signal.set_wakeup_fd(-1)
        for fd in self._wakeup:
            os.close(fd)
        self._epoll.close()
        self._callbacks.clear()
