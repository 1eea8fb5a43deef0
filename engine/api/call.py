"""One API call: what a handler sees of a request, and what it answers with.

Parsing here follows moby's daemon/server/httputils: booleans in a query are false only as "", "0", "no", "false" and
"none"; a JSON body needs its content type, holds exactly one value and no more than ``MAX_JSON`` bytes; an empty body
is an empty object.  Every mistake of the client is an InvalidArgument, never a 500.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from ...netlib.errors import InvalidArgument
from ...netlib.version import __version__
from ..filters import Filters
from ..versions import API_VERSION, Version, version_text

if TYPE_CHECKING:
    from ..compose import Engine

MAX_JSON = 4 << 20
"""Largest JSON body in bytes; the largest real ones (a compose project's create) are some kilobytes."""

MAX_INT = (1 << 31) - 1
"""Largest number in a query that means something to us: seconds, entries, rows."""
T = TypeVar("T")


def base_headers() -> CIMultiDict[str]:
    """Headers that every answer carries."""
    return CIMultiDict(
        {
            "Api-Version": version_text(API_VERSION),
            "Docker-Experimental": "false",
            "Ostype": "linux",
            "Server": f"pynet/{__version__} (linux)",
        }
    )


def error_body(message: str, hint: str = "") -> dict[str, str]:
    """Docker's error object; ``hint`` is an addition that its clients pass over."""
    return {"message": message, "hint": hint} if hint else {"message": message}


def json_response(value: Any, status: int = 200) -> web.Response:
    """The content type has no charset: Docker's client compares it literally."""
    body = json.dumps(value, separators=(",", ":")).encode() + b"\n"
    return web.Response(body=body, status=status, headers=base_headers(), content_type="application/json")


def _clean(name: str, value: str) -> str:
    if "\0" in value:
        raise InvalidArgument(f"invalid value for {name}: it has NUL bytes")
    return value


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def whole_number(text: str, *, least: int, most: int, prefix: str) -> int:
    """Strictly digits and a sign: int() would take "1_000", blanks and digits of other scripts, too."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise InvalidArgument(f"{prefix}invalid syntax", hint="give a whole number")
    if len(text) > 20 or not least <= int(text) <= most:
        raise InvalidArgument(f"{prefix}value out of range", hint=f"give a whole number from {least} to {most}")
    return int(text)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is out of range")
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)
"""Python's takes NaN and Infinity, which are no JSON: an inspect that showed them again could be read by nobody."""


class Call:
    """A request on its way through a handler."""

    def __init__(self, engine: Engine, http: web.BaseRequest, version: Version, params: dict[str, str]) -> None:
        self.engine = engine
        self.http = http
        self.version = version
        self.params = params
        self.begun = False
        """Whether the answer has a head already: what fails afterwards can not be told by a status any more."""

    def __getitem__(self, name: str) -> str:
        return self.params[name]

    # -- query -----------------------------------------------------------------------------------------------

    def text(self, name: str, default: str = "") -> str:
        return _clean(name, self.http.query.get(name, default))

    def texts(self, name: str) -> list[str]:
        return [_clean(name, value) for value in self.http.query.getall(name, [])]

    def flag(self, name: str, default: bool = False) -> bool:
        """httputils.BoolValueOrDefault."""
        value = self.http.query.get(name)
        if value is None:
            return default
        return value.strip().lower() not in ("", "0", "no", "false", "none")

    def integer(self, name: str, *, most: int = MAX_INT, least: int = -MAX_INT) -> int | None:
        """A whole number, or None when the parameter is absent or empty; the words of a refusal are Go's."""
        text = self.text(name)
        if not text:
            return None
        return whole_number(text, least=least, most=most, prefix=f"strconv.Atoi: parsing {quoted(text)}: ")

    def filters(self) -> Filters:
        return Filters.parse(self.http.query.get("filters", ""))

    # -- body ------------------------------------------------------------------------------------------------

    async def raw_body(self, limit: int = MAX_JSON) -> bytes:
        body = bytearray()
        while chunk := await self.http.content.readany():
            body += chunk
            if len(body) > limit:
                raise InvalidArgument(f"the request body is larger than {limit} bytes")
        return bytes(body)

    async def json(self) -> dict[str, Any]:
        """The body as an object; {} when there is none."""
        body = await self.raw_body()
        if not body.strip():
            return {}
        encoding = self.http.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise InvalidArgument(f"unsupported Content-Encoding header ({encoding})", hint="send the body as it is")
        kind = self.http.headers.get("Content-Type", "")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise InvalidArgument(f"unsupported Content-Type header ({kind}): must be 'application/json'")
        try:
            text = body.decode()
            value, end = _DECODER.raw_decode(text.lstrip())
        except UnicodeDecodeError:
            raise InvalidArgument("invalid JSON: the body is not UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"invalid JSON: {error}") from None
        if text.lstrip()[end:].strip():
            raise InvalidArgument("unexpected content after JSON")
        if b"\\u" in body:
            try:
                json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                # half a surrogate pair is no text and can be no byte of an argument either (PEP 383 has the others)
                raise InvalidArgument("invalid JSON: a string has half a surrogate pair") from None
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise InvalidArgument("invalid JSON: the body must be an object")
        return value

    # -- work and answers ------------------------------------------------------------------------------------

    async def work(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run short synchronous work in the engine's bounded pool."""
        return await self.engine.pools.work(function, *args, **kwargs)

    async def change(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run what takes a container's lock or a network's turn, and so may wait for others."""
        return await self.engine.pools.change(function, *args, **kwargs)

    async def wait(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run synchronous work that may wait for a process or a stream."""
        return await self.engine.pools.wait(function, *args, **kwargs)

    async def acquire(self, function: Callable[..., T], *args: Any, release: Callable[[T], None]) -> T:
        """``work`` whose result somebody must own: *release* gets it (in any thread) when the client left meanwhile."""
        return await self.engine.pools.acquire(function, *args, release=release)

    def reply(self, value: Any, status: int = 200) -> web.Response:
        return json_response(value, status)

    def empty(self, status: int = 204) -> web.Response:
        return web.Response(status=status, headers=base_headers())

    async def stream(self, content_type: str, status: int = 200) -> web.StreamResponse:
        """An answer whose headers are with the client when this returns: in chunks, or to an HTTP/1.0 client until its end."""
        response = web.StreamResponse(status=status, headers=base_headers())
        response.content_type = content_type
        if self.http.version >= HttpVersion11:
            response.enable_chunked_encoding()
        else:
            response.force_close()
        self.begun = True
        await response.prepare(self.http)
        return response
