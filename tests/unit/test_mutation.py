"""The mistakes that ``make mutants`` makes: each kind is found, each still compiles, and what only people read is left alone."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from support.mutation import mutants

TOP = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("source", "kind", "result"),
    [
        ("x = a < b\n", "comparison", "x = a <= b\n"),
        ("x = a is not None\n", "comparison", "x = a is None\n"),
        ("x = min(a, b)\n", "comparison", "x = max(a, b)\n"),
        ("x = a and b\n", "operand", "x = a\n"),
        ("x = a and b\n", "operand", "x = b\n"),
        ("x = [a for a in b if c]\n", "operand", "x = [a for a in b if True]\n"),
        ("x = not a\n", "not", "x = a\n"),
        ("f(a=True)\n", "flag", "f(a=False)\n"),
        ("if quiet:\n    f()\n", "flag", "if True:\n    f()\n"),
        ("f.close()\n", "dropped", "pass\n"),
        ("count += 1\n", "dropped", "pass\n"),
        ("try:\n    f()\nexcept E:\n    g()\n    raise\n", "except", "try:\n    f()\nexcept E:\n    pass\n"),
        ("f()\ng()\n", "order", "g()\nf()\n"),
        ("x = f(O_NOFOLLOW | O_CLOEXEC)\n", "bits", "x = f(O_CLOEXEC)\n"),
        ("x = n + 1\n", "constant", "x = n\n"),
        ("x = 7\n", "constant", "x = 8\n"),
        ("def f(*, deep=False):\n    return deep\n", "flag", "def f(*, deep=True):\n    return deep\n"),
        ("x = 'ü' if a else b\n", "flag", "x = 'ü'\n"),
    ],
)
def test_a_mistake_is_made(source: str, kind: str, result: str) -> None:
    assert result in [mutant.applied(source) for mutant in mutants("m.py", source) if mutant.kind == kind]


@pytest.mark.parametrize(
    "source",
    [
        '"""Words."""\n',
        "import os\n",
        "log.info('x', 1)\n",
        "raise E(f'{a} of {1 + 2}')\n",
        "def f(a: int | None) -> int | None: ...\n",
        "if TYPE_CHECKING:\n    f()\n",
        "x: dict[str, int | None]\n",
    ],
)
def test_what_only_people_and_checkers_read_is_left_alone(source: str) -> None:
    assert mutants("m.py", source) == []


def test_a_mistake_is_known_again_when_lines_have_moved() -> None:
    (before,) = mutants("m.py", "x = a < b\n")
    moved = "import os\n\nif y():\n    x = a < b\n"
    after = next(mutant for mutant in mutants("m.py", moved) if mutant.text == " <= ")
    assert before.change("x = a < b\n") == after.change(moved) == ("x = a < b", "x = a <= b")


def test_a_statement_that_passes_its_neighbour_above_is_not_the_one_that_passes_that_below() -> None:
    source = "f()\ng()\nh()\n"
    changes = [mutant.change(source) for mutant in mutants("m.py", source) if mutant.kind == "order"]
    assert changes == [("f() g()", "g() f()"), ("g() h()", "h() g()")]


def test_mistakes_that_change_nothing_are_still_what_the_list_says() -> None:
    """tests/mutants.toml: a line that has changed is judged anew."""
    for entry in tomllib.loads((TOP / "tests/mutants.toml").read_text()).get("equivalent", []):
        source = (TOP / entry["path"]).read_text()
        changes = [mutant.change(source) for mutant in mutants(entry["path"], source)]
        assert (entry["before"], entry["after"]) in changes, f"no longer so: {entry}"
        assert entry["why"]
