"""Talking to the name server of a run directory from threads: what the library asks of whoever serves names (netlib/naming.py).

    names = NamesClient(run)                 or launch.start(run), which starts the server when it is first needed
    Controller(root, run, names=names)

Thread-safe; how it asks, and what it raises when nobody answers: netlib/control/asker.py.  With a *starter*, a server that
does not run is started when there is something to serve or to tell; what only takes away, or looks, finds nothing then.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ...netlib.control.asker import TIMEOUT, Asker
from ...netlib.control.questions import Frame
from ...netlib.errors import Unavailable
from ...netlib.ipc import Message
from ...netlib.naming import Names, Sockets, View
from . import messages

SOCKET = "names.sock"


class Queried(NamedTuple):
    """What a sandbox was answered."""

    reply: bytes | None
    """The message; None when nothing was said."""
    source: str
    """From where: hosts, network NAME, cache, which upstream, or the rule that it is by."""
    seconds: float
    code: str = ""
    """NOERROR, NXDOMAIN, ...; of ``lookup``, as its records are."""
    lines: tuple[str, ...] = ()
    """The records of the answer, each as in a zone file."""


class NamesClient(Asker):
    def __init__(
        self, run: str | os.PathLike[str], timeout: float = TIMEOUT, *, starter: Callable[[], None] | None = None
    ) -> None:
        super().__init__(os.path.join(run, SOCKET), timeout, what="the name server")
        self.starter = starter
        self._starting = threading.Lock()

    # -- netlib/naming.py: NameServer ------------------------------------------------------------------------

    def serve(self, sandboxes: Iterable[Sockets]) -> None:
        for frame in messages.serve(sandboxes):
            self._surely(frame)

    def withdraw(self, sandboxes: Iterable[str]) -> None:
        ids = list(sandboxes)
        if ids:
            self._if_there({"op": "withdraw", "ids": ids})

    def fetch(self) -> Sequence[Sockets]:
        found: list[Sockets] = []
        after, more = "", True
        try:
            while more:
                answer = self._if_there(messages.page_of("fetch", after), takes_descriptors=True)
                if answer is None:
                    break
                reply, fds = answer
                socks = [socket.socket(fileno=fd) for fd in fds]
                found += [
                    Sockets(id, udp, tcp) for id, udp, tcp in zip(reply["ids"], socks[::2], socks[1::2], strict=True)
                ]
                more = reply["more"]
                after = found[-1].sandbox if found else ""
        except BaseException:
            for one in found:
                one.close()
            raise
        return found

    @property
    def served(self) -> frozenset[str]:
        return frozenset(id for page in self._pages("fetch", sockets=False) for id in page["ids"])

    def tell(
        self,
        views: Iterable[View] = (),
        names: Iterable[Names] = (),
        gone_views: Iterable[str] = (),
        gone_endpoints: Iterable[str] = (),
    ) -> None:
        views, names = list(views), list(names)
        for frame in messages.tell(views, names, gone_views, gone_endpoints):
            if views or names:
                self._surely(frame)
            else:
                self._if_there(frame[0])

    def told(self) -> tuple[Sequence[View], Sequence[Names]]:
        views = [messages.parse_view(body) for page in self._pages("views") for body in page["told"]]
        names = [messages.parse_names(body) for page in self._pages("names") for body in page["told"]]
        return views, names

    # -- looking in --------------------------------------------------------------------------------------------

    def query(self, sandbox: str, data: bytes, *, tcp: bool = False) -> Queried:
        """Ask *data*, a whole message, as the sandbox would; NotFound when names are not served in it."""
        reply = self.ask({"op": "query", "sandbox": sandbox, "message": data.hex(), "tcp": tcp})
        said = reply["reply"]
        return Queried(bytes.fromhex(said) if said is not None else None, str(reply["source"]), float(reply["seconds"]))

    def lookup(self, sandbox: str, name: str, type: str = "A", *, tcp: bool = False) -> Queried:
        """``query`` for who has no message: InvalidArgument where there is no such name or type."""
        reply = self.ask({"op": "query", "sandbox": sandbox, "name": name, "type": type, "tcp": tcp})
        return Queried(
            bytes.fromhex(reply["reply"]) if reply["reply"] is not None else None,
            str(reply["source"]),
            float(reply["seconds"]),
            str(reply["code"]),
            tuple(reply["lines"]),
        )

    def stats(self) -> dict[str, dict[str, int]]:
        """What is counted (names/counters.py), by sandbox; nothing when no server runs."""
        answer = self._if_there({"op": "stats"})
        found: dict[str, dict[str, int]] = answer[0]["sandboxes"] if answer is not None else {}
        return found

    def log(self, fd: int, sandbox: str = "") -> None:
        """Have every question of a sandbox, or of all, written to *fd*, a pipe, as a line of JSON (log.py), until its reader
        goes."""
        self.request([({"op": "log", "sandbox": sandbox}, [fd])])

    def ping(self) -> int:
        """The server's process id; Unavailable when none runs."""
        return int(self.ask({"op": "ping"})["pid"])

    def shutdown(self) -> None:
        """End the server.  None is running: no error."""
        self._if_there({"op": "shutdown"})
        self.close()

    # -- requests ----------------------------------------------------------------------------------------------

    def _surely(self, frame: Frame) -> Frame:
        """Ask, and where nobody is there have one started and ask again."""
        try:
            return self.request([frame])
        except Unavailable:
            if self.starter is None or not self._is_away():
                raise
            with self._starting:
                if self._is_away():
                    self.starter()
            return self.request([frame])

    def _if_there(self, message: Message, *, takes_descriptors: bool = False) -> Frame | None:
        """None when no server runs."""
        try:
            return self.request([(message, [])], takes_descriptors=takes_descriptors)
        except Unavailable:
            if self._is_away():
                return None
            raise

    def _pages(self, op: str, **more: bool) -> Iterable[Message]:
        after = ""
        while True:
            answer = self._if_there({**messages.page_of(op, after), **more})
            if answer is None:
                return
            page = answer[0]
            yield page
            if not page["more"]:
                return
            after = page["ids"][-1]

    def _is_away(self) -> bool:
        """Whether nobody listens; one that is there and slow is not away."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                sock.connect(self.path)
            except (FileNotFoundError, ConnectionRefusedError):
                return True
            except OSError:
                return False
        return False
