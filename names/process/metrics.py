"""What the name server counts, as Prometheus' text exposition format 0.0.4: a part of the forwarder's page (docs/proxy.md)."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Mapping

from ..forward import Forwarder

_FAMILIES: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "questions_total",
        "Questions, by how they were answered.",
        (
            ("local", "local"),
            ("memo", "memo"),
            ("cache", "cached"),
            ("forwarded", "forwarded"),
            ("refused", "refused"),
            ("malformed", "malformed"),
        ),
    ),
    ("transport_total", "Questions, by how they came.", (("udp", "udp"), ("tcp", "tcp"))),
    ("failed_total", "Forwarded questions that nobody had an answer to.", (("", "failed"),)),
    ("unsent_total", "Answers that could not be sent.", (("", "unsent"),)),
    ("connections_total", "TCP connections accepted.", (("", "connections"),)),
    ("connections_cut_total", "TCP connections that a limit ended.", (("", "cut"),)),
)
_LABELS = {"questions_total": "answer", "transport_total": "proto"}

_SOURCES = ("upstream", "shared", "stale", "failed", "refused", "loop", "nobody")
"""names/forward.py's Source.kind, but for *cache*, which is among the questions."""


def render_forwarding(forwarder: Forwarder) -> Iterator[str]:
    """What is known of the world outside.  Of upstreams the host's alone: sandboxes may have any number of their own."""
    name, counted, cache = "pynet_names_forwarded_total", forwarder.counters, forwarder.cache
    yield f"# HELP {name} Forwarded questions, by from where their answer came.\n# TYPE {name} counter\n"
    for source in _SOURCES:
        yield f'{name}{{answer="{source}"}} {counted[source]}\n'
    for family, kind, help, value in (
        ("hedged_total", "counter", "Questions that a second upstream was asked.", counted["hedged"]),
        ("prefetched_total", "counter", "Answers asked for again before they ended.", counted["prefetched"]),
        ("cache_bytes", "gauge", "Bytes that answers kept take.", cache.bytes),
        ("cache_entries", "gauge", "Answers that are kept.", len(cache)),
        ("cache_evicted_total", "counter", "Answers that gave way to others before they ended.", cache.evicted),
    ):
        yield f"# HELP pynet_names_{family} {help}\n# TYPE pynet_names_{family} {kind}\npynet_names_{family} {value}\n"
    for family, help, values in (
        (
            "upstream_seconds",
            "What an upstream's answers usually take, those of the host's.",
            {one.address: f"{one.health.smoothed or 0.0:.6f}" for one in forwarder.host.servers},
        ),
        (
            "upstream_resting",
            "1: the upstream failed, and others are asked first.",
            {one.address: str(int(one.health.resting)) for one in forwarder.host.servers},
        ),
    ):
        yield f"# HELP pynet_names_{family} {help}\n# TYPE pynet_names_{family} gauge\n"
        for address, said in values.items():
            yield f'pynet_names_{family}{{upstream="{address}"}} {said}\n'


def render(counted: Mapping[str, int], sandboxes: int) -> Iterator[str]:
    """*counted*: the sums of names/counters.py, of sandboxes that are gone too: a counter never goes back."""
    for family, help, series in _FAMILIES:
        name = f"pynet_names_{family}"
        yield f"# HELP {name} {help}\n# TYPE {name} counter\n"
        for label, key in series:
            labels = f'{{{_LABELS[family]}="{label}"}}' if label else ""
            yield f"{name}{labels} {counted.get(key, 0)}\n"
    with open("/proc/self/statm", "rb") as statm:
        resident = int(statm.read().split()[1]) * resource.getpagesize()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    for name, kind, help, value in (
        ("sandboxes", "gauge", "Sandboxes that are served.", sandboxes),
        ("process_cpu_seconds_total", "counter", "Processor time of the name server.", usage.ru_utime + usage.ru_stime),
        ("process_resident_memory_bytes", "gauge", "Memory of the name server.", resident),
        ("process_open_fds", "gauge", "Descriptors of the name server.", len(os.listdir("/proc/self/fd"))),
    ):
        yield f"# HELP pynet_names_{name} {help}\n# TYPE pynet_names_{name} {kind}\npynet_names_{name} {value}\n"
