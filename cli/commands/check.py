"""``pynet check`` and ``repair``: is in the kernel what should be there?

The engine compares the plans of everything it keeps with what the kernel holds under its mark (GET /pynet/check), and
on request makes them equal (POST /pynet/repair).  Both answer with a list of differences.  Exit code 1 of ``check`` says
that there are some.
"""

from __future__ import annotations

from ..client import Client
from ..output import lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..parser import Arguments, Parser, Run

UNREPAIRABLE = frozenset({"driver", "lease"})
"""Kinds of differences that are others' to mend: the package of a driver, a DHCP server."""


def check(parser: Parser) -> Run:
    parser.flag("--json", help="print the differences as JSON, one a line")
    return lambda args: _show(args, Client(args.settings).get("/pynet/check"), repair=False)


def repair(parser: Parser) -> Run:
    parser.flag("--json", help="print what was different as JSON, one a line")
    return lambda args: _show(args, Client(args.settings).post("/pynet/repair"), repair=True)


def _show(args: Arguments, answer: list[Any] | None, *, repair: bool) -> int:
    differences = answer or []
    if args.json:
        lines(differences)
    elif not differences:
        print("nothing to repair" if repair else "all is as it should be")
    else:
        print("".join(f"{'repaired: ' if repair else ''}{text(one)}\n" for one in differences), end="")
        if not repair and any(kind(one) not in UNREPAIRABLE for one in differences):
            print("`pynet repair` brings the kernel in line")
    return 1 if differences and not repair else 0


def kind(difference: Any) -> str:
    return str(difference.get("kind", "")) if isinstance(difference, dict) else ""


def text(difference: Any) -> str:
    """One difference on one line."""
    if isinstance(difference, dict):
        return " ".join(f"{value}" for value in difference.values() if value not in (None, "", [], {}))
    return str(difference)
