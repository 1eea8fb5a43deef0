"""Plausible mistakes in a module's source: each a replacement of a few characters, found by its syntax tree.

    for mutant in mutants(path, text):
        mutant.kind, mutant.line, mutant.applied(text)

The kinds are those that a reading of this tree's own history and tests suggested: a comparison off by one or turned round,
an operand of ``and`` or ``or`` missing, a flag ignored, a call whose result nobody reads left out (close, release, undo),
what an ``except`` does left out, two statements in the wrong order, a flag of a system call missing, a constant off by one.
What only people read (messages, logs, documentation, annotations) is left alone.
"""

from __future__ import annotations

import ast
import difflib
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
_SPOKEN = {"log", "print", "warnings", "logging"}
"""Calls that only people read."""


@dataclass(frozen=True)
class Mutant:
    path: str
    kind: str
    line: int
    start: int
    """Offsets of the replaced characters."""
    end: int
    text: str

    def applied(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.end :]

    def compiles(self, source: str) -> bool:
        try:
            compile(self.applied(source), self.path, "exec")
        except (SyntaxError, ValueError):
            return False
        return True

    def diff(self, source: str) -> str:
        before, after = source.splitlines(), self.applied(source).splitlines()
        return "\n".join(difflib.unified_diff(before, after, f"a/{self.path}", f"b/{self.path}", lineterm="", n=2))

    def change(self, source: str) -> tuple[str, str]:
        """The lines that go and those that come, without indentation: what stays when line numbers move.

        Of two statements that change places both are told: a diff shows one, which could have passed either neighbour.
        """
        if self.kind == "order":
            gone, come = (
                " ".join(map(str.strip, text.splitlines())) for text in (source[self.start : self.end], self.text)
            )
            return gone, come
        lines = self.diff(source).splitlines()[2:]
        gone = " ".join(line[1:].strip() for line in lines if line.startswith("-"))
        come = " ".join(line[1:].strip() for line in lines if line.startswith("+"))
        return gone, come


def mutants(path: str, source: str) -> list[Mutant]:
    """All that can be made of a module; some do not compile."""
    finder = _Finder(path, source)
    finder.block(ast.parse(source).body)
    found: dict[tuple[int, int, str], Mutant] = {}
    for mutant in finder.found:
        found.setdefault((mutant.start, mutant.end, mutant.text), mutant)
    return list(found.values())


class _Finder:
    def __init__(self, path: str, source: str) -> None:
        self.path, self.source = path, source
        self.found: list[Mutant] = []
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._text = source.splitlines(keepends=True)

    def _offset(self, line: int, column: int) -> int:
        """*column* counts bytes of UTF-8, as ast does."""
        text = self._text[line - 1]
        return self._lines[line - 1] + (
            column if text.isascii() else len(text.encode()[:column].decode(errors="ignore"))
        )

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno, node.end_col_offset)

    def _add(self, kind: str, line: int, start: int, end: int, text: str) -> None:
        if self.source[start:end] != text:
            self.found.append(Mutant(self.path, kind, line, start, end, text))

    def _replace(self, kind: str, node: ast.expr | ast.stmt, text: str) -> None:
        self._add(kind, node.lineno, *self._span(node), text)

    def _of(self, node: ast.expr | ast.stmt) -> str:
        start, end = self._span(node)
        return self.source[start:end]

    # -- statements ----------------------------------------------------------------------------------------------

    def block(self, body: list[ast.stmt]) -> None:
        for statement, following in zip(body, [*body[1:], None]):
            self._statement(statement)
            if following is not None and _acts(statement) and _acts(following):
                start, middle = self._span(statement)
                second, end = self._span(following)
                swapped = self.source[second:end] + self.source[middle:second] + self.source[start:middle]
                self._add("order", statement.lineno, start, end, swapped)

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Raise() | ast.Assert():
                return
            case ast.If(test=test) if "TYPE_CHECKING" in ast.unparse(test):
                return
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for value in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
                    self._expression(value)
                self.block(node.body)
                return
            case ast.ClassDef():
                self.block(node.body)
                return
            case ast.Expr(value=ast.Constant()):
                return
            case ast.AnnAssign(value=value):
                if value is not None:
                    self._expression(value)
                return
            case ast.Expr(value=value):
                call = value.value if isinstance(value, ast.Await) else value
                if isinstance(call, ast.Call) and not _is_spoken(call):
                    self._replace("dropped", node, "pass")
            case ast.AugAssign() | ast.Delete():
                self._replace("dropped", node, "pass")
            case ast.If(test=test) | ast.While(test=test):
                if isinstance(test, (ast.Name, ast.Attribute)) and isinstance(node, ast.If):
                    self._replace("flag", test, "True")
                    self._replace("flag", test, "False")
            case ast.Try():
                for handler in node.handlers:
                    if not all(isinstance(inner, (ast.Pass, ast.Raise)) for inner in handler.body):
                        start, end = self._span(handler.body[0])[0], self._span(handler.body[-1])[1]
                        self._add("except", handler.lineno, start, end, "pass")
            case _:
                pass
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._expression(child)
            elif isinstance(child, (ast.ExceptHandler, ast.match_case)):
                self.block(child.body)
            elif isinstance(child, ast.withitem):
                self._expression(child.context_expr)
        for name in ("body", "orelse", "finalbody"):
            self.block(getattr(node, name, []))

    # -- expressions ---------------------------------------------------------------------------------------------

    def _expression(self, node: ast.expr) -> None:
        match node:
            case ast.JoinedStr() | ast.Lambda():
                return
            case ast.Call() if _is_spoken(node):
                return
            case ast.BoolOp(values=values):
                word = " and " if isinstance(node.op, ast.And) else " or "
                for index in range(len(values)):
                    kept = [self._of(value) for number, value in enumerate(values) if number != index]
                    self._replace("operand", node, word.join(kept))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self._replace("not", node, self._of(operand))
            case ast.Compare(left=left, ops=[operator], comparators=[right]):
                old, new = _COMPARISONS[type(operator)]
                start, end = self._span(left)[1], self._span(right)[0]
                between = self.source[start:end]
                if between.strip() == old:
                    self._add("comparison", node.lineno, start, end, between.replace(old, new))
            case ast.BinOp(left=left, op=ast.BitOr() | ast.BitAnd(), right=right):
                self._replace("bits", node, self._of(left))
                self._replace("bits", node, self._of(right))
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=ast.Constant(value=int())):
                self._replace("constant", node, self._of(left))
            case ast.Constant(value=bool() as value):
                self._replace("flag", node, str(not value))
            case ast.Constant(value=int() as value) if value < 10_000:
                self._replace("constant", node, str(value + 1))
            case ast.IfExp(body=body, orelse=orelse):
                self._replace("flag", node, self._of(body))
                self._replace("flag", node, self._of(orelse))
            case ast.Name(id="min" | "max" as name):
                self._replace("comparison", node, "max" if name == "min" else "min")
            case _:
                pass
        for child in ast.walk(node):
            if child is not node and isinstance(child, ast.expr) and _parent_is(node, child):
                self._expression(child)
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                self._expression(keyword.value)
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            for generator in node.generators:
                self._expression(generator.iter)
                for test in generator.ifs:
                    self._replace("operand", test, "True")
                    self._expression(test)


def _parent_is(node: ast.AST, child: ast.AST) -> bool:
    return any(child is inner for inner in ast.iter_child_nodes(node))


def _is_spoken(call: ast.Call) -> bool:
    target = call.func
    while isinstance(target, ast.Attribute):
        target = target.value
    return isinstance(target, ast.Name) and target.id in _SPOKEN


def _acts(node: ast.stmt) -> bool:
    """Whether the statement is worth another place: a call, or what keeps the result of one."""
    if isinstance(node, ast.Expr):
        value = node.value.value if isinstance(node.value, ast.Await) else node.value
        return isinstance(value, ast.Call) and not _is_spoken(value)
    return isinstance(node, (ast.Assign, ast.AugAssign)) and any(isinstance(part, ast.Call) for part in ast.walk(node))
