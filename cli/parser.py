"""Docker's grammar for one command's line: declared options and arguments, words in, values out.

Docker's client (spf13/pflag) differs from argparse in what scripts rely on:

* options may stand between arguments (``pynet rm web -f db``), and ``--`` ends them;
* ``run`` and ``exec`` stop looking for options at the first argument: what follows belongs to the container;
* switches take values: ``--rm=false``, ``--sig-proxy=false``;
* the value of an option may begin with a dash.

argparse, which would have to be kept from all that, costs 5 ms of a command that takes 30; here it makes the help
pages and is imported for them alone.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .settings import Settings

    Run = Callable[["Arguments"], int]

HELP_WIDTH = 110
_TRUE = ("true", "t", "1", "T", "TRUE", "True")
_FALSE = ("false", "f", "0", "F", "FALSE", "False")  # strconv.ParseBool


class UsageError(Exception):
    """The command line is wrong."""


class Arguments:
    """What a command is given: its own options by name, and the settings every command has."""

    settings: Settings
    command: str
    """The last word of the command's name: "ls" of "network ls"."""
    group: str
    """Its first word, when there are two: "network"."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...


class Option:
    """One declared option; ``kind`` is "flag", "option" or "repeated"."""

    def __init__(
        self,
        names: tuple[str, ...],
        kind: str,
        *,
        default: Any = None,
        type: Callable[[str], Any] | None = None,
        metavar: str = "",
        help: str,
    ) -> None:
        self.names, self.kind, self.default, self.type, self.metavar, self.help = (
            names,
            kind,
            default,
            type,
            metavar,
            help,
        )
        long = next((name for name in names if name.startswith("--")), names[0])
        self.dest = long.lstrip("-").replace("-", "_")


class Parser:
    """The options and arguments of one command; ``title`` is "ps" or "network create"."""

    def __init__(self, title: str, description: str) -> None:
        self.title, self.description = title, description
        self.command = title.rpartition(" ")[2]
        self.stops_at_first_argument = False
        self._options: dict[str, Option] = {}
        self._arguments: list[tuple[str, str | None, str, str]] = []  # name, count, shown, help
        self._json_is_of_dry_run = False
        self.flag("--help", help="print this page")

    # -- declaring ---------------------------------------------------------------------------------------------

    def flag(self, *names: str, default: bool | None = False, help: str = "") -> None:
        """A switch; ``--name=false`` turns it off.  None says that nobody set it."""
        self._declare(Option(names, "flag", default=default, help=help))

    def option(
        self,
        *names: str,
        metavar: str = "VALUE",
        default: Any = None,
        type: Callable[[str], Any] | None = None,
        help: str = "",
    ) -> None:
        """An option with a value; the last one wins."""
        self._declare(Option(names, "option", default=default, type=type, metavar=metavar, help=help))

    def repeated(
        self, *names: str, metavar: str = "VALUE", type: Callable[[str], Any] | None = None, help: str = ""
    ) -> None:
        """An option that may be given several times; its value is a list."""
        self._declare(Option(names, "repeated", type=type, metavar=metavar, help=help))

    def dry_run(self, what: str = "what would be made, and make nothing") -> None:
        """``--dry-run``, which prints *what*, and ``--json``, which says how and is wrong without it."""
        self.flag("--dry-run", help=f"print {what}")
        self.flag("--json", help="with --dry-run: print it as JSON, a step a line")
        self._json_is_of_dry_run = True

    def _declare(self, option: Option) -> None:
        for name in option.names:
            self._options[name] = option

    def argument(self, name: str, *, count: str | None = None, metavar: str | None = None, help: str = "") -> None:
        """A positional argument; *count* None is exactly one, ``?`` one or none, ``+`` and ``*`` a list."""
        self._arguments.append((name, count, metavar or name.upper(), help))

    def rest(self, name: str, *, metavar: str = "ARG", help: str = "") -> None:
        """All that follows the arguments declared so far, as it stands."""
        self._arguments.append((name, "*", metavar, help))

    # -- what was declared -------------------------------------------------------------------------------------

    @property
    def options(self) -> list[Option]:
        """In the order of their declaration, which begins with --help."""
        return list(dict.fromkeys(self._options.values()))

    @property
    def arguments(self) -> list[tuple[str, str | None, str, str]]:
        """Name, count (``argument`` says which), shown as, help."""
        return list(self._arguments)

    # -- parsing -----------------------------------------------------------------------------------------------

    def parse(self, words: list[str]) -> Arguments | None:
        """The parsed words; None when the help page was asked for and printed."""
        args = Arguments()
        for option in self._options.values():
            setattr(args, option.dest, [] if option.kind == "repeated" else option.default)
        arguments = self._read_options(words, args)
        if args.help:
            print(self.help_page(), end="")
            return None
        if self._json_is_of_dry_run and args.json and not args.dry_run:
            raise UsageError("--json is for what --dry-run prints")
        self._read_arguments(arguments, args)
        args.group, _, args.command = self.title.rpartition(" ")
        return args

    def _read_options(self, words: list[str], args: Arguments) -> list[str]:
        """Set the options in *args*; the words that are none are returned."""
        arguments: list[str] = []
        position = 0
        while position < len(words):
            word = words[position]
            position += 1
            if word == "--":
                return arguments + words[position:]
            if word == "-" or not word.startswith("-"):
                arguments.append(word)
                if self.stops_at_first_argument:
                    return arguments + words[position:]
                continue
            for name, value in self._split(word):
                option = self._options.get(name)
                if option is None:
                    if name == "-h":
                        args.help = True
                        continue
                    raise UsageError(f"unknown option: {name}" + (f" in {word}" if not word.startswith("--") else ""))
                if option.kind == "flag":
                    setattr(args, option.dest, _switch(name, value))
                    continue
                if value is None:
                    if position == len(words):
                        raise UsageError(f"option needs a value: {name}")
                    value, position = words[position], position + 1
                self._store(args, option, name, value)
        return arguments

    def _split(self, word: str) -> list[tuple[str, str | None]]:
        """``--name``, ``--name=value``, ``-abc``, ``-pVALUE``, ``-p=VALUE`` -> names and the values that stand with them."""
        if word.startswith("--"):
            name, equals, text = word.partition("=")
            return [(name, text if equals else None)]
        found: list[tuple[str, str | None]] = []
        letters = word[1:]
        while letters:
            name, letters = "-" + letters[0], letters[1:]
            option = self._options.get(name)
            if letters and (letters[0] == "=" or (option is not None and option.kind != "flag")):
                found.append((name, letters.removeprefix("=")))
                break
            found.append((name, None))
        return found

    def _store(self, args: Arguments, option: Option, name: str, text: str) -> None:
        value: Any = text
        if option.type is not None:
            try:
                if option.type is int and not (text.isascii() and text.lstrip("+-").isdigit()):
                    raise ValueError  # Python's "1_000" and " 1 " are no numbers of Go's
                value = option.type(text)
            except ValueError:
                raise UsageError(f'invalid value "{text}" for {name}') from None
        if option.kind == "repeated":
            getattr(args, option.dest).append(value)
        else:
            setattr(args, option.dest, value)

    def _read_arguments(self, words: list[str], args: Arguments) -> None:
        if words and not self._arguments:
            raise UsageError(f"pynet {self.title} takes no arguments, {words[0]!r} was given")
        for name, count, shown, _ in self._arguments:
            if count in ("+", "*"):
                setattr(args, name, words)
                if count == "+" and not words:
                    raise UsageError(f"pynet {self.title} needs {shown}")
                words = []
            elif words:
                setattr(args, name, words[0])
                words = words[1:]
            elif count == "?":
                setattr(args, name, None)
            else:
                raise UsageError(f"pynet {self.title} needs {shown}")
        if words:
            raise UsageError(f"pynet {self.title} has no use for {words[0]!r}")

    # -- help --------------------------------------------------------------------------------------------------

    def help_page(self) -> str:
        """Usage, arguments and options, as argparse lays them out."""
        import argparse

        marks = {None: "{0}", "?": "[{0}]", "+": "{0} [{0}...]", "*": "[{0}...]"}
        shown = [marks[count].format(name) for _, count, name, _ in self._arguments]
        page = argparse.ArgumentParser(
            prog=f"pynet {self.title}",
            usage=" ".join(["pynet", self.title, "[OPTIONS]", *shown]),
            description=self.description,
            add_help=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, width=HELP_WIDTH, max_help_position=36),
        )
        for name, _, text, help in self._arguments:
            if help:
                page.add_argument(name, metavar=text, help=help)
        for option in self.options:
            help = option.help.replace("%", "%%")
            if option.kind == "flag":
                page.add_argument(*option.names, action="store_true", help=help)
            else:
                page.add_argument(*option.names, metavar=option.metavar, help=help)
        return page.format_help()


def _switch(name: str, text: str | None) -> bool:
    if text is None or text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise UsageError(f'invalid value "{text}" for {name}: not true or false')
