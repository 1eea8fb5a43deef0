"""``pynet run``: create, attach, wait, start, and give back the container's exit code.

The order is Docker's: attached before the start, so that no output is missed; waiting before the start, so that no
exit is.  The attach and wait requests are sent together and answered together: four round trips in all.
"""

from __future__ import annotations

import os
import sys

from ...netlib.errors import PynetError
from ..client import Client, DaemonError, checked, upgraded
from ..main import report
from ..options import configure as configure_container
from ..options import container_config, gather

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..http1 import Response
    from ..parser import Arguments, Parser
    from ..streams import Session

CANNOT_RUN, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127


def configure(parser: Parser) -> None:
    parser.flag("-d", "--detach", help="print the container's id and leave it running")
    parser.flag("--sig-proxy", default=True, help="hand signals on to the container (--sig-proxy=false: do not)")
    parser.option("--detach-keys", metavar="KEYS", help="keys that leave the terminal (ctrl-p,ctrl-q)")
    configure_container(parser)


def run(args: Arguments) -> int:
    try:
        return _run(args)
    except PynetError as error:
        return report(error, exit_code(error))


def exit_code(error: PynetError) -> int:
    """What ``run`` exits with when the container could not be started (docker/cli, toStatusError)."""
    text = str(error)
    if not isinstance(error, DaemonError):
        return CANNOT_RUN
    if "executable file not found" in text or "no such file or directory" in text:
        return NOT_FOUND
    if "permission denied" in text or "is a directory" in text:
        return NOT_EXECUTABLE
    return CANNOT_RUN


def create(client: Client, args: Arguments) -> str:
    """POST /containers/create; prints warnings and writes --cidfile; returns the id."""
    body = container_config(gather(args))
    if args.tty:
        try:
            size = os.get_terminal_size(1)
            body["HostConfig"]["ConsoleSize"] = [size.lines, size.columns]
        except OSError:
            pass
    cidfile = args.cidfile and _open_cidfile(args.cidfile)
    try:
        answer = client.post("/containers/create", {"name": args.name}, body)
    except BaseException:
        if cidfile:
            cidfile.close()
            os.unlink(args.cidfile)
        raise
    for warning in answer.get("Warnings") or ():
        print(f"WARNING: {warning}", file=sys.stderr)
    if cidfile:
        with cidfile:
            cidfile.write(answer["Id"])
    return str(answer["Id"])


def _open_cidfile(path: str) -> Any:
    from ..options import BadOption

    try:
        return open(path, "x", encoding="utf-8")
    except FileExistsError:
        raise BadOption(
            f"container ID file found: {path}", hint="make sure the other container is not running, or delete the file"
        ) from None
    except OSError as error:
        raise BadOption(f"cannot write the container ID file {path}: {error.strerror}", hint="choose another") from None


def _run(args: Arguments) -> int:
    from ..options import BadOption

    if args.detach and args.attach:
        raise BadOption("conflicting options: cannot specify both --attach and --detach", hint="leave one of them out")
    if not args.detach and args.tty and args.interactive and not os.isatty(0):
        raise BadOption("the input device is not a TTY", hint="leave -t out when stdin is a pipe or a file")
    client = Client(args.settings)
    container = create(client, args)
    if args.detach:
        client.post(f"/containers/{container}/start")
        print(container)
        return 0
    return _attached(client, args, container)


def _attached(client: Client, args: Arguments, container: str) -> int:
    from ..streams import Interrupted

    path = f"/containers/{container}"
    streams = [word.lower() for word in args.attach]
    stdin = "stdin" in streams or (args.interactive and not streams)
    query = {
        "stream": True,
        "stdin": stdin,
        "stdout": not streams or "stdout" in streams,
        "stderr": not streams or "stderr" in streams,
        "detachKeys": args.detach_keys,
    }
    attaching = client.send("POST", f"{path}/attach", query, headers={"Connection": "Upgrade", "Upgrade": "tcp"})
    waiting = client.send("POST", f"{path}/wait", {"condition": "removed" if args.rm else "next-exit"})
    sock, first = upgraded(attaching)
    exited = checked(waiting.receive())
    session = session_for(client, path, args, tty=args.tty, stdin=stdin)
    try:
        with session:
            client.post(f"{path}/start")
            session.resize()
            if not session.run(sock, first):
                return 0
    except Interrupted as signal:
        return 128 + signal.number
    except DaemonError:
        if not args.rm:
            raise
        # a container that never started is not removed by the engine's --rm (it never exited)
        try:
            client.delete(path, {"v": True})
        except DaemonError:
            pass
        raise
    return status_of(exited)


def session_for(client: Client, path: str, args: Arguments, *, tty: bool, stdin: bool, signals: bool = True) -> Session:
    """The attached stream of a container or exec, as the options say."""
    from ..streams import Session

    return Session(
        tty=tty,
        stdin=stdin,
        detach_keys=args.detach_keys,
        on_resize=(lambda height, width: resize(client, path, height, width)) if tty else None,
        on_signal=(lambda number: proxy_signal(client, path, number))
        if signals and args.sig_proxy and not tty
        else None,
    )


def status_of(exited: Response) -> int:
    """The exit code in the answer to a wait request, once it is complete."""
    answer = exited.json() or {}
    error = (answer.get("Error") or {}).get("Message")
    if error:
        raise DaemonError(500, error)
    return int(answer.get("StatusCode", 0))


def resize(client: Client, path: str, height: int, width: int) -> None:
    """Tell the engine the terminal's size; a container that has just ended needs none."""
    try:
        client.post(f"{path}/resize", {"h": height, "w": width})
    except DaemonError:
        pass


def proxy_signal(client: Client, path: str, number: int) -> None:
    """Hand a signal to the container; one that has just ended does not get it."""
    import signal

    try:
        client.post(f"{path}/kill", {"signal": signal.Signals(number).name})
    except DaemonError:
        pass
