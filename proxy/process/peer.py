"""A control connection under asyncio: many questions at a time, each answered by its tag.

    request(message) -> {"op": ..., "tag": 7} -> ... -> {"ok": ..., "tag": 7} -> the future of 7

For who starts a forwarder and holds the other end of a socket pair: the crew (crew.py) and programs (api.py).  In
netlib/control/, link.py is the one for threads, questions.py what both are made of.  When the other end goes away, or says
what is no frame, every question that waits fails with errors.Unavailable, and so does every later one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable

from ...netlib.control.questions import Frame, Questions
from ...netlib.errors import InvalidArgument, Unavailable
from ...netlib.ipc import Channel, Message, ProtocolError, TooFewDescriptors

_GONE = "the forwarder has ended"


class Peer:
    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, on_end: Callable[[], None] | None = None
    ) -> None:
        """Owns *sock*.  *on_end* is called once, when the other end has gone; not after ``close``."""
        sock.setblocking(False)
        self._loop, self._channel, self._on_end = loop, Channel(sock), on_end
        self._questions = Questions()
        self._open = True
        loop.add_reader(sock.fileno(), self._on_readable)

    def request(self, message: Message, fds: Iterable[int] = ()) -> asyncio.Future[Frame]:
        """The answer to *message*, refusals too, and its descriptors, which the caller owns.

        *fds* are copied before this returns.  The future's error is Unavailable when the other end has gone,
        InvalidArgument for a message that is too large.
        """
        future: asyncio.Future[Frame] = self._loop.create_future()
        if not self._open:
            future.set_exception(Unavailable(_GONE))
            return future
        tagged = self._questions.ask(message, future)
        try:
            if not self._channel.queue(tagged, list(fds)):
                self._loop.add_writer(self._channel.fileno(), self._on_writable)
        except ProtocolError as error:
            self._questions.forget(tagged)
            future.set_exception(InvalidArgument(str(error)))
        except TooFewDescriptors as error:
            self._questions.forget(tagged)
            future.set_exception(Unavailable(str(error)))
        except OSError:
            self._end()
        return future

    def close(self) -> None:
        self._on_end = None
        self._end()

    def _end(self) -> None:
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_writer(self._channel.fileno())
        self._channel.close()
        self._questions.fail(_GONE)
        if self._on_end is not None:
            self._on_end()

    def _on_readable(self) -> None:
        try:
            frames, is_open = self._channel.drain()
        except (ProtocolError, OSError):
            frames, is_open = [], False
        self._questions.answered(frames)
        if not is_open:
            self._end()

    def _on_writable(self) -> None:
        try:
            if self._channel.flush():
                self._loop.remove_writer(self._channel.fileno())
        except OSError:
            self._end()
