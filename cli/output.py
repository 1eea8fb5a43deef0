"""How the listing commands print: Docker's table, ``-q``, ``--format``, and ``--json``.

A command turns each object of the engine into a *row*: Docker's field names and texts.  ``--format`` templates and
``--format json`` see rows, as in Docker's client; ``--json`` prints the engine's own objects, one a line, for programs.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .parser import Arguments, Parser

Row = dict[str, object]


def add_format(parser: Parser, *short: str) -> None:
    """``--format``, with a *short* form where Docker has one, and ``--json``."""
    parser.option(*short, "--format", metavar="TEMPLATE", help='a Go template, "table TEMPLATE", or "json"')
    parser.flag("--json", help="print the engine's objects as JSON, one a line")


def add_listing(parser: Parser, what: str) -> None:
    """The options that all listings share."""
    parser.flag("-q", "--quiet", help=f"print only {what}")
    parser.flag("--no-trunc", help="do not shorten ids and commands")
    parser.repeated("-f", "--filter", metavar="NAME=VALUE", help="list only what matches")
    add_format(parser)


def filters(words: list[str]) -> dict[str, list[str]]:
    """``-f`` values -> the filters parameter of the Engine API."""
    found: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            from .units import InvalidValue

            raise InvalidValue("filter", word, "write NAME=VALUE, for example status=exited")
        found.setdefault(name.strip().lower(), []).append(value.strip())
    return found


def show_list(
    args: Arguments, objects: list[Any], rows: list[Row], columns: list[tuple[str, str]], *, key: str = "ID"
) -> None:
    """Print rows as the options say; *columns* are (field, heading) of the ordinary table."""
    if args.json:
        lines(objects)
    elif args.quiet and not args.format:
        print("".join(f"{row[key]}\n" for row in rows), end="")
    else:
        show_rows(args.format, rows, columns)


def show_rows(template: str | None, rows: list[Row], columns: list[tuple[str, str]]) -> None:
    """Print rows as a table, as JSON, or by a template."""
    if template == "json":
        lines([{name: value for name, value in row.items() if not callable(value)} for row in rows])
        return
    from .format import table

    if not template or template == "table":
        cells = [[str(row[field]) for field, _ in columns] for row in rows]
        print(table([heading for _, heading in columns], cells), end="")
        return
    from .template import Template

    if template.startswith("table"):
        text = unescape(template.removeprefix("table").strip())
        headings: Row = {name: _heading(name, columns) for row in rows[:1] for name in row} or dict(columns)
        parsed = Template(text)
        cells = [parsed.render(row).split("\t") for row in rows]
        print(table(parsed.render(headings).split("\t"), cells), end="")
        return
    parsed = Template(unescape(template))
    print("".join(parsed.render(row) + "\n" for row in rows), end="")


def show_object(args: Arguments, value: Any) -> bool:
    """Print one object by --format or --json; False when neither was given."""
    if args.json or args.format == "json":
        lines([value])
        return True
    if args.format:
        from .template import Template

        print(Template(unescape(args.format)).render(value))
        return True
    return False


def lines(values: list[Any]) -> None:
    """JSON, one value a line."""
    from .textjson import dumps

    sys.stdout.write("".join(dumps(value, ascii=False) + "\n" for value in values))


def show_plan(args: Arguments, plan: list[Any]) -> None:
    """What a dry run answered: a line for each step, or with ``--json`` the engine's objects."""
    if args.json:
        lines(plan)
    else:
        print("".join(f"{step['Verb']} {step['What']}\n" for step in plan), end="")


def unescape(text: str) -> str:
    """``\\t`` and ``\\n`` as a shell passes them, outside of actions."""
    return text.replace("\\t", "\t").replace("\\n", "\n")


def _heading(name: str, columns: list[tuple[str, str]]) -> object:
    known = dict(columns)
    if name in known:
        return known[name]
    if name == "Label":
        return str.upper
    spaced = "".join(f" {c}" if c.isupper() and i and not name[i - 1].isupper() else c for i, c in enumerate(name))
    return spaced.upper()
