"""What a control message may say about ports."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.netlib.errors import InvalidArgument
from pynet.proxy import ports
from pynet.proxy.process import guard


def _entry(**changes: Any) -> dict[str, Any]:
    return {"id": "a", "proto": "tcp", "target": ["10.0.0.2", 80], **changes}


def test_a_listen_becomes_specifications_in_order() -> None:
    message = {"ports": [_entry(), _entry(id="b", proto="udp", target=["fd00::1", 53], drain=0)]}
    first, second = ports.parse_listen(message, 2)
    assert first == ports.PortSpec(
        "a", "tcp", ports.Target("10.0.0.2", 80, socket.AF_INET, ("10.0.0.2", 80)), ports.DEFAULT_DRAIN
    )
    assert second.target.address == ("fd00::1", 53, 0, 0)
    assert second.target.family == socket.AF_INET6
    assert second.drain == 0.0


def test_a_link_local_target_keeps_its_scope() -> None:
    assert ports.parse_target(["fe80::1%7", 80]).address == ("fe80::1", 80, 0, 7)
    assert ports.parse_target(["fe80::1%lo", 80]).address == ("fe80::1", 80, 0, socket.if_nametoindex("lo"))


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"id": 7},
        {"id": "x" * 257},
        {"proto": "dccp"},
        {"proto": None},
        {"target": None},
        {"target": ["10.0.0.2"]},
        {"target": ["10.0.0.2", "80"]},
        {"target": ["10.0.0.2", True]},
        {"target": ["10.0.0.2", 0]},
        {"target": ["10.0.0.2", 65536]},
        {"target": ["10.0.0.256", 80]},
        {"target": ["localhost", 80]},
        {"target": ["::1%nonesuch0", 80]},
        {"target": ["fe80::1%-1", 80]},
        {"target": ["10.0.0.2\0", 80]},
        {"drain": -1},
        {"drain": float("nan")},
        {"drain": float("inf")},
        {"drain": "1"},
        {"drain": True},
    ],
)
def test_a_bad_entry_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        ports.parse_listen({"ports": [_entry(**changes)]}, 1)


@pytest.mark.parametrize(
    ("message", "descriptors"),
    [
        ({}, 0),
        ({"ports": {}}, 0),
        ({"ports": [7]}, 1),
        ({"ports": [_entry()]}, 0),
        ({"ports": [_entry()]}, 2),
        ({"ports": [_entry(), _entry()]}, 2),
    ],
)
def test_a_bad_listen_is_refused(message: dict[str, Any], descriptors: int) -> None:
    with pytest.raises(InvalidArgument):
        ports.parse_listen(message, descriptors)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "proto", "target", "drain", "ports", "ids", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(_JSON, st.integers(0, 3))
def test_whatever_arrives_is_a_value_or_an_invalid_argument(value: Any, descriptors: int) -> None:
    for parse in (
        lambda: ports.parse_listen({"ports": value}, descriptors),
        lambda: ports.parse_retarget({"ports": value}),
        lambda: ports.parse_ids(value),
        lambda: ports.parse_drain(value),
        lambda: ports.parse_target(value),
        lambda: guard.parse_argv(value),
    ):
        try:
            json.dumps(parse())
        except InvalidArgument:
            pass
