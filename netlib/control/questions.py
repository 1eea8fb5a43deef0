"""Questions on a control connection, and what is answered: frames with a tag that comes back, answers, refusals.

    Questions: {"op", ..., "tag": 7} ...  {"ok", ..., "tag": 7}  -> result(frame): the answer's fields, or the error

Both kinds of asker (threads: link.py; asyncio: proxy/process/peer.py) are made of this; server.py answers.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Protocol

from .. import errors
from ..ipc import Message

Frame = tuple[Message, list[int]]
"""A message and the descriptors that go with it."""

_CLASSES = {
    kind.__name__: kind
    for kind in (errors.InvalidArgument, errors.NotFound, errors.Conflict, errors.NotSupported, errors.Unavailable)
}


def refusal(reply: Message) -> errors.PynetError:
    """The error that an answer with ``"ok": false`` tells of."""
    kind = _CLASSES.get(str(reply.get("class")), errors.InternalError)
    return kind(str(reply.get("error")), hint=str(reply.get("hint") or ""))


def result(frame: Frame, *, takes_descriptors: bool = False) -> Frame:
    """An answer, if it is no refusal, which is raised.  Descriptors that nobody wants are closed."""
    reply, fds = frame
    accepted = reply.get("ok") is True
    if not accepted or not takes_descriptors:
        for fd in fds:
            os.close(fd)
        fds = []
    if not accepted:
        raise refusal(reply)
    return reply, fds


class Waiting(Protocol):
    """Who waits for an answer: an asyncio.Future, or what a thread waits for."""

    def set_result(self, result: Frame, /) -> None: ...
    def set_exception(self, exception: BaseException, /) -> None: ...
    def done(self) -> bool: ...


class Questions:
    """The questions of a connection that wait for their answers, by tag."""

    def __init__(self) -> None:
        self._waiting: dict[int, Waiting] = {}
        self._tags: Iterator[int] = itertools.count(1)

    def ask(self, message: Message, waiting: Waiting) -> Message:
        """*message* as it is to be sent; *waiting* is told its answer."""
        tag = next(self._tags)
        self._waiting[tag] = waiting
        return {**message, "tag": tag}

    def forget(self, message: Message) -> None:
        """It was not sent, or nobody waits any more; its answer, should one come, loses its descriptors."""
        self._waiting.pop(message["tag"], None)

    def answered(self, frames: Iterable[Frame]) -> None:
        for message, fds in frames:
            tag = message.pop("tag", None)
            waiting = self._waiting.pop(tag, None) if isinstance(tag, int) else None
            if waiting is not None and not waiting.done():
                waiting.set_result((message, fds))
            else:
                for fd in fds:
                    os.close(fd)

    def fail(self, reason: str) -> None:
        """No answer will come any more."""
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            if not one.done():
                one.set_exception(errors.Unavailable(reason))
