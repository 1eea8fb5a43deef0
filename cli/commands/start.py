"""``pynet start``: start stopped containers, and with -a or -i stay attached to one."""

from __future__ import annotations

from ...netlib.errors import InvalidArgument
from ..client import Client
from ..objects import each, path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser, Run


def start(parser: Parser) -> Run:
    parser.flag("-a", "--attach", help="attach to its output, and exit with its code")
    parser.flag("-i", "--interactive", help="attach to its stdin")
    parser.flag("--sig-proxy", default=True, help="hand signals on to the container when attached")
    parser.option("--detach-keys", metavar="KEYS", help="keys that leave the terminal (ctrl-p,ctrl-q)")
    parser.argument("container", count="+")
    return run


def run(args: Arguments) -> int:
    if not (args.attach or args.interactive):
        # one after the other: a container may need the network namespace of one before it
        return each(args, args.container, lambda name: ("POST", f"{path(name)}/start", None), at_once=1)
    if len(args.container) > 1:
        raise InvalidArgument("you cannot start and attach multiple containers at once", hint="give one container")
    from ..attached import follow

    client = Client(args.settings)
    where = path(args.container[0])
    details = client.get(f"{where}/json")
    return follow(
        client,
        where,
        args,
        condition="removed" if details["HostConfig"].get("AutoRemove", False) else "next-exit",
        tty=bool(details["Config"].get("Tty")),
        stdin=args.interactive and bool(details["Config"].get("OpenStdin")),
        start=lambda: client.post(f"{where}/start"),
    )
