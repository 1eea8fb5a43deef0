"""What is said on the name server's control connection, as values: views and names as JSON and back, in pages.

    tell(views, names, gone...) -> frames       serve(sandboxes) -> frames       parse_...: values again, or InvalidArgument

A change is one frame as long as it has no more than ``PAGE`` views and names, and takes effect whole; what is longer, everything
after a start, goes in several.  docs/dns.md has the table of messages.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ...netlib.control.questions import Frame
from ...netlib.errors import InvalidArgument
from ...netlib.ipc import Message
from ...netlib.naming import Names, Sockets, View

T = TypeVar("T")

PAGE = 4000
"""Views, names or sandboxes in a frame: 8,000 descriptors and a megabyte or two."""
LONGEST = 1024
"""Characters of a name or an id; the wire has 255 bytes, but what can not be asked for need not be refused."""


# -- saying it ------------------------------------------------------------------------------------------------------------


def tell(
    views: Iterable[View], names: Iterable[Names], gone_views: Iterable[str], gone_endpoints: Iterable[str]
) -> list[Frame]:
    parts: dict[str, list[Any]] = {
        "views": [view_body(view) for view in views],
        "names": [names_body(one) for one in names],
        "gone_views": list(gone_views),
        "gone_endpoints": list(gone_endpoints),
    }
    if sum(len(part) for part in parts.values()) <= PAGE:
        return [({"op": "tell", **{name: part for name, part in parts.items() if part}}, [])]
    return [
        ({"op": "tell", name: part[first : first + PAGE]}, [])
        for name, part in parts.items()
        for first in range(0, len(part), PAGE)
    ]


def serve(sandboxes: Iterable[Sockets]) -> list[Frame]:
    wanted = list(sandboxes)
    return [
        (
            {"op": "serve", "ids": [one.sandbox for one in some]},
            [fd for one in some for fd in (one.udp.fileno(), one.tcp.fileno())],
        )
        for some in (wanted[first : first + PAGE] for first in range(0, len(wanted), PAGE))
    ]


def view_body(view: View) -> Message:
    return {
        "sandbox": view.sandbox,
        "networks": view.networks,
        "hosts": view.hosts,
        "upstreams": view.upstreams,
        "search": view.search,
        "ndots": view.ndots,
        "outside": view.outside,
    }


def names_body(names: Names) -> Message:
    return {
        "endpoint": names.endpoint,
        "network": names.network,
        "network_name": names.network_name,
        "names": names.names,
        "addresses": names.addresses,
    }


# -- understanding it -----------------------------------------------------------------------------------------------------


def parse_view(body: Any) -> View:
    fields = _object(body, "a view")
    ndots, outside = fields.get("ndots"), fields.get("outside", True)
    if (ndots is not None and (not isinstance(ndots, int) or isinstance(ndots, bool))) or not isinstance(outside, bool):
        raise InvalidArgument("ndots of a view is a number or null, and outside true or false")
    hosts: list[tuple[str, tuple[str, ...]]] = []
    for entry in _list(fields.get("hosts", []), "hosts"):
        if not isinstance(entry, list) or len(entry) != 2:
            raise InvalidArgument("hosts of a view are pairs of a name and addresses")
        hosts.append((text(entry[0], "a host"), addresses(entry[1])))
    return View(
        text(fields.get("sandbox"), "the sandbox of a view"),
        texts(fields.get("networks", []), "networks"),
        tuple(hosts),
        addresses(fields.get("upstreams", [])),
        texts(fields.get("search", []), "search"),
        ndots,
        outside,
    )


def parse_names(body: Any) -> Names:
    fields = _object(body, "names")
    return Names(
        text(fields.get("endpoint"), "the endpoint of names"),
        text(fields.get("network"), "the network of names"),
        text(fields.get("network_name"), "the name of a network"),
        texts(fields.get("names", []), "names"),
        addresses(fields.get("addresses", [])),
    )


def parse_list(message: Message, key: str, parse: Callable[[Any], T]) -> list[T]:
    return [parse(entry) for entry in _list(message.get(key, []), key)]


def text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST:
        raise InvalidArgument(f"{what} must be a text of up to {LONGEST} characters")
    return value


def texts(value: Any, what: str) -> tuple[str, ...]:
    return tuple(text(entry, what) for entry in _list(value, what))


def addresses(value: Any) -> tuple[str, ...]:
    found = texts(value, "addresses")
    for one in found:
        try:
            ipaddress.ip_address(one)
        except ValueError:
            raise InvalidArgument(f"{one[:60]!r} is not an IP address") from None
    return found


def _object(body: Any, what: str) -> Message:
    if not isinstance(body, dict):
        raise InvalidArgument(f"{what} must be an object")
    return body


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidArgument(f"{what} must be a list")
    return value


# -- pages ----------------------------------------------------------------------------------------------------------------


def page_of(op: str, after: str) -> Message:
    """One page of a ``fetch`` or ``told``: what comes behind *after*, the last id of the page before."""
    return {"op": op, "limit": PAGE, "after": after}


def parse_page(message: Message) -> tuple[int, str]:
    limit, after = message.get("limit", PAGE), message.get("after", "")
    if not isinstance(limit, int) or isinstance(limit, bool) or not 0 < limit <= PAGE or not isinstance(after, str):
        raise InvalidArgument(f"limit must be from 1 to {PAGE}, and after an id")
    return limit, after


def page_of_ids(ids: Iterable[str], limit: int, after: str) -> tuple[list[str], bool]:
    """Ids of a page in order, and whether more come."""
    rest = sorted(id for id in ids if id > after)
    return rest[:limit], len(rest) > limit
