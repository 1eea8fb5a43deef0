"""A server on a Unix socket that answers as a test says, and closes where a test says: what a client must live with.

    with ScriptedEngine(path, lambda request: Answer({"Id": "x"}, then="close")) as engine:
        ...
        assert engine.requests == ["POST /containers/create", ...]

Each connection has a thread; a request is its method and path, without version and query.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.waiting import PATIENCE


@dataclass
class Answer:
    """What is sent for a request, and what becomes of the connection.

    ``then``: "keep" it, "close" it after the answer, "cut" it in the middle of the answer, or close it "unanswered";
    "stream" switches protocols and hands the socket to ``stream``.
    """

    body: Any = None
    status: int = 200
    then: str = "keep"
    stream: Callable[[socket.socket], None] | None = None


@dataclass
class ScriptedEngine:
    path: Path
    script: Callable[[str], Answer]
    requests: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    """Of the requests, in the same order, as they were written."""
    connections: int = 0

    def __enter__(self) -> ScriptedEngine:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._arrived = threading.Condition()
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take no more, and wait until every connection has been served to its end; may be called again."""
        if self._closed:
            return
        self._closed = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(PATIENCE)
        self._listener.close()
        self.close_idle()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a connection of the scripted engine did not end"

    def close_idle(self, count: int = 0) -> None:
        """Close all connections that wait for a request, *count* at least, as an engine does after its idle time."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self._open) >= count, PATIENCE), self.requests
            for sock in self._open:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def wait_for(self, request: str, times: int = 1) -> None:
        """Until that request has come so often."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: self.requests.count(request) >= times, PATIENCE), self.requests

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as file:
            while True:
                with self._arrived:
                    self._open.append(sock)
                    self._arrived.notify_all()
                request, query = self._read(file)
                with self._arrived:
                    self._open.remove(sock)
                if not request:
                    return
                answer = self.script(request)
                with self._arrived:
                    self.requests.append(request)
                    self.queries.append(query)
                    self._arrived.notify_all()
                if answer.then == "unanswered":
                    return
                if answer.stream:
                    sock.sendall(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
                    answer.stream(sock)
                    return
                body = b"" if answer.body is None else json.dumps(answer.body).encode()
                head = f"HTTP/1.1 {answer.status} Text\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                if answer.then == "cut":
                    sock.sendall(head + body[: len(body) // 2])
                    return
                sock.sendall(head + body)
                if answer.then == "close":
                    return

    def _read(self, file: Any) -> tuple[str, str]:
        """One request without its body, and its query; "" at the end of the connection."""
        try:
            line = file.readline().decode()
        except OSError:
            return "", ""
        length = 0
        while (header := file.readline().strip().lower()) != b"":
            if header.startswith(b"content-length:"):
                length = int(header.partition(b":")[2])
        file.read(length)
        method, _, rest = line.partition(" ")
        path, _, query = rest.partition(" ")[0].partition("?")
        return (f"{method} /{path.split('/', 2)[2]}", query) if line else ("", "")
