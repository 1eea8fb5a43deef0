"""Servers that tell who answers, and whom: a test sees both ends of a translation."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress

from pynet.plugins.testhost import Namespace


class Servers:
    """TCP and UDP servers of all containers in one thread; each answers "name address-of-the-client"."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._names: dict[int, str] = {}
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def serve(self, name: str, namespace: Namespace, port: int, address: str = "::") -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            sock = namespace.socket(family, kind)
            sock.bind((address, port))
            sock.setblocking(False)
            if kind == socket.SOCK_STREAM:
                sock.listen()
            self._names[sock.fileno()] = name
            self._selector.register(sock, selectors.EVENT_READ, sock)

    def close(self) -> None:
        self._wake.send(b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        self._wake.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                self._answer(key.data, self._names[key.fd])

    def _answer(self, sock: socket.socket, name: str) -> None:
        if sock.type == socket.SOCK_DGRAM:
            _, peer = sock.recvfrom(64)
            sock.sendto(self._text(name, peer), peer)
        else:
            connection, peer = sock.accept()
            with connection, suppress(ConnectionError):  # who asked may have given up
                connection.send(self._text(name, peer))

    @staticmethod
    def _text(name: str, peer: tuple[str, int]) -> bytes:
        return f"{name} {peer[0].removeprefix('::ffff:')}".encode()
