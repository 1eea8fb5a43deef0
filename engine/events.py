"""What happened: a ring of the last events, and the streams of ``GET /events``.

Publishers are threads, subscribers are handlers on the event loop; an event reaches a subscriber in the order of
publication, the history it asked for (``since``) first, with no gap and no repetition between the two.  A subscriber
that does not read is dropped after ``BACKLOG`` events: a stream with a hole would be worse than a closed one.

Shapes are moby's api/types/events: ``Type``, ``Action``, ``Actor{ID, Attributes}``, and for containers and images the
older ``status``, ``id`` and ``from``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

from .filters import Filters

HISTORY = 1024
BACKLOG = 4096
FILTERS = frozenset(
    [
        "config",
        "container",
        "daemon",
        "event",
        "image",
        "label",
        "network",
        "node",
        "plugin",
        "scope",
        "secret",
        "service",
        "type",
        "volume",
    ]
)

Event = dict[str, Any]


def make_event(kind: str, action: str, id: str, attributes: Mapping[str, str], nanoseconds: int) -> Event:
    event: Event = {}
    if kind in ("container", "image"):
        event["status"], event["id"] = action, id
        if kind == "container":
            event["from"] = attributes.get("image", "")
    event |= {
        "Type": kind,
        "Action": action,
        "Actor": {"ID": id, "Attributes": dict(attributes)},
        "scope": "local",
        "time": nanoseconds // 1_000_000_000,
        "timeNano": nanoseconds,
    }
    return event


def wanted(filters: Filters, event: Event) -> bool:
    """Whether an event passes (moby, daemon/events/filter.go)."""
    kind, action, actor = event["Type"], event["Action"], event["Actor"]
    attributes: dict[str, str] = actor["Attributes"]

    def names(subject: str) -> bool:
        if not filters.values(subject):
            return True
        if kind == subject:
            candidates = {actor["ID"], attributes.get("name", "")}
        else:
            candidates = {attributes.get(subject, "")}
        candidates.discard("")
        return any(
            value in candidates or any(c.startswith(value) for c in candidates) for value in filters.values(subject)
        )

    return (
        filters.exact("type", kind)
        # "exec_create: ls -l" is asked for as "exec_create", "health_status: healthy" likewise
        and filters.exact("event", action, action.partition(":")[0])
        and filters.exact("scope", event["scope"])
        and names("container")
        and names("network")
        and names("volume")
        and filters.exact("image", *image_names(event) if filters.values("image") else ())
        and filters.labels(attributes)
    )


def image_names(event: Event) -> list[str]:
    attributes = event["Actor"]["Attributes"]
    names = [attributes.get("image", ""), event["Actor"]["ID"], attributes.get("name", "")]
    return names + [name.rpartition(":")[0] for name in names if ":" in name]


class Subscription:
    """One reader of the stream; iterate in the event loop, close when done (it is a context manager)."""

    def __init__(self, bus: EventBus, filters: Filters) -> None:
        self._bus = bus
        self._filters = filters
        self._queue: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._overrun = False

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self._bus.drop(self)

    def offer(self, event: Event) -> None:
        """From any thread, under the bus's lock."""
        if wanted(self._filters, event):
            if len(self._queue) >= BACKLOG:
                self._overrun = True
            else:
                self._queue.append(event)
            self._loop.call_soon_threadsafe(self._wake.set)

    async def until(self, end: int | None) -> AsyncIterator[Event]:
        """Events up to the time *end* (nanoseconds), or for ever."""
        while not self._overrun:
            while self._queue:
                event = self._queue.popleft()
                if end is not None and event["timeNano"] > end:
                    return
                yield event
            left = None if end is None else (end - time.time_ns()) / 1e9
            if left is not None and left <= 0:
                return
            self._wake.clear()
            if self._queue:
                continue
            try:
                await asyncio.wait_for(self._wake.wait(), left)
            except TimeoutError:
                return


class EventBus:
    """The ring and its readers.  Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ring: deque[Event] = deque(maxlen=HISTORY)
        self._subscriptions: set[Subscription] = set()
        self._last = 0

    def publish(self, kind: str, action: str, id: str, attributes: Mapping[str, str]) -> None:
        with self._lock:
            # strictly increasing, so that since=<timeNano of the last one seen> neither loses nor repeats
            self._last = max(time.time_ns(), self._last + 1)
            event = make_event(kind, action, id, attributes, self._last)
            self._ring.append(event)
            for subscription in self._subscriptions:
                subscription.offer(event)

    def subscribe(self, filters: Filters, *, since: int | None = None) -> Subscription:
        """A stream of what passes *filters*, after the history since a time (nanoseconds) when that is given."""
        filters.allow(FILTERS)
        subscription = Subscription(self, filters)
        with self._lock:
            if since is not None:
                for event in self._ring:
                    if event["timeNano"] >= since:
                        subscription.offer(event)
            self._subscriptions.add(subscription)
        return subscription

    def drop(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions.discard(subscription)
