"""The fast lane: one epoll set that serves proxied sockets itself and asyncio's descriptors on the side.

    epoll_wait -> (fd, events) --- fd has a handler ---> handler(events), here, at once
                              `--- else ---------------> returned to asyncio as a selector event

asyncio takes 15-22 us to add and remove a reader; an epoll_ctl pair takes 1.2 us, and a callback through the loop's
ready queue costs as much again.  A proxy does this for every connection and every burst.  So proxied sockets never meet
asyncio: they are registered here, mostly once and edge-triggered, and ``select`` serves them in a loop of its own.  It
returns to asyncio only when there is something for asyncio: an event on one of its descriptors (control connections,
process descriptors), a timer that is due, or a handler that has set ``wake`` because it has made a timer.

``ready`` holds what runs when the events of this turn are done: work that has used up its budget, and *whatever makes
descriptors* (accepting, adopting).  A handler may close descriptors whose events are still to come in the same batch;
were one reused at once, its new owner would be told of its predecessor's error.

A process without asyncio (bulk workers) calls ``run``.  Not thread-safe: everything happens in the thread that selects.
"""

from __future__ import annotations

import select
import selectors
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Any

Handler = Callable[[int], None]

_BATCH = 256
"""Events taken in one epoll_wait."""
_NOT_WRITE = ~select.EPOLLOUT
_NOT_READ = ~select.EPOLLIN


def _fileno(fileobj: Any) -> int:
    fd = fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
    if fd < 0:
        raise ValueError(f"invalid file descriptor: {fd}")
    return fd


class _Keys(Mapping[Any, selectors.SelectorKey]):
    """What asyncio has registered, by descriptor or by file object."""

    def __init__(self, by_fd: dict[int, selectors.SelectorKey]) -> None:
        self._by_fd = by_fd

    def __len__(self) -> int:
        return len(self._by_fd)

    def __getitem__(self, fileobj: Any) -> selectors.SelectorKey:
        return self._by_fd[_fileno(fileobj)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._by_fd)


class Lane(selectors.BaseSelector):
    """A selector for asyncio that serves its own descriptors first."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.handlers: dict[int, Handler] = {}
        self.ready: deque[Callable[[], None]] = deque()
        self.wake = self.stopped = False
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._map = _Keys(self._keys)

    # -- the lane's own descriptors ----------------------------------------------------------------------------

    def add(self, fd: int, events: int, handler: Handler) -> None:
        self.epoll.register(fd, events)
        self.handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        self.epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forget *fd*.  Needed before the close when another process holds the same open file: epoll watches files."""
        del self.handlers[fd]
        self.epoll.unregister(fd)

    def run(self) -> None:
        """Serve without asyncio until a handler calls ``stop``."""
        while not self.stopped:
            self.select(None)

    def stop(self) -> None:
        self.stopped = self.wake = True

    # -- selectors.BaseSelector, for asyncio -------------------------------------------------------------------

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, _fileno(fileobj), events, data)
        if key.fd in self._keys or key.fd in self.handlers:
            raise KeyError(f"{fileobj!r} (FD {key.fd}) is already registered")
        self.epoll.register(key.fd, self._mask(events))
        self._keys[key.fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = self._keys.pop(_fileno(fileobj))
        try:
            self.epoll.unregister(key.fd)
        except OSError:
            pass  # closed before it was unregistered: the kernel has forgotten it already (epoll(7), Q6)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        old = self._map[fileobj]
        key = selectors.SelectorKey(fileobj, old.fd, events, data)
        if events != old.events:
            self.epoll.modify(old.fd, self._mask(events))
        self._keys[old.fd] = key
        return key

    @staticmethod
    def _mask(events: int) -> int:
        return (select.EPOLLIN if events & selectors.EVENT_READ else 0) | (
            select.EPOLLOUT if events & selectors.EVENT_WRITE else 0
        )

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._map

    def close(self) -> None:
        self.epoll.close()
        self._keys.clear()
        self.handlers.clear()
        self.ready.clear()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        poll, handlers, keys, ready = self.epoll.poll, self.handlers, self._keys, self.ready
        found: list[tuple[selectors.SelectorKey, int]] = []
        once = timeout is not None and timeout <= 0
        end = None if timeout is None or once else monotonic() + timeout
        wait = -1.0 if timeout is None else max(timeout, 0.0)
        while True:
            events = poll(0 if ready else wait, _BATCH)
            for fd, event in events:
                handler = handlers.get(fd)
                if handler is not None:
                    handler(event)
                    continue
                key = keys.get(fd)
                if key is not None:
                    # as selectors.EpollSelector: an error makes a descriptor both readable and writable
                    mask = (selectors.EVENT_WRITE if event & _NOT_READ else 0) | (
                        selectors.EVENT_READ if event & _NOT_WRITE else 0
                    )
                    found.append((key, mask & key.events))
            for _ in range(len(ready)):
                ready.popleft()()
            if found or once or self.wake:
                self.wake = False
                return found
            if end is not None:
                wait = end - monotonic()
                if wait <= 0:
                    return found
