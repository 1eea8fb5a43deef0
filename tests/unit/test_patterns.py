"""Regular expressions of filters: what they find, what is none, and that none takes longer than its name is long."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.engine.patterns import MOST_STEPS, NoExpression, Pattern, matcher
from pynet.netlib.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "found", "not_found"),
    [
        ("web", ["web", "web-1", "my-web"], ["we", "WEB", ""]),
        ("^web$", ["web"], ["web1", "aweb"]),
        ("^/?web$", ["web", "/web"], ["a/web"]),
        ("^web-(a|b)[0-9]+$", ["web-a1", "web-b234"], ["web-c1", "web-a"]),
        ("a{2,3}b", ["aab", "aaaab"], ["ab"]),
        ("^a{2}$", ["aa"], ["a", "aaa"]),
        ("^a{2,}$", ["aa", "aaaaa"], ["a"]),
        ("a{,2}", ["a{,2}"], ["aa"]),
        ("^(?:x|yz)*?$", ["", "xyzx"], ["y"]),
        ("(?P<n>a)(?<m>b)", ["ab"], ["ba"]),
        (r"\d\D\w\W\s\S", ["1aZ- x"], ["aaaaaa"]),
        (r"^[^a-c\d]$", ["d", "-"], ["a", "5"]),
        (r"^[[:upper:]][[:^digit:]]$", ["Ax", "Z-"], ["ax", "A1"]),
        ("^[]a]$", ["]", "a"], ["[]"]),
        ("^[a-]$", ["a", "-"], ["b"]),
        (r"\bweb\b", ["my web 1", "a.web"], ["webs", "aweb"]),
        (r"\Bweb", ["aweb"], ["web", "a web"]),
        (r"\Aa\z", ["a"], ["aa"]),
        (r"^\x61\x{62}\.\-$", ["ab.-"], ["ab--"]),
        ("(?i)^WeB[a-c]$", ["web" + "B", "WEBc"], ["webd"]),
        ("a.c", ["abc", "a.c"], ["ac", "a\nc"]),
        ("", ["", "x"], []),
        ("a|", ["", "x"], []),
    ],
)
def test_what_is_found(text: str, found: list[str], not_found: list[str]) -> None:
    pattern = Pattern(text)
    assert [name for name in found if not pattern.search(name)] == []
    assert [name for name in not_found if pattern.search(name)] == []


@pytest.mark.parametrize(
    "text",
    ["*", "a**", "a|*b", "(", ")", "(a", "[", "[a", "[b-a]", r"[\d-z", "\\", r"\p", r"\Q", "(?=a)", "(?!a)", "(?<!a)b", r"\1",
     "a{2,1}", "a{1001}", "{2}", "[[:nobody:]]", r"\x{110000}", "(" * 60 + ")" * 60],
)  # fmt: skip
def test_what_is_no_expression_is_a_part_of_the_name(text: str) -> None:
    with pytest.raises(NoExpression):
        Pattern(text)
    finds = matcher([text])
    assert finds(f"x{text}y")
    assert not finds("box")


CATASTROPHES = [
    "(a+)+$",
    "(a|a)*$",
    "(a|aa)+$",
    "(.*)*$",
    "a*a*a*a*a*a*a*a*a*a*a*a*$",
    "(a?){64}a{64}$",
    "((a*)*)*$",
    r"(\w|a)+\.",
]


@pytest.mark.parametrize("text", CATASTROPHES)
def test_no_expression_goes_a_way_twice(text: str) -> None:
    """Each of them keeps Python's re for longer than a session."""
    assert not Pattern(text + "b" if text.endswith("$") else text).search("a" * 500)
    assert Pattern(text).search("a" * 500 + ("." if text.endswith(".") else ""))


@pytest.mark.parametrize(
    "text", ["a{1000}{1}", "(a{1000}){1000}", "(((){1000}){1000}){1000}", "(|){1000}" * 10, "x" * (MOST_STEPS + 1)]
)
def test_no_expression_is_larger_than_it_may_be(text: str) -> None:
    try:
        Pattern(text)
    except NoExpression:
        assert text == "a{1000}{1}", "a repetition of a repetition, as Go says"
    except InvalidArgument as error:
        assert f"more than {MOST_STEPS} steps" in str(error) and error.hint
    else:
        pytest.fail("it was written out")


ATOMS = st.sampled_from(["a", "b", "-", ".", "[ab]", "[^a]", r"\w", r"\d", r"\b", "^", "$"])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=0, max_size=3).map(lambda parts: f"(?:{''.join(parts)})"),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,1}", "*?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS, st.lists(st.text("ab-1", max_size=6), min_size=1, max_size=3))
def test_it_finds_what_python_finds(text: str, names: list[str]) -> None:
    pattern, pythons = Pattern(text), re.compile(text.replace("$", r"\Z"))
    for name in names:
        assert pattern.search(name) == bool(pythons.search(name)), name


def test_values_of_a_filter_are_alternatives() -> None:
    finds = matcher(["^a$", "b{"], "/")
    assert [name for name in ("a", "ab", "xb{y", "b") if finds(name)] == ["a", "xb{y"]
    assert matcher(["^/a$"], "/")("a")
    assert not matcher(["^/a$"])("a")
    assert matcher([])("anything")
