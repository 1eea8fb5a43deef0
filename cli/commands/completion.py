"""``pynet completion SHELL``, which prints a shell's script, and ``pynet __complete``, which such scripts ask."""

from __future__ import annotations

from ...netlib.errors import InvalidArgument
from ..completion import SHELLS, complete, names_of, script

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser, Run


def completion(parser: Parser) -> Run:
    parser.argument("shell", metavar="SHELL", help="bash, zsh or fish")
    return run


def run(args: Arguments) -> int:
    if args.shell not in SHELLS:
        raise InvalidArgument(f"no completion for the shell {args.shell!r}", hint="there is bash, zsh and fish")
    print(script(args.shell), end="")
    return 0


def answer(parser: Parser) -> Run:
    parser.stops_at_first_argument = True
    parser.argument("shell")
    parser.rest("words")
    return run_answer


def run_answer(args: Arguments) -> int:
    directive, found = complete(args.words, names_of(_host_options(args.words)))
    seen = dict.fromkeys(found)
    print(directive)
    print("".join(f"{word}\t{_line(text)}\n" for word, text in seen if word.isprintable()), end="")
    return 0


def _host_options(words: list[str]) -> dict[str, str]:
    """Which engine the line that is being typed is about."""
    known = {"-H": "host", "--host": "host", "--root": "root", "--run": "run"}
    options: dict[str, str] = {}
    position = 0
    while position < len(words) - 1 and words[position].startswith("-"):
        name, equals, value = words[position].partition("=")
        if not equals:
            position += 1
            value = words[position]
        if name in known:
            options[known[name]] = value
        position += 1
    return options


def _line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
