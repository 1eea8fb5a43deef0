"""The HTTP side of pynetd: finds the handler of a call, settles its API version, turns errors into answers.

    /v1.43/containers/web/json?size=1
      |       |
      |       `-- a table of (method, pattern) gives the handler; nothing fits: 404 "page not found"
      `-- optional; absent means the newest; out of range: 400 with Docker's words

aiohttp's low-level server is used, not its application layer: the Engine API's version prefix, its 404 for a wrong
method and its error objects differ from what that layer does by itself, and a table of our own is smaller and faster.
A connection that a client drops cancels its handler; work already handed to a thread runs to its end.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ...netlib.errors import InvalidArgument, NotFound, PynetError
from ..reserve import is_full, told
from ..versions import API_VERSION, MIN_API_VERSION, Version, version_text
from .call import Call, base_headers, error_body, json_response
from .hangup import Hangup
from .hijack import Hijacked

if TYPE_CHECKING:
    from ..compose import Engine

log = logging.getLogger(__name__)

Handler = Callable[[Call], Awaitable[web.StreamResponse]]
Route = tuple[str, str, Handler]
"""Method, pattern such as ``/containers/{id}/json`` ("{name:path}" takes slashes too), handler."""

_PREFIX = re.compile(r"/v(\d{1,4})\.(\d{1,4})(?=/|$)")
_PLACE = re.compile(r"\{(\w+)(:path)?\}")


def negotiate(path: str) -> tuple[Version, str]:
    """Split the version prefix off a path; InvalidArgument when the version is outside what is served."""
    match = _PREFIX.match(path)
    if match is None:
        return API_VERSION, path
    version = int(match[1]), int(match[2])
    if version < MIN_API_VERSION:
        raise InvalidArgument(
            f"client version {version_text(version)} is too old. Minimum supported API version is "
            f"{version_text(MIN_API_VERSION)}, please upgrade your client to a newer version"
        )
    if version > API_VERSION:
        raise InvalidArgument(
            f"client version {version_text(version)} is too new. "
            f"Maximum supported API version is {version_text(API_VERSION)}"
        )
    return version, path[match.end() :] or "/"


class Router:
    """Routes by method and first path segment, then by pattern."""

    def __init__(self, routes: list[Route]) -> None:
        self._table: dict[tuple[str, str], list[tuple[re.Pattern[str], Handler]]] = {}
        for method, pattern, handler in routes:
            expression = _PLACE.sub(
                lambda m: f"(?P<{m[1]}>{'.+' if m[2] else '[^/]+'})", re.sub(r"\.", r"\\.", pattern)
            )
            key = method, pattern.split("/")[1]
            self._table.setdefault(key, []).append((re.compile(expression), handler))

    def find(self, method: str, path: str) -> tuple[Handler, dict[str, str]] | None:
        first = path.split("/")[1] if path.startswith("/") else ""
        for pattern, handler in self._table.get((method, first), ()):
            match = pattern.fullmatch(path)
            if match is not None:
                return handler, match.groupdict()
        return None


def error_response(error: BaseException, root: Path) -> web.Response:
    """The answer to a failed call."""
    error = told(error, root)
    if isinstance(error, PynetError):
        status, body = error.status, error_body(str(error), error.hint)
    else:
        status, body = (
            500,
            error_body(
                f"{type(error).__name__}: {error}", "the engine's log says more: pynetd.log in its run directory"
            ),
        )
    if status in (204, 304):
        return web.Response(status=status, headers=base_headers())
    return json_response(body, status)


class _Protocol(web.RequestHandler):
    """A connection.  What is not HTTP is answered as every error is, and is no news for the log."""

    _hangup: Hangup | None = None

    @property
    def half_closed(self) -> bool:
        """Whether the client has sent its last byte."""
        return self._hangup is not None

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp's says None, which closes
        """A client may close its half as soon as it has asked; the answer is owed to it until it closes the other."""
        waiting = self._waiter is not None and not self._messages
        if waiting or not isinstance(self.transport, asyncio.Transport):
            return False
        try:
            if self._parser is not None:
                self._parser.feed_eof()
        except Exception:
            return False  # in the middle of a body: nothing can be answered
        self._close = True  # after this answer
        self._hangup = Hangup(self.transport)
        return self._hangup.half_closed()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._hangup is not None:
            self._hangup.close()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status != 400:
            return super().handle_error(request, status, exc, message)
        text = (getattr(exc, "message", "") or message or "not HTTP").splitlines()[0].rstrip(":")
        response = json_response(error_body(f"malformed request: {text}"), status)
        response.force_close()
        return response


class Server:
    """The listening side: give it a bound socket."""

    def __init__(self, engine: Engine, routes: list[Route]) -> None:
        self.engine = engine
        self._root = engine.core.instance.root
        self._router = Router(routes)
        self._server = web.Server(self._handle, handler_cancellation=True)

    async def start(self, sock: object) -> asyncio.AbstractServer:
        loop = asyncio.get_running_loop()

        options: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": 300,
            "tcp_keepalive": False,
            "auto_decompress": False,  # as Docker's server: a small body can not become a large one
            "max_line_size": 64 << 10,
            "max_field_size": 64 << 10,
        }

        def connection() -> _Protocol:
            return _Protocol(self._server, loop=loop, **options)

        return await loop.create_unix_server(connection, sock=sock, backlog=1024)  # type: ignore[arg-type]

    async def stop(self) -> None:
        """Drop every connection, streams included."""
        await self._server.shutdown(timeout=1)

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        call: Call | None = None
        try:
            version, path = negotiate(unquote(http.rel_url.raw_path))  # "%2F" in an image's name is a slash
            found = self._router.find(http.method, path)
            if found is None:
                raise NotFound("page not found")
            handler, params = found
            call = Call(self.engine, http, version, params)
            return await handler(call)
        except PynetError as error:
            return self._failed(call, error)
        except HttpProcessingError as error:
            return error_response(InvalidArgument(f"malformed request: {error.message}"), self._root)
        except Exception as error:
            if isinstance(error, ConnectionError) and (http.transport is None or http.transport.is_closing()):
                return Hijacked()  # the client left: there is nobody to answer, and nothing to tell in the log
            if not is_full(error):  # which is told to the client, and would fill the log as well
                log.exception("%s %s", http.method, http.path)
            return self._failed(call, error)

    def _failed(self, call: Call | None, error: Exception) -> web.StreamResponse:
        """Its status and text; once the answer has begun, its end in the middle, which no client takes for all of it."""
        if call is None or not call.begun:
            return error_response(error, self._root)
        http = call.http
        log.error("%s %s is cut off: %s", http.method, http.path, error)
        if http.transport is not None:
            http.transport.abort()
        return Hijacked()
