"""Turns: changes of one object come one after the other, changes of different objects side by side.

    with turns.of("sandbox a", "endpoint b"):    nobody else changes these two meanwhile
    with turns.alone():                          nobody else changes anything (comparing store and kernel)

A turn lasts from the decision until the kernel follows it, so it is held while the kernel, the firewall and the proxy are
called; that is why it belongs to an object, and why the controller's lock, which everybody needs, is another.

A thread may take a turn inside its own: an endpoint's, and inside it its sandbox's (who deletes a sandbox takes all of them at
once).  All keys of one ``of`` are taken at once
or waited for with none in hand.  Deadlock is excluded by one rule: who holds a sandbox's or a network's turn asks for no other,
and ``alone`` is asked for with no turn in hand.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager


class Turns:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders: dict[str, tuple[int, int]] = {}  # key -> thread, how often
        self._busy: dict[int, int] = {}  # thread -> how many turns it is in
        self._alone: int | None = None
        self._waiting_alone = 0

    @contextmanager
    def of(self, *keys: str) -> Generator[None]:
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: self._may(me, keys))
            self._busy[me] = self._busy.get(me, 0) + 1
            for key in keys:
                self._holders[key] = me, self._holders.get(key, (me, 0))[1] + 1
        try:
            yield
        finally:
            with self._changed:
                for key in keys:
                    _, depth = self._holders.pop(key)
                    if depth > 1:
                        self._holders[key] = me, depth - 1
                depth = self._busy.pop(me)
                if depth > 1:
                    self._busy[me] = depth - 1
                self._changed.notify_all()

    def _may(self, me: int, keys: tuple[str, ...]) -> bool:
        if self._alone not in (None, me):
            return False
        if self._waiting_alone and self._alone is None and me not in self._busy:
            return False  # or there would always be somebody, and alone() would never have its turn
        return all(self._holders.get(key, (me, 0))[0] == me for key in keys)

    @contextmanager
    def alone(self) -> Generator[None]:
        me = threading.get_ident()
        with self._changed:
            nested = self._alone == me
            self._waiting_alone += 1
            try:
                self._changed.wait_for(lambda: self._alone in (None, me) and all(who == me for who in self._busy))
                self._alone = me
            finally:
                self._waiting_alone -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            if not nested:
                with self._changed:
                    self._alone = None
                    self._changed.notify_all()
