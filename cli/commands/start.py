"""``pynet start``: start stopped containers, and with -a or -i stay attached to one."""

from __future__ import annotations

from ...netlib.errors import InvalidArgument
from ..client import Client, checked, upgraded
from ._each import each, path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser


def configure(parser: Parser) -> None:
    parser.flag("-a", "--attach", help="attach to its output, and exit with its code")
    parser.flag("-i", "--interactive", help="attach to its stdin")
    parser.flag("--sig-proxy", default=True, help="hand signals on to the container when attached")
    parser.option("--detach-keys", metavar="KEYS", help="keys that leave the terminal (ctrl-p,ctrl-q)")
    parser.argument("container", count="+")


def run(args: Arguments) -> int:
    client = Client(args.settings)
    if not (args.attach or args.interactive):
        return each(args.container, lambda name: client.post(f"{path(name)}/start"))
    if len(args.container) > 1:
        raise InvalidArgument("you cannot start and attach multiple containers at once", hint="give one container")
    from ..streams import Interrupted
    from .run import session_for, status_of

    where = path(args.container[0])
    details = client.get(f"{where}/json")
    query = {"stream": True, "stdin": args.interactive, "stdout": True, "stderr": True, "detachKeys": args.detach_keys}
    attaching = client.send("POST", f"{where}/attach", query, headers={"Connection": "Upgrade", "Upgrade": "tcp"})
    removed = details["HostConfig"].get("AutoRemove", False)
    waiting = client.send("POST", f"{where}/wait", {"condition": "removed" if removed else "next-exit"})
    sock, first = upgraded(attaching)
    exited = checked(waiting.receive())
    tty = bool(details["Config"].get("Tty"))
    stdin = args.interactive and bool(details["Config"].get("OpenStdin"))
    session = session_for(client, where, args, tty=tty, stdin=stdin)
    try:
        with session:
            client.post(f"{where}/start")
            session.resize()
            if not session.run(sock, first):
                return 0
    except Interrupted as signal:
        return 128 + signal.number
    return status_of(exited)
