"""A container's stream, followed to its end: what ``run``, ``start -a``, ``attach`` and ``exec`` have in common.

    attach and wait, sent together, answered together -> start, if it is to be -> the stream (streams.py) -> the wait's answer

The order is Docker's: attached before the start, so that no output is missed; waiting before the start, so that no
exit is.  The exit code is the one in the wait's answer and there is no other: a stream that ends says nothing about
the container, for the engine may have gone away.
"""

from __future__ import annotations

from .client import UPGRADE, Client, DaemonError, checked, upgraded
from .failure import report
from .streams import Impatient, Interrupted, Session, resize, signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .http1 import Response
    from .parser import Arguments


def follow(
    client: Client,
    where: str,
    args: Arguments,
    *,
    condition: str,
    tty: bool,
    stdin: bool,
    stdout: bool = True,
    stderr: bool = True,
    start: Callable[[], object] | None = None,
) -> int:
    """Attach to the container at the path *where* and *start* it; returns its exit code, or 0 when the user detached.

    *condition* is what to wait for: "next-exit", "removed", or "not-running".
    """
    streams = {"stream": True, "stdin": stdin, "stdout": stdout, "stderr": stderr, "detachKeys": args.detach_keys}
    attaching = client.send("POST", f"{where}/attach", streams, headers=UPGRADE)
    waiting = client.send("POST", f"{where}/wait", {"condition": condition})
    sock, first = upgraded(attaching)
    exited = checked(waiting.receive())
    session = Session(
        tty=tty,
        stdin=stdin,
        detach_keys=args.detach_keys,
        on_resize=(lambda height, width: resize(client, where, height, width)) if tty else None,
        on_signal=(lambda number: proxy_signal(client, where, number)) if args.sig_proxy and not tty else None,
    )
    try:
        with session:
            if start:
                start()
            session.resize()
            if not session.run(sock, first):
                return 0
    except Interrupted as signal:
        return 128 + signal.number
    except Impatient as error:
        return report(error)
    return status_of(exited)


def status_of(exited: Response) -> int:
    """The exit code in the answer to a wait request, once it is complete."""
    answer = exited.json() or {}
    error = (answer.get("Error") or {}).get("Message")
    if error:
        raise DaemonError(500, error)
    if "StatusCode" not in answer:
        raise DaemonError(500, "it did not say how the container ended")
    return int(answer["StatusCode"])


def proxy_signal(client: Client, where: str, number: int) -> None:
    """Hand a signal to the container; one that has just ended does not get it."""
    try:
        client.post(f"{where}/kill", {"signal": signal_name(number)})
    except DaemonError:
        pass
