"""What every watch of the kernel has in common: a thread that listens, looks when there was a reason, and keeps a pace.

    events (multicast)  -.
    a look now and then -+-->  concerns  -->  a moment later: mend  -->  Pace: how soon the next one may be
    events were lost    -'

firewall/watch.py and link_watch.py say what concerns them and how they mend.
"""

from __future__ import annotations

import logging
import os
import selectors
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from .kernel.events import Event, EventSocket

log = logging.getLogger("pynet.netlib")

SETTLE = 0.01
"""Seconds from the first event to the look: whoever takes away mostly makes anew at once."""
AGAIN = 0.5
"""Seconds until what could not be mended is tried again."""


@dataclass
class Pace:
    """How soon the next repair may be.  Times are seconds of one clock."""

    free: int = 5
    """Repairs one after the other that need not wait."""
    quiet: float = 10.0
    """Without a repair for so long (or twice the last wait, if that is longer) all is forgotten."""
    longest: float = 60.0
    count: int = 0
    wait: float = 0.0
    """What the next repair has to wait after the last one; 0 while nothing is wrong."""
    _last: float = float("-inf")

    def repaired(self, now: float) -> None:
        self.rest(now)
        self.count += 1
        self.wait = 0.0 if self.count < self.free else min(self.longest, 2.0 ** (self.count - self.free))
        self._last = now

    def rest(self, now: float) -> None:
        """Forget, if it was quiet for long enough."""
        if now - self._last > max(self.quiet, 2 * self.wait):
            self.count, self.wait = 0, 0.0

    @property
    def earliest(self) -> float:
        return self._last + self.wait


class Watch:
    """Watches and mends until it is closed; a context manager.  ``looks`` counts when there was a reason to look, ``repairs``
    when something had to be put back."""

    subject = "something"
    """What is watched, as a user knows it."""
    poll: float | None = None
    """Seconds between two looks at what tells nobody of its changes; None: all of it does."""

    def __init__(self, events: EventSocket | None) -> None:
        """A subclass is ready for its thread when it calls this."""
        self.looks = self.repairs = 0
        self.who = ""
        """The program that was the last to take something, where the kernel tells."""
        self._events = events
        self._pace = Pace()
        self._said = ""
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Twice is fine."""
        if self._wake < 0:
            return
        os.write(self._wake, b"x")
        self._thread.join()
        os.close(self._wake)
        os.close(self._woken)
        self._wake = self._woken = -1
        if self._events is not None:
            self._events.close()

    @property
    def closed(self) -> bool:
        return self._wake < 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def warnings(self) -> list[str]:
        """A sentence while somebody does not let it be."""
        self._pace.rest(time.monotonic())
        if not self._pace.wait:
            return []
        who = f"The program {self.who}" if self.who else "Another program"
        return [
            f"{who} keeps taking {self.subject} away ({self._pace.count} times): put back {self._pace.wait:g} s after it "
            "each time; have it leave them alone."
        ]

    def forgive(self) -> None:
        """Forget how often it was: the next repair need not wait."""
        self._pace = Pace()

    # -- what a watch is about --------------------------------------------------------------------------------

    def concerns(self, events: Sequence[Event] | None) -> set[str]:
        """What of ours *events* may have touched, in words of the watch's own; None: some were lost."""
        raise NotImplementedError

    def disturbed(self) -> set[str]:
        """The same for what is looked at every ``poll`` seconds."""
        return set()

    def mend(self, concerns: set[str]) -> bool:
        """Look, and put back what is missing; whether something was."""
        raise NotImplementedError

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            if self._events is not None:
                selector.register(self._events, selectors.EVENT_READ)
            due: dict[str, float] = {}
            poll = time.monotonic() + self.poll if self.poll is not None else float("inf")
            while True:
                first = min([poll, *due.values()])
                now = time.monotonic()
                ready = selector.select(None if first == float("inf") else max(0.0, first - now))
                if any(key.fileobj == self._woken for key, _ in ready):
                    return
                now = time.monotonic()
                for one in self._asked(ready=bool(ready), polled=now >= poll):
                    due.setdefault(one, max(now + SETTLE, self._pace.earliest))
                if now >= poll and self.poll is not None:
                    poll = now + self.poll
                if due and min(due.values()) <= now:
                    what, due = set(due), {}
                    if not self._mended(what):
                        due = dict.fromkeys(what, now + max(AGAIN, self._pace.wait))

    def _asked(self, *, ready: bool, polled: bool) -> set[str]:
        try:
            found = self.concerns(self._events.read()) if ready and self._events is not None else set[str]()
            return found | self.disturbed() if polled else found
        except Exception as error:  # whatever it is: who watches must not end by what it sees
            self._say("looked at", error)
            return set()

    def _mended(self, what: set[str]) -> bool:
        """Whether it is as it should be afterwards."""
        begun = time.monotonic()
        self.looks += 1
        try:
            changed = self.mend(what)
        except Exception as error:
            self._say("put back", error)
            self._pace.repaired(time.monotonic())
            return False
        if changed:
            now = time.monotonic()
            self.repairs += 1
            self._pace.repaired(now)
            by = self.who or "another program"
            self._said = ""
            log.warning("%s were taken away by %s: put back in %.0f ms", self.subject, by, (now - begun) * 1e3)
        return True

    def _say(self, verb: str, error: Exception) -> None:
        """Once, while it stays the same."""
        text = f"{self.subject} can not be {verb}: {error}"
        if text != self._said:
            self._said = text
            log.warning("%s", text)
