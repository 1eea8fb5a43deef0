"""A running container's output in the supervisor's loop: its streams, its log, and the timers between them."""

from __future__ import annotations

import select

from . import logs, spawn
from .loop import Loop, Timer
from .records import Record

_Stream = logs.FifoStream | logs.TerminalStream


class Output:
    """Made at each start, and by a supervisor that takes over; ``close`` it after the exit."""

    def __init__(self, loop: Loop, peek: logs.Peek, record: Record, log: str) -> None:
        self.master = -1
        """The terminal, which is ours once it is added."""
        self._loop, self._peek, self._record = loop, peek, record
        self._log = logs.Log(log, record.path("journal"))
        self._streams: list[_Stream] = []
        self._timers: dict[int, Timer] = {}
        self._turns: set[int] = set()
        """Streams that wait for their turn, by descriptor."""

    @property
    def descriptors(self) -> list[int]:
        return [stream.fd for stream in self._streams]

    def add_fifos(self) -> None:
        for file, name in (("out", "stdout"), ("err", "stderr")):
            self._add(logs.FifoStream(self._record.path(file), name, self._log, self._peek))

    def add_terminal(self, master: int) -> None:
        self._add(logs.TerminalStream(master, spawn.open_terminal, self._log))
        self.master = master

    def _add(self, stream: _Stream) -> None:
        stream.recover()
        self._streams.append(stream)
        # the edge comes at once when there is something already
        self._loop.add(stream.fd, lambda _: self._wants_turn(stream), select.EPOLLIN | select.EPOLLET)

    def _wants_turn(self, stream: _Stream) -> None:
        if stream.fd in self._turns:
            return
        self._turns.add(stream.fd)

        def turn() -> None:
            if stream in self._streams:  # else it was closed meanwhile
                self._turns.discard(stream.fd)
                self._pump(stream, False)

        self._loop.soon(turn)

    def _pump(self, stream: _Stream, partial: bool) -> None:
        again = stream.pump(partial=partial)
        waiting = self._timers.get(stream.fd)
        if again == logs.PARTIAL_SECONDS:
            if waiting is None:  # else the beginning of a line has been waiting already

                def due() -> None:
                    self._timers.pop(stream.fd, None)
                    self._pump(stream, True)

                self._timers[stream.fd] = self._loop.later(logs.PARTIAL_SECONDS, due)
            return
        if waiting is not None:
            waiting.cancel()
            del self._timers[stream.fd]
        if again is not None:
            self._wants_turn(stream)

    def drain(self) -> None:
        """Log what is left of an ended container's output."""
        for stream in self._streams:
            stream.drain()

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._turns.clear()
        for stream in self._streams:
            self._loop.discard(stream.fd)
            stream.close()
        self._streams = []
        self._log.close()
        self.master = -1
