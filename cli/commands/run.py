"""``pynet run``: create, attach, wait, start, and give back the container's exit code: four round trips in all."""

from __future__ import annotations

import os

from ...netlib.errors import PynetError
from ..client import Client, DaemonError
from ..creation import create, exit_code, show_planned
from ..failure import report
from ..options import declare
from ..units import BadOption

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser, Run


def run(parser: Parser) -> Run:
    parser.flag("-d", "--detach", help="print the container's id and leave it running")
    parser.flag("--sig-proxy", default=True, help="hand signals on to the container (--sig-proxy=false: do not)")
    parser.option("--detach-keys", metavar="KEYS", help="keys that leave the terminal (ctrl-p,ctrl-q)")
    declare(parser)
    return run_container


def run_container(args: Arguments) -> int:
    try:
        return _run(args)
    except PynetError as error:
        return report(error, exit_code(error))


def _run(args: Arguments) -> int:
    if args.detach and args.attach:
        raise BadOption("conflicting options: cannot specify both --attach and --detach", hint="leave one of them out")
    if not args.detach and args.tty and args.interactive and not os.isatty(0):
        raise BadOption("the input device is not a TTY", hint="leave -t out when stdin is a pipe or a file")
    client = Client(args.settings)
    if args.dry_run:
        return show_planned(client, args)
    if args.detach:
        container = create(client, args)
        client.post(f"/containers/{container}/start")
        print(container)
        return 0
    return _attached(client, args, f"/containers/{create(client, args, meanwhile=_load)}")


def _load() -> None:
    from .. import attached

    del attached


def _attached(client: Client, args: Arguments, where: str) -> int:
    from ..attached import follow

    streams = [word.lower() for word in args.attach]
    return follow(
        client,
        where,
        args,
        condition="removed" if args.rm else "next-exit",
        tty=args.tty,
        stdin="stdin" in streams or (args.interactive and not streams),
        stdout=not streams or "stdout" in streams,
        stderr=not streams or "stderr" in streams,
        start=lambda: _start(client, args, where),
    )


def _start(client: Client, args: Arguments, where: str) -> None:
    try:
        client.post(f"{where}/start")
    except DaemonError:
        if args.rm:
            # a container that never started is not removed by the engine's --rm (it never exited)
            try:
                client.delete(where, {"v": True})
            except DaemonError:
                pass
        raise
