"""Regular expressions of filters, in time that is linear in the name: ``--filter name=^web-(a|b)[0-9]+$``.

Docker's filters are Go's expressions, which never look back.  Python's ``re`` does: ``(a+)+$`` beside a name of thirty letters
keeps a thread for minutes, and everybody else with it.  No rule about what may be nested tells the harmless ones from the others
(``a*a*a*a*b`` nests nothing), so the search here is Thompson's: all ways that an expression can go are gone at the same time,
a character at a time, and no way twice.

    text --_Parser--> program: characters, branches, assertions, the end --search--> yes or no

What is known of Go's syntax (https://github.com/google/re2/wiki/Syntax): characters, ``.``, classes with ranges and
``[:alpha:]``, ``\\d \\w \\s`` and their opposites, ``| ( ) (?: ) (?P<name> )``, ``* + ? {n,m}`` greedy or not,
``^ $ \\A \\z \\b \\B``, a leading ``(?i)``.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..netlib.errors import InvalidArgument

MOST_STEPS = 5000
"""Of making a program, in which a repetition by count is written out."""
MOST_DEPTH = 50
MOST_COUNT = 1000
"""Go's: of {n,m}."""
_KEPT = 4096
"""How many turns of the search are remembered, for the next name."""

Test = Callable[[str], bool]
_WORD = frozenset(string.ascii_letters + string.digits + "_")
_CLASSES: dict[str, frozenset[str]] = {"d": frozenset(string.digits), "w": _WORD, "s": frozenset("\t\n\f\r ")}
_POSIX: dict[str, frozenset[str]] = {
    "alnum": _WORD - {"_"}, "alpha": frozenset(string.ascii_letters), "digit": _CLASSES["d"], "word": _WORD,
    "lower": frozenset(string.ascii_lowercase), "upper": frozenset(string.ascii_uppercase),
    "punct": frozenset(string.punctuation), "space": frozenset("\t\n\v\f\r "), "blank": frozenset("\t "),
    "xdigit": frozenset(string.hexdigits),
}  # fmt: skip
_CONTROLS = {"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v"}
_COUNT = re.compile(r"\{(\d{1,5})(,(\d{0,5}))?\}", re.ASCII)
_GROUP = re.compile(r"\?:|\?P?<\w{1,100}>", re.ASCII)
_POSIX_NAME = re.compile(r"\[:(\^?)(\w{1,20}):\]", re.ASCII)
_HEX = re.compile(r"x(?:([0-9a-fA-F]{2})|\{([0-9a-fA-F]{1,6})\})")


class NoExpression(ValueError):
    """The text is no expression, or one that is not known here."""


class _Step:
    """One step of a program: a character that passes a test, an assertion about the place, or a choice of where to go on."""

    __slots__ = ("asserts", "nexts", "test")

    def __init__(self, *, test: Test | None = None, asserts: str = "") -> None:
        self.test, self.asserts = test, asserts
        self.nexts: list[int] = []


class Pattern:
    def __init__(self, text: str) -> None:
        """NoExpression, and InvalidArgument for one that is too large."""
        self._steps: list[_Step] = []
        self._work = 0
        self._end = self._add(_Step())
        self._start = self._compile(_Parser(text).parse(), self._end)
        self._turns: dict[tuple[frozenset[int], str, str], frozenset[int] | None] = {}

    def search(self, text: str) -> bool:
        """Whether the expression is found somewhere in *text*."""
        ways: frozenset[int] = frozenset()
        for at in range(len(text) + 1):
            key = (ways, text[at - 1 : at] if at else "", text[at : at + 1])
            if key not in self._turns:
                if len(self._turns) >= _KEPT:
                    self._turns.clear()
                self._turns[key] = self._turn(*key)
            following = self._turns[key]
            if following is None:
                return True
            ways = following
        return False

    def _turn(self, ways: frozenset[int], before: str, here: str) -> frozenset[int] | None:
        """Where all ways are after the character *here*, one that begins before it included; None when one is at its end."""
        seen, following = set[int](), set[int]()
        open_ways = [*ways, self._start]
        while open_ways:
            at = open_ways.pop()
            if at in seen:
                continue
            seen.add(at)
            if at == self._end:
                return None
            step = self._steps[at]
            if step.test is not None:
                if here and step.test(here):
                    following.update(step.nexts)
            elif not step.asserts or _holds(step.asserts, before, here):
                open_ways += step.nexts
        return frozenset(following)

    # -- from a tree to steps, backwards: each is told where it goes on ------------------------------------------

    def _count(self) -> None:
        self._work += 1
        if self._work > MOST_STEPS:
            raise InvalidArgument(
                f"invalid filter: an expression of more than {MOST_STEPS} steps", hint="write a shorter one"
            )

    def _add(self, step: _Step, *nexts: int) -> int:
        self._count()
        step.nexts = list(nexts)
        self._steps.append(step)
        return len(self._steps) - 1

    def _compile(self, tree: _Tree, then: int) -> int:
        self._count()  # the empty expression makes no step, but a thousand times a thousand of it are work
        match tree:
            case _Character(test):
                return self._add(_Step(test=test), then)
            case _Assertion(kind):
                return self._add(_Step(asserts=kind), then)
            case _Sequence(parts):
                for part in reversed(parts):
                    then = self._compile(part, then)
                return then
            case _Choice(branches):
                return self._add(_Step(), *(self._compile(branch, then) for branch in branches))
            case _Repeat(part, least, most):
                if most is None:
                    loop = self._add(_Step())
                    self._steps[loop].nexts = [self._compile(part, loop), then]
                    then = loop
                else:
                    after = then
                    for _ in range(most - least):
                        then = self._add(_Step(), self._compile(part, then), after)
                for _ in range(least):
                    then = self._compile(part, then)
                return then


def _holds(kind: str, before: str, here: str) -> bool:
    match kind:
        case "begin":
            return not before
        case "end":
            return not here
        case _:
            return ((before in _WORD) != (here in _WORD)) == (kind == "boundary")


# -- from text to a tree ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Character:
    test: Test


@dataclass(frozen=True, slots=True)
class _Assertion:
    kind: str


@dataclass(frozen=True, slots=True)
class _Sequence:
    parts: tuple[_Tree, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    branches: tuple[_Tree, ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    part: _Tree
    least: int
    most: int | None


_Tree = _Character | _Assertion | _Sequence | _Choice | _Repeat


class _Parser:
    """Recursive descent; each method reads what it is called after, and leaves the rest."""

    def __init__(self, text: str) -> None:
        self._fold = text.startswith("(?i)")
        self._text, self._at, self._depth = text, 4 * self._fold, 0

    def parse(self) -> _Tree:
        tree = self._choice()
        if self._at < len(self._text):
            raise NoExpression("unexpected )")
        return tree

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        if not (found := self._next()):
            raise NoExpression("it ends too early")
        self._at += 1
        return found

    def _choice(self) -> _Tree:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise NoExpression("too deep")
        branches = [self._sequence()]
        while self._next() == "|":
            self._at += 1
            branches.append(self._sequence())
        self._depth -= 1
        return branches[0] if len(branches) == 1 else _Choice(tuple(branches))

    def _sequence(self) -> _Tree:
        parts: list[_Tree] = []
        while self._next() not in ("", "|", ")"):
            parts.append(self._repeated())
        return _Sequence(tuple(parts))

    def _repeated(self) -> _Tree:
        if self._next() in "*+?" or _COUNT.match(self._text, self._at):
            raise NoExpression("missing argument to repetition operator")
        part = self._atom()
        bounds = self._bounds()
        if bounds is None:
            return part
        if self._next() == "?":
            self._at += 1  # whether it is greedy says nothing about whether it is found
        if self._bounds() is not None:
            raise NoExpression("invalid nested repetition operator")
        return _Repeat(part, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if self._next() in simple:
            return simple[self._take()]
        count = _COUNT.match(self._text, self._at)
        if count is None:
            return None
        self._at = count.end()
        least = int(count[1])
        most = least if count[2] is None else int(count[3]) if count[3] else None
        if least > MOST_COUNT or (most is not None and not least <= most <= MOST_COUNT):
            raise NoExpression("invalid repeat count")
        return least, most

    def _atom(self) -> _Tree:
        match self._take():
            case "(":
                if self._next() == "?":
                    group = _GROUP.match(self._text, self._at)
                    if group is None:
                        raise NoExpression("unknown group")
                    self._at = group.end()
                tree = self._choice()
                if self._take() != ")":
                    raise NoExpression("missing )")
                return tree
            case "[":
                return self._character(self._class())
            case ".":
                return self._character(lambda c: c != "\n")
            case "^":
                return _Assertion("begin")
            case "$":
                return _Assertion("end")
            case "\\":
                return self._escape()
            case character:
                return self._character(_is(character))

    def _character(self, test: Test) -> _Tree:
        return _Character((lambda c: test(c) or test(c.lower()) or test(c.upper())) if self._fold else test)

    def _escape(self) -> _Tree:
        name = self._next()
        places = {"A": "begin", "z": "end", "b": "boundary", "B": "inside"}
        if name in places:
            self._at += 1
            return _Assertion(places[name])
        found = self._escaped()
        return self._character(_is(found) if isinstance(found, str) else found)

    def _escaped(self) -> str | Test:
        """What a backslash made of what follows: a character, or the test of a class."""
        name = self._take()
        if name.lower() in _CLASSES:
            members = _CLASSES[name.lower()]
            return (lambda c: c not in members) if name.isupper() else members.__contains__
        if number := _HEX.match(self._text, self._at - 1):
            self._at = number.end()
            code = int(number[1] or number[2], 16)
            if code > 0x10FFFF:
                raise NoExpression("no character")
            return chr(code)
        if name in _CONTROLS:
            return _CONTROLS[name]
        if name in string.punctuation:
            return name
        raise NoExpression("invalid escape sequence")

    def _class(self) -> Test:
        negated = self._next() == "^"
        self._at += negated
        tests: list[Test] = []
        while self._next() != "]" or not tests:
            tests.append(self._member())
        self._at += 1
        return lambda c: any(test(c) for test in tests) != negated

    def _member(self) -> Test:
        """One of a class: [:alpha:], \\d, a-z or a."""
        if posix := _POSIX_NAME.match(self._text, self._at):
            if posix[2] not in _POSIX:
                raise NoExpression("invalid character class")
            self._at = posix.end()
            members = _POSIX[posix[2]]
            return (lambda c: c not in members) if posix[1] else members.__contains__
        first = self._end_of_range()
        if not isinstance(first, str):
            return first
        if self._next() != "-" or self._text[self._at + 1 : self._at + 2] in ("]", ""):
            return _is(first)
        self._at += 1
        last = self._end_of_range()
        if not isinstance(last, str) or last < first:
            raise NoExpression("invalid character class range")
        return lambda c: first <= c <= last

    def _end_of_range(self) -> str | Test:
        character = self._take()
        return self._escaped() if character == "\\" else character


def _is(character: str) -> Test:
    return lambda c: c == character


def matcher(values: Iterable[str], *prefixes: str) -> Callable[[str], bool]:
    """Whether a name is found by one of the filter's *values*, as it is or behind one of *prefixes*; by all when there is none.

    What is no expression is a part of the name.
    """
    tests: list[Callable[[str], bool]] = []
    for value in values:
        try:
            tests.append(Pattern(value).search)
        except NoExpression:
            tests.append(lambda name, part=value: part in name)  # type: ignore[misc]
    if not tests:
        return lambda name: True
    return lambda name: any(test(text) for test in tests for text in (name, *(prefix + name for prefix in prefixes)))
