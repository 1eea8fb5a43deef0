"""Who imports whom in the tree, read from the source: edges between our own modules, and the circles they make.

    graph = imports(TOP, ROOMS)
    graph["engine.daemon"]["engine.system"]      # {"load"}, {"late"}, {"typing"}, or several of them

``load`` happens as the module is loaded, ``late`` inside a function, ``typing`` under ``if TYPE_CHECKING``.  A late
import counts as a run-time one: it only hides a circle.  Packages on the way are empty here (a test sees to that), so an
import of ``a.b.c`` is an edge to that module alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

Graph = dict[str, dict[str, set[str]]]
"""Importer -> imported -> when."""


def imports(top: Path, rooms: tuple[str, ...]) -> Graph:
    """Every module of *rooms*, by its dotted name without the umbrella, and what it imports of the others."""
    paths = {_name(top, path): path for room in rooms for path in (top / room).rglob("*.py")}
    graph: Graph = {}
    for name, path in sorted(paths.items()):
        found = graph.setdefault(name, {})
        package = path.relative_to(top).parts[:-1]
        for node, when in _walk(ast.parse(path.read_text(), str(path)), "load"):
            for target in _targets(node, package, paths):
                if target != name:
                    found.setdefault(target, set()).add(when)
    return graph


def only(graph: Graph, *when: str) -> dict[str, set[str]]:
    """The edges that exist at one of those times."""
    return {name: {other for other, times in edges.items() if times & set(when)} for name, edges in graph.items()}


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """A shortest circle, from a module back to itself; [] when there is none."""
    found: list[str] = []
    for group in _strong(edges):
        for start in group:
            path = path_between(edges, start, start, within=group)
            if path and (not found or len(path) < len(found)):
                found = path
    return found


def path_between(edges: Mapping[str, set[str]], start: str, end: str, within: set[str] | None = None) -> list[str]:
    """The shortest way along imports from *start* to *end* (at least one step); [] when there is none."""
    before: dict[str, str] = {}
    front = [start]
    while front:
        following: list[str] = []
        for name in front:
            for other in sorted(edges.get(name, ())):
                if other == end:
                    path = [end, name]
                    while path[-1] != start:
                        path.append(before[path[-1]])
                    return path[::-1]
                if other not in before and other != start and (within is None or other in within):
                    before[other] = name
                    following.append(other)
        front = following
    return []


def _name(top: Path, path: Path) -> str:
    parts = path.relative_to(top).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _walk(node: ast.AST, when: str) -> Iterator[tuple[ast.AST, str]]:
    """All nodes below *node*, each with the time at which it runs."""
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            inner = when
            if isinstance(node, ast.If) and field == "body" and "TYPE_CHECKING" in ast.unparse(node.test):
                inner = "typing"
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and field == "body":
                inner = "late"
            yield child, inner
            yield from _walk(child, inner)


def _targets(node: ast.AST, package: tuple[str, ...], known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of *known* that an import statement of a module in *package* loads, packages on the way left out."""
    if isinstance(node, ast.ImportFrom):
        if node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
        elif (node.module or "").partition(".")[0] == "pynet":
            base = (node.module or "").split(".")[1:]
        else:
            return
        target = ".".join(filter(None, base))
        for alias in node.names:
            name = f"{target}.{alias.name}"
            if name in known:
                yield name
            elif target in known:
                yield target
    elif isinstance(node, ast.Import):
        for alias in node.names:
            first, _, rest = alias.name.partition(".")
            if first == "pynet" and rest in known:
                yield rest


def _strong(edges: Mapping[str, set[str]]) -> list[set[str]]:
    """The groups of modules that all reach one another (Tarjan), larger than one."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(edges.get(name, ())):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group: set[str] = set()
            while name not in group:
                group.add(stack.pop())
            if len(group) > 1:
                found.append(group)

    for name in sorted(edges):
        if name not in index:
            visit(name)
    return found
