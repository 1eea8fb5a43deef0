"""What may be said on the name server's control socket: each operation, from a message's values to the server's.

Only the owner of the socket file (mode 0600) connects.  docs/dns.md has the table of messages.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Callable

from ...netlib.control.server import DONE, Answer, Caller, Server
from ...netlib.errors import InvalidArgument, NotFound
from ...netlib.ipc import Message
from .. import presentation
from ..forward import Forwarder
from ..server import Server as NameServer
from . import messages
from .log import Log
from .metrics import render, render_forwarding

_LARGEST = 65535
"""Bytes of a query."""


class ControlServer(Server):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        server: NameServer,
        stop: Callable[[], None],
        forwarder: Forwarder,
    ) -> None:
        super().__init__(loop, listener, what="pynet names")
        self._server, self._stop, self._forwarder = server, stop, forwarder
        self._log = Log(loop, server)
        self._past = Counter[str]()
        """What was counted of sandboxes that are gone."""
        self.operations |= {
            "serve": self._serve,
            "withdraw": self._withdraw,
            "fetch": self._fetch,
            "tell": self._tell,
            "views": self._views,
            "names": self._names,
            "stats": self._stats,
            "exposition": self._exposition,
            "log": self._logged,
            "ping": self._ping,
            "shutdown": self._shutdown,
        }
        self.slow |= {"query": self._query}

    def close(self) -> None:
        self._log.close()
        super().close()

    # -- sandboxes ---------------------------------------------------------------------------------------------

    def _serve(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        ids = messages.parse_list(message, "ids", lambda id: messages.text(id, "the id of a sandbox"))
        if len(fds) != 2 * len(ids):
            raise InvalidArgument(f"{len(ids)} sandboxes need {2 * len(ids)} descriptors, and {len(fds)} came")
        wanted: list[tuple[str, socket.socket, socket.socket]] = []
        made: list[socket.socket] = []
        try:
            for number, id in enumerate(ids):
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    made.append(_adopt(id, fds.pop(0), kind))
                wanted.append((id, made[2 * number], made[2 * number + 1]))
        except BaseException:
            for sock in made:
                sock.close()
            raise
        for id, udp, tcp in wanted:
            self._server.serve(id, udp, tcp)
        return DONE

    def _withdraw(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        for id in messages.parse_list(message, "ids", lambda id: messages.text(id, "the id of a sandbox")):
            self._close(id)
        return DONE

    def _close(self, id: str) -> None:
        try:
            self._past.update(self._server.of(id).counters.told())
        except KeyError:
            return
        self._server.withdraw(id)

    def _fetch(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        ids, more = messages.page_of_ids(self._server.served, *messages.parse_page(message))
        held = [self._server.sockets(id) for id in ids]
        numbers = [sock.fileno() for pair in held if pair is not None for sock in pair]
        return Answer({"ids": ids, "more": more}, numbers if message.get("sockets", True) else [])

    # -- what it answers by ------------------------------------------------------------------------------------

    def _tell(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        views = messages.parse_list(message, "views", messages.parse_view)
        gone = messages.parse_list(message, "gone_views", lambda id: messages.text(id, "the id of a sandbox"))
        self._server.tell(
            views,
            messages.parse_list(message, "names", messages.parse_names),
            gone,
            messages.parse_list(message, "gone_endpoints", lambda id: messages.text(id, "the id of an endpoint")),
        )
        for id in set(gone) - {view.sandbox for view in views}:
            self._close(id)
        return DONE

    def _views(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        known = {view.sandbox: view for view in self._server.zones.views()}
        ids, more = messages.page_of_ids(known, *messages.parse_page(message))
        return Answer({"ids": ids, "told": [messages.view_body(known[id]) for id in ids], "more": more}, [])

    def _names(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        known = {one.endpoint: one for one in self._server.zones.names()}
        ids, more = messages.page_of_ids(known, *messages.parse_page(message))
        return Answer({"ids": ids, "told": [messages.names_body(known[id]) for id in ids], "more": more}, [])

    # -- looking in --------------------------------------------------------------------------------------------

    async def _query(self, message: Message, fds: list[int]) -> Message:
        id, tcp = messages.text(message.get("sandbox"), "the id of a sandbox"), message.get("tcp", False)
        named = "name" in message
        try:
            if named:
                data = presentation.query(str(message["name"]), str(message.get("type", "A")))
            else:
                data = bytes.fromhex(str(message.get("message")))
        except ValueError as error:
            text = str(error) if named else "the message of a query is written in hexadecimal digits"
            raise InvalidArgument(text) from None
        if not 0 < len(data) <= _LARGEST:
            raise InvalidArgument(f"a query has from 1 to {_LARGEST} bytes")
        try:
            reply, entry = await self._server.query(id, data, tcp=bool(tcp))
        except KeyError:
            raise NotFound(f"names are not served in sandbox {id}") from None
        told: Message = {"source": entry.source, "seconds": entry.seconds}
        if named and reply is not None:
            told |= {"code": presentation.code_name(reply), "lines": presentation.lines(reply)}
        elif named:
            told |= {"code": "", "lines": []}
        return {"reply": reply.hex() if reply is not None else None, **told}

    def _stats(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        return Answer({"pid": os.getpid(), "sandboxes": self._server.counters()}, [])

    def _exposition(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        counted = Counter(self._past)
        for one in self._server.counters().values():
            counted.update(one)
        text = "".join((*render(counted, len(self._server.served)), *render_forwarding(self._forwarder)))
        return Answer({"text": text}, [])

    def _logged(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        sandbox = message.get("sandbox", "")
        if len(fds) != 1 or not isinstance(sandbox, str):
            raise InvalidArgument("log takes one descriptor to write to, and perhaps the id of a sandbox")
        self._log.add(fds.pop(), sandbox)
        return DONE

    def _ping(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        return Answer({"pid": os.getpid(), "sandboxes": len(self._server.served)}, [])

    def _shutdown(self, caller: Caller, message: Message, fds: list[int]) -> Answer:
        self._loop.call_soon(self._stop)
        return DONE


def _adopt(id: str, fd: int, kind: int) -> socket.socket:
    """The socket behind *fd*, which is taken.  InvalidArgument when it is none to be asked on."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        os.close(fd)
        raise InvalidArgument(f"a descriptor of sandbox {id} is not a socket") from error
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != kind or sock.getsockname()[1] == 0:
        sock.close()
        raise InvalidArgument(f"a sandbox has a UDP and a TCP socket that are bound, and {id} has another one")
    return sock
