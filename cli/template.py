"""``--format``: the part of Go's text/template that people use with Docker's commands.

    text -> lexer -> nodes -> render(values)

    actions     {{pipeline}}  {{if}} {{else if}} {{else}} {{end}}  {{range}} {{range $i, $e := }}  {{with}}  {{$x := }}
                {{/* comment */}}, and {{- -}} that eat the white space beside them
    operands    .  .A.B  $  $x.A  "text"  `text`  12  true false nil  (pipeline).A
    functions   json upper lower title join split println print printf index len slice eq ne lt le gt ge and or not

Values are what JSON gives.  A field is found by its exact name, else without regard to case (Go's names and JSON's
differ in that).  A field that does not exist is an error, as it is in Docker's client.  Pure.
"""

from __future__ import annotations

import json
import re

from .gofuncs import FUNCTIONS, TemplateError, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Scope = dict[str, Any]
    Node = Callable[["Any", Scope], str]
    Expression = Callable[["Any", Scope], Any]

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<number>-?\d+)|(?P<field>\.[A-Za-z_]\w*)|(?P<dot>\.)"""
    r"""|(?P<variable>\$\w*)|(?P<word>[A-Za-z_]\w*)|(?P<mark>:=|[|(),=]))""",
    re.VERBOSE,
)
_ACTION = re.compile(r"(\s*)\{\{(-(?=\s))?(.*?)((?<=\s)-)?\}\}(\s*)", re.DOTALL)


class Template:
    """A template that was read once and is rendered for each object."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._nodes = _Parser(text).parse()

    def render(self, value: Any) -> str:
        """The text for one object."""
        scope: Scope = {"$": value}
        return "".join(node(value, scope) for node in self._nodes)


# -- parsing ------------------------------------------------------------------------------------------------------


class _Parser:
    """Recursive descent: nodes of text and actions outside, pipelines inside."""

    def __init__(self, text: str) -> None:
        self._pieces = list(_split(text))
        self._tokens: list[tuple[str, str, bool]] = []
        self._position = 0

    def parse(self) -> list[Node]:
        nodes, end = self._block(())
        if end:
            raise TemplateError(f"unexpected {{{{{end}}}}}")
        return nodes

    def _block(self, ends: tuple[str, ...]) -> tuple[list[Node], str]:
        """Nodes up to an action that begins with one of *ends*, whose tokens are then left to read."""
        nodes: list[Node] = []
        while self._pieces:
            kind, text = self._pieces.pop(0)
            if kind == "text":
                nodes.append(_text(text))
                continue
            self._tokens, self._position = _tokens(text), 0
            word = self._peek()
            if word in ("end", "else"):
                self._position += 1
                if word not in ends:
                    raise TemplateError(f"unexpected {{{{{word}}}}}")
                return nodes, word
            if word in ("if", "with", "range"):
                self._position += 1
                nodes.append(self._control(word))
            else:
                nodes.append(self._action())
        if ends:
            raise TemplateError("unexpected end of the template: {{end}} is missing")
        return nodes, ""

    def _control(self, word: str) -> Node:
        names = self._declared()
        condition = self._whole()
        body, end = self._block(("end", "else"))
        other: list[Node] = []
        if end == "else":
            if self._peek() in ("if", "with"):
                chained = self._peek()
                self._position += 1
                other = [self._control(chained)]
            else:
                self._finish()
                other, _ = self._block(("end",))
        make = {"if": _if, "with": _with, "range": _range}[word]
        return make(names, condition, body, other)

    def _declared(self) -> list[str]:
        """``$x :=`` or ``$i, $e :=`` at the reading position."""
        start, names = self._position, list[str]()
        while self._kind() == "variable":
            names.append(self._next()[1])
            if self._peek() == ",":
                self._position += 1
            elif self._peek() in (":=", "="):
                self._position += 1
                return names
            else:
                break
        self._position = start
        return []

    def _action(self) -> Node:
        names = self._declared()
        expression = self._whole()
        if names:
            return _assign(names[0], expression)
        return lambda dot, scope: show(expression(dot, scope))

    def _whole(self) -> Expression:
        expression = self._pipeline()
        self._finish()
        return expression

    def _finish(self) -> None:
        if self._position < len(self._tokens):
            raise TemplateError(f"unexpected {self._peek()!r} in the template")

    def _pipeline(self) -> Expression:
        expression = self._command(None)
        while self._peek() == "|":
            self._position += 1
            expression = self._command(expression)
        return expression

    def _command(self, piped: Expression | None) -> Expression:
        operands: list[Expression] = []
        function = ""
        if self._kind() == "word" and self._peek() not in ("true", "false", "nil"):
            function = self._next()[1]
            if function not in FUNCTIONS:
                raise TemplateError(f'function "{function}" not defined')
        while self._position < len(self._tokens) and self._peek() not in ("|", ")"):
            operands.append(self._operand())
        if piped is not None:
            if not function and not operands:
                raise TemplateError("missing value for command")
            operands.append(piped)
        if function:
            return _call(function, operands)
        if not operands:
            raise TemplateError("missing value for command")
        if len(operands) == 1:
            return operands[0]
        return _apply(operands[0], operands[1:])

    def _operand(self) -> Expression:
        kind, text, _ = self._next()
        if kind == "string":
            value: Any = text[1:-1] if text[0] == "`" else json.loads(text)
            return lambda dot, scope: value
        if kind == "number":
            number = int(text)
            return lambda dot, scope: number
        if kind == "word":
            if text not in ("true", "false", "nil"):
                raise TemplateError(f"unexpected {text!r} in the template")
            constant = {"true": True, "false": False, "nil": None}[text]
            return lambda dot, scope: constant
        if kind == "variable":
            return self._fields(_variable(text))
        if kind == "dot":
            return lambda dot, scope: dot
        if kind == "field":
            name = text[1:]
            return self._fields(lambda dot, scope: field(dot, name))
        if text == "(":
            inner = self._pipeline()
            if self._peek() != ")":
                raise TemplateError("unclosed left parenthesis in the template")
            self._position += 1
            return self._fields(inner)
        raise TemplateError(f"unexpected {text!r} in the template")

    def _fields(self, expression: Expression) -> Expression:
        """``.A.B`` that stand directly behind an operand."""
        while self._kind() == "field" and not self._tokens[self._position][2]:
            expression = _field_of(expression, self._next()[1][1:])
        return expression

    def _peek(self) -> str:
        return self._tokens[self._position][1] if self._position < len(self._tokens) else ""

    def _kind(self) -> str:
        return self._tokens[self._position][0] if self._position < len(self._tokens) else ""

    def _next(self) -> tuple[str, str, bool]:
        if self._position == len(self._tokens):
            raise TemplateError("unexpected end of an action in the template")
        self._position += 1
        return self._tokens[self._position - 1]


def _split(text: str) -> Iterator[tuple[str, str]]:
    """Text and actions in turn, white space trimmed where {{- and -}} say so."""
    position = 0
    eat = False
    for match in _ACTION.finditer(text):
        before, left, action, right, after = match.groups()
        plain = text[position : match.start()] + ("" if left else before)
        plain = plain.lstrip() if eat else plain
        if plain:
            yield "text", plain
        if not (action.strip().startswith("/*") and action.strip().endswith("*/")):
            yield "action", action
        eat = bool(right)
        position = match.end() - len(after)
    rest = text[position:].lstrip() if eat else text[position:]
    if "{{" in rest:
        raise TemplateError("unclosed action in the template")
    if rest:
        yield "text", rest


def _tokens(action: str) -> list[tuple[str, str, bool]]:
    """(kind, text, whether white space stands before it)."""
    found: list[tuple[str, str, bool]] = []
    position, action = 0, action.rstrip()
    while position < len(action):
        match = _TOKEN.match(action, position)
        if not match or not match.lastgroup:
            raise TemplateError(f"unexpected {action[position:].strip()[:10]!r} in the template")
        text = match[match.lastgroup]
        found.append((match.lastgroup, text, match.end() - len(text) > position))
        position = match.end()
    if not found:
        raise TemplateError("missing value for command")
    return found


# -- nodes --------------------------------------------------------------------------------------------------------


def _text(text: str) -> Node:
    return lambda dot, scope: text


def _nodes(nodes: list[Node], dot: Any, scope: Scope) -> str:
    return "".join(node(dot, scope) for node in nodes)


def _assign(name: str, expression: Expression) -> Node:
    def node(dot: Any, scope: Scope) -> str:
        scope[name] = expression(dot, scope)
        return ""

    return node


def _if(names: list[str], condition: Expression, body: list[Node], other: list[Node]) -> Node:
    def node(dot: Any, scope: Scope) -> str:
        value = condition(dot, scope)
        if names:
            scope = {**scope, names[0]: value}
        return _nodes(body if value else other, dot, scope)

    return node


def _with(names: list[str], condition: Expression, body: list[Node], other: list[Node]) -> Node:
    def node(dot: Any, scope: Scope) -> str:
        value = condition(dot, scope)
        if names:
            scope = {**scope, names[0]: value}
        return _nodes(body, value, scope) if value else _nodes(other, dot, scope)

    return node


def _range(names: list[str], condition: Expression, body: list[Node], other: list[Node]) -> Node:
    def node(dot: Any, scope: Scope) -> str:
        value = condition(dot, scope)
        if not value:
            return _nodes(other, dot, scope)
        if isinstance(value, dict):
            items: list[tuple[Any, Any]] = sorted(value.items())  # Go ranges over maps in the order of their keys
        elif isinstance(value, list):
            items = list(enumerate(value))
        else:
            raise TemplateError(f"range can't iterate over {show(value)}")
        out = ""
        for key, element in items:
            inner = dict(scope)
            if names:
                inner[names[-1]] = element
            if len(names) == 2:
                inner[names[0]] = key
            out += _nodes(body, element, inner)
        return out

    return node


# -- expressions --------------------------------------------------------------------------------------------------


def _variable(name: str) -> Expression:
    def expression(dot: Any, scope: Scope) -> Any:
        if name not in scope:
            raise TemplateError(f'undefined variable "{name}"')
        return scope[name]

    return expression


def _field_of(expression: Expression, name: str) -> Expression:
    return lambda dot, scope: field(expression(dot, scope), name)


def _call(function: str, operands: list[Expression]) -> Expression:
    def expression(dot: Any, scope: Scope) -> Any:
        try:
            return FUNCTIONS[function](*[operand(dot, scope) for operand in operands])
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise TemplateError(f"error calling {function}: {error}") from None

    return expression


def _apply(target: Expression, operands: list[Expression]) -> Expression:
    """A method of a row, such as ``.Label "name"``."""

    def expression(dot: Any, scope: Scope) -> Any:
        function = target(dot, scope)
        if not callable(function):
            raise TemplateError("can't give argument to non-function")
        return function(*[operand(dot, scope) for operand in operands])

    return expression


def field(value: Any, name: str) -> Any:
    """``.Name`` of *value*."""
    if value is None:
        raise TemplateError(f"nil data; no entry for key {name!r}")
    if not isinstance(value, dict):
        raise TemplateError(f"can't evaluate field {name} in {show(value)}")
    if name in value:
        return value[name]
    for key in value:
        if key.lower() == name.lower():
            return value[key]
    known = ", ".join(list(map(str, value))[:40])
    raise TemplateError(f"map has no entry for key {name!r}", hint=f"there are: {known}" if known else None)
