"""The reader of imports that the house's tests stand on: it must see each kind, or it proves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.imports import circle, imports, only, path_between


def tree(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "room").mkdir()
    for name, text in {"__init__": "", **files}.items():
        (tmp_path / "room" / f"{name}.py").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("statement", "when"),
    [
        ("from .b import name", "load"),
        ("from . import b", "load"),
        ("from ..room import b", "load"),
        ("from pynet.room import b", "load"),
        ("import pynet.room.b", "load"),
        ("try:\n    from .b import name\nexcept ImportError:\n    pass", "load"),
        ("class C:\n    from .b import name", "load"),
        ("def f():\n    from .b import name", "late"),
        ("async def f():\n    if True:\n        from . import b", "late"),
        ("if TYPE_CHECKING:\n    from .b import name", "typing"),
        ("if typing.TYPE_CHECKING:\n    from .b import name\nelse:\n    name = 0", "typing"),
    ],
)
def test_an_import_is_seen_with_its_time(tmp_path: Path, statement: str, when: str) -> None:
    graph = imports(tree(tmp_path, a=statement, b="from . import a"), ("room",))
    assert graph["room.a"] == {"room.b": {when}}
    assert set(circle(only(graph, "load", when))) == {"room.a", "room.b"}


def test_what_stands_beside_type_checking_happens_at_run_time(tmp_path: Path) -> None:
    graph = imports(tree(tmp_path, a="if TYPE_CHECKING:\n    pass\nelse:\n    from . import b", b=""), ("room",))
    assert graph["room.a"] == {"room.b": {"load"}}


def test_others_packages_are_not_ours(tmp_path: Path) -> None:
    graph = imports(tree(tmp_path, a="import os.path\nfrom room import b\nfrom ... import b", b=""), ("room",))
    assert graph["room.a"] == {}


def test_the_shortest_circle_is_named(tmp_path: Path) -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"d", "a"}, "d": {"c"}, "e": {"a"}}
    assert circle(edges) in (["c", "d", "c"], ["d", "c", "d"])
    assert path_between(edges, "e", "d") == ["e", "a", "b", "c", "d"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
