"""argparse with Docker's grammar.

Docker's client (spf13/pflag) differs from argparse in three things that scripts rely on:

* options may stand between arguments (``pynet rm web -f db``), and ``--`` ends them;
* ``run`` and ``exec`` stop looking for options at the first argument: what follows belongs to the container;
* switches take values: ``--rm=false``, ``--sig-proxy=false``.

So ``Parser.parse`` sorts the words into options and arguments first, and hands argparse ``options -- arguments``,
which it reads the same way in every Python version.
"""

from __future__ import annotations

import argparse
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from .settings import Settings

HELP_WIDTH = 110
_TRUE = ("true", "t", "1", "T", "TRUE", "True")
_FALSE = ("false", "f", "0", "F", "FALSE", "False")  # strconv.ParseBool


class UsageError(Exception):
    """The command line is wrong."""


class Arguments(argparse.Namespace):
    """What a command is given: its own options by name, and the settings every command has."""

    settings: Settings
    command: str
    """The last word of the command's name: "ls" of "network ls"."""
    group: str
    """Its first word, when there are two: "network"."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class _Formatter(argparse.HelpFormatter):
    """With a width of its own: argparse imports shutil for it (bz2, lzma), and makes a formatter for each option."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=HELP_WIDTH, max_help_position=36)


class Parser(argparse.ArgumentParser):
    """The options and arguments of one command; ``title`` is "ps" or "network create"."""

    def __init__(self, title: str, description: str) -> None:
        super().__init__(prog=f"pynet {title}", description=description, add_help=False, allow_abbrev=False)
        self.formatter_class = _Formatter
        self.title = title
        self.command = title.rpartition(" ")[2]
        self.stops_at_first_argument = False
        self._takes_value: dict[str, bool] = {}
        self._switches: dict[str, str] = {}
        self._arguments: list[str] = []
        self._rest, self._before_rest = "", 0
        self.flag("--help", help="print this page")

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    # -- declaring ---------------------------------------------------------------------------------------------

    def flag(self, *names: str, default: bool = False, help: str = "") -> None:
        """A switch; ``--name=false`` turns it off."""
        action = super().add_argument(*names, action="store_true", default=default, help=help)
        for name in action.option_strings:
            self._takes_value[name] = False
            self._switches[name] = action.dest

    def option(
        self,
        *names: str,
        metavar: str = "VALUE",
        default: Any = None,
        type: Callable[[str], Any] | None = None,
        help: str = "",
    ) -> None:
        """An option with a value; the last one wins."""
        self._value(*names, action="store", metavar=metavar, default=default, type=type, help=help)

    def repeated(
        self, *names: str, metavar: str = "VALUE", type: Callable[[str], Any] | None = None, help: str = ""
    ) -> None:
        """An option that may be given several times; its value is a list."""
        self._value(*names, action="append", metavar=metavar, default=[], type=type, help=help)

    def _value(self, *names: str, **settings: Any) -> None:
        action = super().add_argument(*names, **{k: v for k, v in settings.items() if v is not None})
        for name in action.option_strings:
            self._takes_value[name] = True

    def argument(self, name: str, *, count: str | None = None, metavar: str | None = None, help: str = "") -> None:
        """A positional argument; *count* is argparse's nargs: None is one, ``?`` one or none, ``+``, ``*``."""
        super().add_argument(name, nargs=count, metavar=metavar or name.upper(), help=help or argparse.SUPPRESS)
        shown = metavar or name.upper()
        self._arguments.append(
            {None: shown, "?": f"[{shown}]", "+": f"{shown} [{shown}...]", "*": f"[{shown}...]"}[count]
        )

    def rest(self, name: str, *, metavar: str = "ARG", help: str = "") -> None:
        """All that follows the arguments declared so far, as it stands."""
        super().add_argument(name, nargs=argparse.REMAINDER, metavar=metavar, help=help)
        self._rest, self._before_rest = name, len(self._arguments)
        self._arguments.append(f"[{metavar}...]")

    # -- parsing -----------------------------------------------------------------------------------------------

    def parse(self, words: list[str]) -> Arguments | None:
        """The parsed words; None when the help page was asked for and printed."""
        options, arguments, switches = self._sort(words)
        if switches.get("help"):
            self.usage = " ".join([self.prog, "[OPTIONS]", *self._arguments])
            self.print_help(sys.stdout)
            return None
        if arguments and not self._arguments:
            raise UsageError(f"pynet {self.title} takes no arguments, {arguments[0]!r} was given")
        rest: list[str] = []
        if self._rest:  # not through argparse, whose versions differ in what they do to a `--` in it
            arguments, rest = arguments[: self._before_rest], arguments[self._before_rest :]
        dashes = ["--"] if any(word.startswith("-") for word in arguments) else []
        args = self.parse_args([*options, *dashes, *arguments], Arguments())
        if self._rest:
            setattr(args, self._rest, rest)
        for dest, value in switches.items():
            setattr(args, dest, value)
        args.group, _, args.command = self.title.rpartition(" ")
        return args

    def _sort(self, words: list[str]) -> tuple[list[str], list[str], dict[str, bool]]:
        """Words -> options that take a value, arguments, switches."""
        options: list[str] = []
        arguments: list[str] = []
        switches: dict[str, bool] = {}
        position = 0
        while position < len(words):
            word = words[position]
            position += 1
            if word == "--":
                arguments += words[position:]
                break
            if word == "-" or not word.startswith("-"):
                arguments.append(word)
                if self.stops_at_first_argument:
                    arguments += words[position:]
                    break
                continue
            position = self._option(word, words, position, options, switches)
        return options, arguments, switches

    def _option(self, word: str, words: list[str], position: int, options: list[str], switches: dict[str, bool]) -> int:
        """Sort one option word (``--name``, ``--name=value``, ``-abc``, ``-pVALUE``); returns the next position."""
        if word.startswith("--"):
            pairs = [word.partition("=")]
        else:
            pairs = []
            letters = word[1:]
            while letters:
                name, letters = "-" + letters[0], letters[1:]
                if letters.startswith("=") or self._takes_value.get(name, False):
                    pairs.append((name, "=" if letters else "", letters.removeprefix("=")))
                    break
                pairs.append((name, "", ""))
        for name, equals, value in pairs:
            if name not in self._takes_value:
                if name == "-h":
                    switches["help"] = True
                    continue
                raise UsageError(f"unknown option: {name}" + (f" in {word}" if name != word and len(pairs) > 1 else ""))
            if self._takes_value[name]:
                if not equals:
                    if position >= len(words):
                        raise UsageError(f"option needs a value: {name}")
                    value, position = words[position], position + 1
                options.append(f"{name}={value}")  # one word: a value may begin with a dash
            elif not equals or value in _TRUE:
                switches[self._switches[name]] = True
            elif value in _FALSE:
                switches[self._switches[name]] = False
            else:
                raise UsageError(f'invalid value "{value}" for {name}: not true or false')
        return position
