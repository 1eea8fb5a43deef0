"""How well a server answers, and what follows from it: who is asked first, how long alone, who rests.  Pure.

    answered   its time goes into the smoothed one (as a TCP's round trip, RFC 6298), and it is well
    late       another one was faster; three times in a row with no answer in between: it rests
    failed     nobody there (an ICMP error, a connection that is refused): it rests
    rest       1, 2, 4, ... 30 seconds; asked only when nobody else is left.  After it, one question goes to it as well as to the
               best one, which is how it is found to be back without anybody waiting for it

A server that is not asked is not measured.  So what is known of the others fades with every question (BIND's rule): one that
was slow once is tried again, hedged, after some hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol, TypeVar

LEAST_PATIENCE, MOST_PATIENCE, UNKNOWN = 0.025, 0.4, 0.15
"""Seconds for which the first one is asked alone; the last is for one that was never heard."""
LATE_IN_A_ROW: Final = 3
SHORTEST_REST, LONGEST_REST = 1.0, 30.0
_FADING: Final = 0.98
_SLOWEST: Final = 5.0


class Health:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.smoothed: float | None = None
        """Seconds; None: not heard yet."""
        self._variation = 0.0
        self._silences = 0
        self._rests = 0
        self.rests_until = 0.0
        self._probed = True

    def answered(self, seconds: float) -> None:
        if self.smoothed is None:
            self.smoothed, self._variation = seconds, seconds / 2
        else:
            self._variation += (abs(seconds - self.smoothed) - self._variation) / 4
            self.smoothed += (seconds - self.smoothed) / 8
        self._silences = self._rests = 0
        self.rests_until, self._probed = 0.0, True

    def late(self, seconds: float) -> None:
        """It has not answered in so many seconds, and is not waited for any longer."""
        self.smoothed = min(max(self.smoothed or 0.0, seconds) * 1.5, _SLOWEST)
        self._silences += 1
        if self._silences >= LATE_IN_A_ROW:
            self.failed()

    def failed(self) -> None:
        now = self._clock()
        if self.rests_until <= now:
            self.rests_until = now + min(SHORTEST_REST * 2**self._rests, LONGEST_REST)
            self._rests = min(self._rests + 1, 10)
            self._probed = False

    def fade(self) -> None:
        if self.smoothed is not None:
            self.smoothed *= _FADING

    @property
    def patience(self) -> float:
        """Seconds until somebody else is asked, too."""
        if self.smoothed is None:
            return UNKNOWN
        return min(max(self.smoothed + 4 * self._variation, LEAST_PATIENCE), MOST_PATIENCE)

    @property
    def resting(self) -> bool:
        """It failed and has not answered since: the last resort."""
        return self._rests > 0

    def probe(self) -> bool:
        """Whether its rest is over and one question shall find out how it is; True once a rest."""
        if self._probed or self._clock() < self.rests_until:
            return False
        self._probed = True
        return True


class HasHealth(Protocol):
    @property
    def health(self) -> Health: ...


Server = TypeVar("Server", bound=HasHealth)


def ranked(servers: Iterable[Server]) -> list[Server]:
    """Best first.  One that was never heard comes before a slow one and after a fast one; equals stay in their order."""

    def rank(server: Server) -> tuple[bool, float]:
        health = server.health
        if health.resting:
            return True, health.rests_until
        return False, UNKNOWN if health.smoothed is None else health.smoothed

    return sorted(servers, key=rank)
