"""``pynet exec``: one more process in a running container."""

from __future__ import annotations

import os

from ...netlib.errors import InvalidArgument, PynetError, Unavailable
from ..client import Client, DaemonError
from ..environment import gather_environment
from ..failure import report
from ..objects import path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser, Run


def execute(parser: Parser) -> Run:
    parser.stops_at_first_argument = True
    parser.flag("-d", "--detach", help="do not wait for it")
    parser.flag("-i", "--interactive", help="keep stdin open")
    parser.flag("-t", "--tty", help="give it a terminal")
    parser.flag("--privileged", help="give it all capabilities")
    parser.repeated("-e", "--env", metavar="NAME[=VALUE]", help="set an environment variable")
    parser.repeated("--env-file", metavar="FILE", help="read environment variables from a file")
    parser.option("-u", "--user", metavar="USER[:GROUP]", help="user")
    parser.option("-w", "--workdir", metavar="DIR", help="working directory")
    parser.option("--detach-keys", metavar="KEYS", help="keys that leave the terminal (ctrl-p,ctrl-q)")
    parser.argument("container")
    parser.rest("words", metavar="COMMAND", help="command and its arguments")
    return run


def run(args: Arguments) -> int:
    if not args.words:
        raise InvalidArgument(
            "pynet exec needs a container and a command", hint="pynet exec CONTAINER COMMAND [ARG...]"
        )
    if args.tty and args.interactive and not args.detach and not os.isatty(0):
        raise InvalidArgument("the input device is not a TTY", hint="leave -t out when stdin is a pipe or a file")
    client = Client(args.settings)
    body = {
        "AttachStdin": args.interactive and not args.detach,
        "AttachStdout": not args.detach,
        "AttachStderr": not args.detach,
        "Tty": args.tty,
        "Cmd": args.words,
        "Env": gather_environment(args.env, args.env_file),
        "User": args.user or "",
        "WorkingDir": args.workdir or "",
        "Privileged": args.privileged,
        "DetachKeys": args.detach_keys or "",
    }
    if args.tty:
        try:
            size = os.get_terminal_size(1)
            body["ConsoleSize"] = [size.lines, size.columns]
        except OSError:
            pass
    identifier = client.post(f"{path(args.container)}/exec", body=body, meanwhile=_load)["Id"]
    start = {"Detach": args.detach, "Tty": args.tty}
    if "ConsoleSize" in body:
        start["ConsoleSize"] = body["ConsoleSize"]
    try:
        if args.detach:
            client.post(f"/exec/{identifier}/start", body=start)
            return 0
        return _attached(client, args, f"/exec/{identifier}", start)
    except DaemonError as error:
        return report(error, _exit_code(error))


def _load() -> None:
    from .. import streams

    del streams


def _attached(client: Client, args: Arguments, where: str, start: dict[str, object]) -> int:
    from ..streams import Interrupted, Session, resize

    session = Session(
        tty=args.tty,
        stdin=args.interactive,
        detach_keys=args.detach_keys,
        on_resize=(lambda height, width: resize(client, where, height, width)) if args.tty else None,
    )
    try:
        with session:
            sock, first = client.upgrade(f"{where}/start", {"errors": "status"}, start)
            if not session.run(sock, first):
                return 0
    except Interrupted as signal:
        return 128 + signal.number
    code = client.get(f"{where}/json").get("ExitCode")
    if code is None:
        raise Unavailable("the stream ended before the command did", hint="the command goes on in the container")
    return int(code)


def _exit_code(error: PynetError) -> int:
    text = str(error)
    if "executable file not found" in text or "no such file or directory" in text:
        return 127
    return 126 if "OCI runtime exec failed" in text else 1
