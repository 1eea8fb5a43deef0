"""Commands on several objects: ask for all, show the answers in the order given, report each failure, fail at the end.

    stop a b c:    a, b and c are asked for at once, a connection each; then their answers are awaited in order

so that three containers that take ten seconds each take ten, as with Docker's client.  No threads: the engine works
while we wait for the first.  Where an order has a meaning (start, rmi), one is done after the other.
"""

from __future__ import annotations

from ..netlib.errors import InvalidArgument, PynetError
from .client import Client, DaemonError, checked, quote
from .failure import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .http1 import Connection
    from .parser import Arguments

    Request = tuple[str, str, dict[str, object] | None]

AT_ONCE = 64
"""Requests under way: descriptors of both sides are bounded, often at 1024."""


def path(name: str, kind: str = "containers") -> str:
    """The API path of an object; a name with odd characters stays one segment (and is answered with 404).

    Without a name it would be that of all of them, or of none: `rm -f "$UNSET"` must not look as if it had done something.
    """
    if not name.strip():
        raise InvalidArgument(f"invalid {kind[:-1]} name or ID: value is empty", hint="name one; is a variable unset?")
    return f"/{kind}/{quote(name, b'/:' if kind == 'images' else b':')}"


def each(
    args: Arguments,
    names: list[str],
    request: Callable[[str], Request],
    *,
    show: Callable[[str, Any], None] = lambda name, answer: print(name),
    missing_is_fine: bool = False,
    at_once: int = AT_ONCE,
) -> int:
    """Make the *request* (method, path, query) of each name, and *show* name and answer; 1 when one failed.

    *missing_is_fine*: an object that is not there is as good as done.
    """
    requests = [request(name) for name in names]  # a slip in one is told before anything is done to another
    client = Client(args.settings)
    code = 0
    sent: list[Connection | PynetError] = []
    for position, name in enumerate(names):
        if at_once > 1 and len(names) > 1:
            sent += [_sent(client, other) for other in requests[len(sent) : position + at_once]]
        try:
            answer = _answer(sent[position]) if sent else client.request(*requests[position])[1]
        except DaemonError as error:
            if not (missing_is_fine and error.http_status == 404):
                code = report(error, 1)
                continue
            answer = None
        except PynetError as error:
            code = report(error, 1)
            continue
        show(name, answer)
    return code


def _sent(client: Client, request: Request) -> Connection | PynetError:
    """A request under way; one that could not be sent is that name's failure, and is reported in its turn."""
    try:
        return client.send(*request)
    except PynetError as error:
        return error


def _answer(connection: Connection | PynetError) -> Any:
    if isinstance(connection, PynetError):
        raise connection
    try:
        return checked(connection.receive()).json()
    finally:
        connection.close()
