"""``pynet stop``, ``restart`` and ``kill``: the ways to signal a container."""

from __future__ import annotations

from ..objects import each, path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser, Run


def kill(parser: Parser) -> Run:
    parser.option("-s", "--signal", metavar="SIGNAL", default="KILL", help="signal to send (KILL)")
    parser.argument("container", count="+")
    return lambda args: _all(args, "kill", {"signal": args.signal})


def stop(parser: Parser) -> Run:
    _declare_stopping(parser)
    return lambda args: _all(args, "stop", {"signal": args.signal, "t": args.timeout})


def restart(parser: Parser) -> Run:
    _declare_stopping(parser)
    return lambda args: _all(args, "restart", {"signal": args.signal, "t": args.timeout})


def _declare_stopping(parser: Parser) -> None:
    parser.option("-s", "--signal", metavar="SIGNAL", help="signal that asks it to stop (its stop signal)")
    parser.option("-t", "--timeout", "--time", metavar="SECONDS", type=int, help="time before KILL (10)")
    parser.argument("container", count="+")


def _all(args: Arguments, verb: str, query: dict[str, object]) -> int:
    return each(args, args.container, lambda name: ("POST", f"{path(name)}/{verb}", query))
