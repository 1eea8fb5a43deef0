"""Talking to a process by its control socket, from threads: connect when it is first needed, and again after it broke.

A request whose connection broke is sent once more, which every operation allows.  When nobody listens at the path, or the answer
does not come in time, errors.Unavailable says so; what is refused is raised as the class it names.  No thread waits for
another's answer (link.py).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from .. import errors
from ..ipc import Message
from .link import Broken, Link
from .questions import Frame, result

TIMEOUT = 10.0
"""Seconds until an answer counts as missing."""


class Asker:
    def __init__(self, path: str, timeout: float = TIMEOUT, *, what: str) -> None:
        """*what* the process is called in errors: "the forwarder"."""
        self.path, self._timeout, self._what = path, timeout, what
        self._lock = threading.Lock()
        """Over the choice of the link, never over a question."""
        self._link: Link | None = None

    def ask(self, message: Message) -> Message:
        return self.request([(message, [])])[0]

    def request(self, frames: Sequence[Frame], *, takes_descriptors: bool = False) -> Frame:
        """The last answer to *frames*, which are one request; a refusal of any is raised."""
        for attempt in range(2):
            try:
                link = self._connected()
                for message, fds in frames[:-1]:
                    result(link.request(message, fds))
                return result(link.request(*frames[-1]), takes_descriptors=takes_descriptors)
            except (Broken, ConnectionError) as error:
                # an idle connection may have lost its other end long ago: that is seen only now
                if attempt or (isinstance(error, Broken) and error.is_late):
                    raise self._unavailable(error) from error
            except OSError as error:
                raise self._unavailable(error) from error
        raise AssertionError("two attempts return or raise")

    def close(self) -> None:
        """Close the connection; the next request makes a new one."""
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()

    def _connected(self) -> Link:
        with self._lock:
            if self._link is not None and self._link.is_broken:
                self._link.close()
                self._link = None
            if self._link is None:
                self._link = Link(self.path, self._timeout)
            return self._link

    def _unavailable(self, reason: object) -> errors.Unavailable:
        return errors.Unavailable(f"{self._what} at {self.path} does not answer: {reason}")
