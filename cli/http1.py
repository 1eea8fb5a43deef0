"""HTTP/1.1 to one server over one stream socket: as much of RFC 9112 as the Engine API needs.

http.client costs 19 ms in a command that takes 23: it brings email and ssl, as heavy as all the rest together
(bench/bench_cli.py measures both).  What is here knows Content-Length, chunked, until-close and keep-alive, and
``101 Switching Protocols``, after which the socket is the caller's.  The socket is ``_socket``'s, which the ``socket``
module dresses with selectors and enums.

No error of the socket leaves this module as it is: a connection that broke is a ``ConnectionLost``, so that nobody can
take it for a broken stdout.
"""

from __future__ import annotations

from _socket import AF_UNIX

from ..netlib.errors import PynetError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Iterable, Iterator
    from typing import Any

_CHUNK = 65536
_HEAD_LIMIT = 65536
_LINE_LIMIT = 8192


class BadResponse(PynetError):
    """The server does not speak the Engine API."""

    hint = "is this the socket of an engine? `pynet info` shows which one is asked"


class ConnectionLost(PynetError):
    """The server closed the connection before the end of an answer.

    ``unsent``: it took nothing of the request, or not all of it.  ``unanswered``: it gave nothing of an answer; whether
    it did what it was asked to do is not known.
    """

    hint = "the engine went away; `pynet daemon status` and its log (pynetd.log in the run directory) say more"

    def __init__(self, message: str, *, unsent: bool = False, unanswered: bool = False) -> None:
        super().__init__(message)
        self.unsent, self.unanswered = unsent, unanswered


class EndOfStream(ConnectionLost):
    """It was closed in the orderly way, which is also how a body without a length ends."""


def _lost(error: OSError | None) -> str:
    why = f": {error.strerror}" if error is not None and error.strerror else ""
    return f"the engine closed the connection{why}"


class Connection:
    """One connection.  One response at a time: read it to its end before the next request."""

    def __init__(self, sock: socket) -> None:
        self.sock = sock
        self._buffer = bytearray()
        self.reusable = True
        self._answered = True
        self._sent = 0

    def close(self) -> None:
        self.sock.close()

    def is_open(self) -> bool:
        """Whether the server has neither closed this idle connection nor said something unasked."""
        from select import POLLIN, poll

        waiting = poll()
        waiting.register(self.sock, POLLIN)
        return not waiting.poll(0)

    def send(
        self,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] = b"",
        *,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send one request; a body that is not bytes is sent in chunks as it comes.

        ConnectionLost when the server took nothing of it.  One that closes in the middle may have said why: that is
        for ``receive`` to find out.
        """
        self._answered, self._sent = False, 0
        lines = [f"{method} {target} HTTP/1.1", "Host: pynet", "User-Agent: pynet"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if isinstance(body, bytes):
            if body or method in ("POST", "PUT"):
                lines.append(f"Content-Length: {len(body)}")
            self._send("\r\n".join([*lines, "", ""]).encode() + body)
            return
        if not self._send("\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode()):
            return
        for chunk in body:
            if chunk and not self._send(b"%x\r\n%b\r\n" % (len(chunk), chunk)):
                return
        self._send(b"0\r\n\r\n")

    def _send(self, data: bytes) -> bool:
        """Send all of *data*; False when the server closed, and an answer may be waiting."""
        view = memoryview(data)
        try:
            while view:
                count = self.sock.send(view)
                self._sent += count
                view = view[count:]
        except OSError as error:
            self.reusable = False
            if not self._sent:
                raise ConnectionLost(_lost(error), unsent=True, unanswered=True) from None
            return False
        return True

    def receive(self, *, head_only: bool = False) -> Response:
        """Wait for the head of the response; *head_only* when the request was HEAD."""
        while True:
            response = self._head(head_only)
            if response.status >= 200 or response.status == 101:
                return response

    def _head(self, head_only: bool) -> Response:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _HEAD_LIMIT:
                raise BadResponse("the answer's header is too long")
            self.fill()
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        version, _, rest = lines[0].partition(" ")
        code, _, reason = rest.partition(" ")
        if not version.startswith("HTTP/1.") or not code.isdecimal():
            raise BadResponse(f"the answer is not HTTP: {lines[0][:60]!r}")
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return Response(self, int(code), reason, headers, head_only=head_only)

    # -- for Response -------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Read more into the buffer; ConnectionLost at the end of the stream."""
        try:
            data = self.sock.recv(_CHUNK)
        except OSError as error:
            self.reusable = False
            # a Unix socket's reset says that its peer closed with something unread in it (unix_release_sock): a request
            # of which a part was not read was not carried out
            unread = isinstance(error, ConnectionResetError) and self.sock.family == AF_UNIX and not self._answered
            raise ConnectionLost(_lost(error), unsent=unread, unanswered=not self._answered) from None
        if not data:
            self.reusable = False
            raise EndOfStream(_lost(None), unanswered=not self._answered)
        self._answered = True
        self._buffer += data

    def take(self, most: int) -> bytes:
        """Between one and *most* bytes."""
        if not self._buffer:
            self.fill()
        data = bytes(self._buffer[:most])
        del self._buffer[:most]
        return data

    def line(self) -> bytes:
        """One line without its CRLF."""
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > _LINE_LIMIT:
                raise BadResponse("a line of the answer is too long")
            self.fill()
        data = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return data

    def leftover(self) -> bytes:
        """What came with the head of a 101 response: the first bytes of the new protocol."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data


class Response:
    """The head of a response, and its body as it comes."""

    def __init__(
        self, connection: Connection, status: int, reason: str, headers: dict[str, str], *, head_only: bool
    ) -> None:
        self.connection, self.status, self.reason, self.headers = connection, status, reason, headers
        self._empty = head_only or status in (101, 204, 304)  # RFC 9112, 6.3
        self.is_read = self._empty
        if headers.get("connection", "").lower() == "close":
            connection.reusable = False

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces, each as soon as it arrives."""
        if self._empty:
            return
        self._empty = True
        yield from self._body()
        self.is_read = True

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            yield from self._chunked()
        elif (length := self.headers.get("content-length")) is not None:
            if not length.isdecimal():
                raise BadResponse(f"Content-Length is not a number: {length!r}")
            yield from self._exactly(int(length))
        else:
            self.connection.reusable = False
            try:
                while True:
                    yield self.connection.take(_CHUNK)
            except EndOfStream:
                return  # this is how such a body ends; a connection that broke is another matter

    def _exactly(self, left: int) -> Iterator[bytes]:
        while left:
            data = self.connection.take(min(left, _CHUNK))
            left -= len(data)
            yield data

    def _chunked(self) -> Iterator[bytes]:
        while True:
            size = self.connection.line().partition(b";")[0].strip()
            try:
                length = int(size, 16)
            except ValueError:
                raise BadResponse(f"chunk size is not a number: {size[:20]!r}") from None
            if length == 0:
                while self.connection.line():
                    pass  # trailers
                return
            yield from self._exactly(length)
            self.connection.line()

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks())

    def json(self) -> Any:
        """The whole body as JSON; None when it is empty."""
        from .textjson import loads

        body = self.read()
        try:
            return loads(body) if body else None
        except ValueError:
            raise BadResponse(f"the answer is not JSON: {body[:60]!r}") from None

    def objects(self) -> Iterator[Any]:
        """A body of JSON objects one after the other (progress, events, statistics), each when it is complete.

        Docker's daemon separates them by CRLF, by LF or, in old versions, by nothing: so no splitting into lines.
        """
        from .textjson import NotJson, read_one

        text, pending = "", b""
        for chunk in self.chunks():
            pending += chunk
            try:
                piece, pending = pending.decode(), b""
            except UnicodeDecodeError as error:
                piece, pending = pending[: error.start].decode(), pending[error.start :]
            text = (text + piece).lstrip()
            while text:
                try:
                    value, end = read_one(text)
                except NotJson:
                    break
                text = text[end:].lstrip()
                yield value
        if text:
            raise BadResponse(f"the answer is not JSON: {text[:60]!r}")
