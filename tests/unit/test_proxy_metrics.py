"""The exposition, read by a parser that knows the format 0.0.4 and forgives nothing."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.netlib.ports.told import PortStats, Stats
from pynet.proxy.dataplane import counters
from pynet.proxy.process import metrics

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"')
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (\S+)")
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Family(NamedTuple):
    kind: str
    samples: Samples


def parse(text: str) -> dict[str, Family]:
    """Each family once: HELP, TYPE, samples, nothing between; no sample twice; histograms whole and cumulative."""
    assert text.endswith("\n")
    families: dict[str, Family] = {}
    helped = current = ""
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            helped, _, words = line[7:].partition(" ")
            assert re.fullmatch(_NAME, helped)
            assert words
            assert helped not in families
            continue
        if line.startswith("# TYPE "):
            current, _, kind = line[7:].partition(" ")
            assert current == helped
            assert kind in ("counter", "gauge", "histogram")
            assert kind != "counter" or current.endswith("_total")
            families[current] = Family(kind, {})
            continue
        match = _SAMPLE.fullmatch(line)
        assert match, line
        name, inner, value = match.groups()
        family = families[current]
        suffix = name.removeprefix(current)
        assert suffix in (("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",))
        labels: dict[str, str] = {}
        position = 0
        while inner and position < len(inner):
            label = _LABEL.match(inner, position)
            assert label, line
            assert label[1] not in labels
            labels[label[1]] = re.sub(r"\\.", lambda found: _ESCAPES[found[0]], label[2])
            position = label.end()
            assert position == len(inner) or inner[position] == ","
            position += 1
        key = (suffix, frozenset(labels.items()))
        assert key not in family.samples, line
        family.samples[key] = float(value)
    for family in families.values():
        if family.kind == "histogram":
            _check_histogram(family.samples)
    return families


def _check_histogram(samples: Samples) -> None:
    rows: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}
    for (suffix, labels), value in samples.items():
        if suffix == "_bucket":
            bound = dict(labels)["le"]
            rest = frozenset(label for label in labels if label[0] != "le")
            rows.setdefault(rest, []).append((float(bound.replace("+Inf", "inf")), value))
    for rest, buckets in rows.items():
        counts = [count for _, count in sorted(buckets)]
        assert counts == sorted(counts)
        assert sorted(buckets)[-1][0] == math.inf
        assert samples["_count", rest] == counts[-1]
        assert ("_sum", rest) in samples


def _port(proto: str = "tcp", *, connections: int = 3, dropped: int = 0) -> PortStats:
    counted = counters.Counters()
    counted.connections, counted.active, counted.bytes_in, counted.bytes_out = connections, 1, 10, 1 << 60
    counted.dropped = dropped
    port = counted.told(proto)
    if proto == "tcp":
        times = counters.Times()
        for seconds in (0.0001, 0.001, 0.0011, 100.0):
            times.add(seconds)
        port["connect"] = times.told()
    return port


def _render(ports: dict[str, PortStats]) -> dict[str, Family]:
    stats: Stats = {"pid": 2, "ports": ports, "workers": [1], "processes": [2, 3]}
    return parse("".join(metrics.render(stats, metrics.process_statistics())))


@given(st.dictionaries(st.text(min_size=1, max_size=12), st.sampled_from(["tcp", "udp"]), max_size=5))
def test_whatever_a_port_is_called_it_is_read_back(ports: dict[str, str]) -> None:
    families = _render({name: _port(proto) for name, proto in ports.items()})
    samples = families["pynet_proxy_connections_total"].samples
    assert samples == {("", frozenset({("port", name), ("proto", proto)})): 3 for name, proto in ports.items()}


def test_what_is_counted_is_told() -> None:
    families = _render({"a": _port(), "b": _port("udp", dropped=7)})
    a, b = (frozenset({("port", name), ("proto", proto)}) for name, proto in (("a", "tcp"), ("b", "udp")))
    assert families["pynet_proxy_sent_bytes_total"].samples["", a] == 1 << 60
    assert families["pynet_proxy_dropped_total"].samples["", b] == 7
    assert families["pynet_proxy_connections_active"].kind == "gauge"
    times = families["pynet_proxy_backend_connect_seconds"]
    assert times.samples["_bucket", a | {("le", "0.001")}] == 2  # a bound belongs to its bucket
    assert times.samples["_bucket", a | {("le", "0.005")}] == 3
    assert times.samples["_bucket", a | {("le", "10.0")}] == 3
    assert times.samples["_count", a] == 4
    assert ("_count", b) not in times.samples
    assert families["pynet_proxy_processes"].samples["", frozenset()] == 2
    assert families["process_resident_memory_bytes"].samples["", frozenset()] > 1 << 20
    assert families["process_open_fds"].samples["", frozenset()] >= 3


def test_the_parser_is_strict() -> None:
    head = "# HELP x_total X.\n# TYPE x_total counter\n"
    parse(head + "x_total 1\n")
    for bad in ("x_total  1\n", "x_total 1\nx_total 2\n", 'x_total{a="\\q"} 1\n', 'x_total{a="b" c="d"} 1\n', "y 1\n"):
        with pytest.raises(AssertionError):
            parse(head + bad)


def test_counters_of_two_processes_add_up() -> None:
    one = _port()
    counters.merge(one, _port(connections=4))
    assert (one["connections"], one["bytes_out"], one["proto"]) == (7, 1 << 61, "tcp")
    times = one.get("connect")
    assert times is not None
    assert (times["count"], times["longest"]) == (8, 100.0)
    assert times["buckets"] == [4, 2, 0, 0, 0, 0, 0, 2]
