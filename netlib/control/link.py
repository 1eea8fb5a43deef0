"""A control connection that threads share: every one asks when it likes, and whoever waits reads for all.

    thread A: send, wait --reads--> answer of B -> told to B --> answer of A -> done
    thread B: send, wait ..............'

No lock is held from a question to its answer: sending holds one for as long as the frame takes, and of those who wait one
reads, wakes the others when something was theirs, and gives the reading up when it has its own.  So a question that takes
its time (``stats``, a crew) holds up nobody, and there is no thread that would have to be ended.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time

from .. import ipc
from ..errors import InvalidArgument
from ..ipc import Message
from .questions import Frame, Questions


class Broken(Exception):
    """The connection is of no more use.  *is_late*: because no answer came in time."""

    def __init__(self, reason: object, *, is_late: bool = False) -> None:
        super().__init__(str(reason))
        self.is_late = is_late


class _Call:
    """What a thread waits for; guarded by the link's condition."""

    def __init__(self) -> None:
        self._answer: Frame | None = None
        self._error: BaseException | None = None

    def set_result(self, result: Frame, /) -> None:
        self._answer = result

    def set_exception(self, exception: BaseException, /) -> None:
        self._error = exception

    def done(self) -> bool:
        return self._answer is not None or self._error is not None

    def answer(self) -> Frame:
        if self._answer is None:
            raise Broken(self._error)
        return self._answer

    def drop(self) -> None:
        for fd in self._answer[1] if self._answer is not None else ():
            os.close(fd)


class Link:
    def __init__(self, path: str, timeout: float) -> None:
        """Connect to *path*.  OSError when nobody listens there.  *timeout*: seconds for each question."""
        self._channel = ipc.connect(path, timeout)
        self._timeout = timeout
        self._sending = threading.Lock()
        self._state = threading.Condition()
        self._questions = Questions()
        self._users, self._reading, self.is_broken = 0, False, False

    def request(self, message: Message, fds: list[int]) -> Frame:
        """The answer to *message*, refusals too; the caller owns its descriptors.  Broken when none can come any more."""
        end = time.monotonic() + self._timeout
        call = _Call()
        with self._state:
            if self.is_broken:
                raise Broken("the connection was closed")
            self._users += 1
            tagged = self._questions.ask(message, call)
        answer: Frame | None = None
        try:
            self._send(tagged, fds, end)
            self._await(call, end)
            answer = call.answer()
            return answer
        finally:
            with self._state:
                self._questions.forget(tagged)
                if answer is None:
                    call.drop()
                self._users -= 1
                if self.is_broken and not self._users:
                    self._channel.close()

    def close(self) -> None:
        """Those who wait are told; the descriptor is closed when the last has left."""
        self._break("the connection was closed")
        with self._state:
            if not self._users:
                self._channel.close()

    def _break(self, reason: object) -> None:
        with self._state:
            if not self.is_broken:
                self.is_broken = True
                try:
                    self._channel.sock.shutdown(socket.SHUT_RDWR)  # wakes whoever reads
                except OSError:
                    pass  # the other end has gone already
            self._questions.fail(str(reason))
            self._state.notify_all()

    def _send(self, message: Message, fds: list[int], end: float) -> None:
        if not self._sending.acquire(timeout=max(end - time.monotonic(), 0)):
            raise Broken("it takes no questions", is_late=True)
        try:
            self._channel.send(message, fds)
        except ipc.ProtocolError as error:  # too large: nothing of it was sent
            raise InvalidArgument(str(error)) from error
        except BaseException as error:
            # interrupted or failed within a frame
            self._break(error)
            if isinstance(error, OSError):
                raise Broken(error, is_late=isinstance(error, TimeoutError)) from error
            raise
        finally:
            self._sending.release()

    def _await(self, call: _Call, end: float) -> None:
        while True:
            with self._state:
                while not call.done() and self._reading:
                    if not self._state.wait(end - time.monotonic()):
                        break
                if call.done():
                    return
                if time.monotonic() >= end:
                    break
                self._reading = True
            try:
                self._read(end)
            finally:
                with self._state:
                    self._reading = False
                    self._state.notify_all()
        self._break("no answer came in time")
        raise Broken(f"no answer in {self._timeout:g} s", is_late=True)

    def _read(self, end: float) -> None:
        """Wait for something to read, until *end*, and tell those whom it is for."""
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        if not poll.poll(max(end - time.monotonic(), 0) * 1000):
            return
        try:
            frames, is_open = self._channel.read()
        except (OSError, ipc.ProtocolError) as error:
            self._break(error)
            return
        with self._state:
            self._questions.answered(frames)
        if not is_open:
            self._break("it closed the connection")
