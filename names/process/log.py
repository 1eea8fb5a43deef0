"""The query log: a line of JSON for each question, to whoever asked for it and as long as that one reads.

    Server.log --Entry--> line --> a pipe of each reader, never waited for: who reads too slowly is told how many it missed

    {"time": unix seconds, "sandbox", "name", "type", "tcp", "source": from where the answer is, "code": "NOERROR", "seconds"}

While anybody reads, nothing is answered from memos (names/server.py), so that every question is seen; with nobody, it costs
nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

from ..presentation import type_name
from ..server import Entry, Server

READERS = 16
CODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")
"""RFC 1035 4.1.1."""


class _Reader:
    def __init__(self, fd: int, sandbox: str) -> None:
        self.fd, self.sandbox, self.missed = fd, sandbox, 0


class Log:
    def __init__(self, loop: asyncio.AbstractEventLoop, server: Server) -> None:
        self._loop, self._server = loop, server
        self._readers: list[_Reader] = []

    def add(self, fd: int, sandbox: str) -> None:
        """Write to *fd*, which is taken, what this sandbox asks, or ("") what all of them do."""
        os.set_blocking(fd, False)
        if len(self._readers) >= READERS:
            self._drop(self._readers[0])
        reader = _Reader(fd, sandbox)
        self._readers.append(reader)
        self._loop.add_reader(fd, self._drop, reader)  # epoll tells the writing end when the reading one has gone
        self._server.log = self._note

    def close(self) -> None:
        for reader in list(self._readers):
            self._drop(reader)

    def _drop(self, reader: _Reader) -> None:
        self._readers.remove(reader)
        self._loop.remove_reader(reader.fd)
        os.close(reader.fd)
        if not self._readers:
            self._server.log = None

    def _note(self, entry: Entry) -> None:
        line = entry_body(entry)
        for reader in [one for one in self._readers if one.sandbox in ("", entry.sandbox)]:
            body = {**line, "missed": reader.missed} if reader.missed else line
            try:
                os.write(
                    reader.fd, json.dumps(body).encode() + b"\n"
                )  # at most PIPE_BUF, so whole or not at all (pipe(7))
                reader.missed = 0
            except BlockingIOError:
                reader.missed += 1
            except OSError:
                self._drop(reader)


def entry_body(entry: Entry) -> dict[str, Any]:
    question = entry.question
    return {
        "time": time.time(),
        "sandbox": entry.sandbox,
        "name": None if question is None else question.name.decode("ascii", "backslashreplace") + ".",
        "type": None if question is None else type_name(question.type),
        "tcp": entry.tcp,
        "source": entry.source,
        "code": None if entry.code is None else CODES[entry.code] if entry.code < len(CODES) else str(entry.code),
        "seconds": entry.seconds,
    }
