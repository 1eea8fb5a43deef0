"""Rate limits: from options of a network and an endpoint to the token buckets of its two directions.  Pure.

    container                                    the bridge
      eth0  == bucket: rate_out ==>  pv<endpoint>
      eth0 <==  bucket: rate_in  ==  pv<endpoint>          a bucket limits what leaves by the interface it is on

A network's options hold for each of its endpoints by itself; an endpoint's own replace them, one by one.  ``rate_in`` and
``rate_out`` are the container's view.  Written as tc(8) does: "10mbit", "500kbit", "2mbps" (bytes), "0" is no limit; ``burst`` is
a size, "64k".

The buckets' sizes, where nothing else is said, follow tc-tbf(8): what flows in 10 ms, but at least 32 KiB, so that a pause is
made good, and never less than a packet of the interface's MTU, which could else never leave.  What waits is limited to 50 ms of
the rate: a queue that is longer delays everything behind it and drops no less.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .errors import InvalidArgument
from .kernel.traffic import Bucket
from .kinds.resource import Resource
from .kinds.shaper import Shaper
from .kinds.veth import Veth
from .model import EndpointRecord, NetworkRecord, SandboxRecord

OPTIONS = {
    "com.docker.network.endpoint.rate_in": "rate_in",
    "com.docker.network.endpoint.rate_out": "rate_out",
    "com.docker.network.endpoint.burst": "burst",
}
"""Long name -> short; both are understood, as options of a network and of an endpoint."""
_FIELDS = {**OPTIONS, **{short: short for short in OPTIONS.values()}}

LATENCY_MS = 50
"""How long what waits for tokens may wait; what comes beyond is dropped."""
LEAST_BURST = 32 << 10
_BURST_MS = 10
_FRAME = 18
"""Bytes of a frame beyond the MTU: Ethernet's header and a VLAN tag (IEEE 802.1Q)."""
LEAST_RATE, MOST_RATE = 1000, 125 * 10**9
"""Bytes a second: 8 kbit and 1 tbit."""
MOST_BURST = 1 << 30
MOST_FILL = 200
"""Seconds that a bucket may take to fill: the kernel tells bursts in 32 bits of 64 ns."""

_BITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9, "tbit": 10**12,
         "kibit": 1 << 10, "mibit": 1 << 20, "gibit": 1 << 30, "tibit": 1 << 40}  # fmt: skip
_RATES = {"": 1, **_BITS, **{unit.replace("bit", "bps"): 8 * factor for unit, factor in _BITS.items()}}
"""tc(8), RATES: bits a second, and "bps" for bytes."""
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "kb": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "g": 1 << 30, "gb": 1 << 30}
_NUMBER = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([a-zA-Z]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes a second each way, 0 for no limit; ``burst`` in bytes, 0 for "as the rate wants it"."""

    rate_in: int = 0
    rate_out: int = 0
    burst: int = 0


def is_option(name: str) -> bool:
    return name in _FIELDS


def short(name: str) -> str:
    """The short form of an option's name; of one that is not ours, the name."""
    return _FIELDS.get(name, name)


def parse_rate(text: str) -> int:
    """ "10mbit" -> 1_250_000 bytes a second; ValueError."""
    rate = _value(text, _RATES, "a rate such as 10mbit, 500kbit or 2mbps") / 8
    if rate and not LEAST_RATE <= rate <= MOST_RATE:
        raise ValueError("not between 8kbit and 1tbit (0 is no limit)")
    return int(rate)


def parse_burst(text: str) -> int:
    """ "64k" -> 65536 bytes; ValueError."""
    size = _value(text, _SIZES, "a size such as 64k or 1m")
    if size > MOST_BURST:
        raise ValueError("more than 1g")
    return int(size)


def _value(text: str, units: Mapping[str, int], wanted: str) -> float:
    found = _NUMBER.fullmatch(text.strip())
    if found is None or found[2].lower() not in units:
        raise ValueError(f"not {wanted}")
    return float(found[1]) * units[found[2].lower()]


def parse(options: Mapping[str, str]) -> dict[str, int]:
    """Those of *options* that limit rates, by field of Limits; others are passed over.  InvalidArgument names the option."""
    found: dict[str, int] = {}
    for name, text in options.items():
        field = _FIELDS.get(name)
        if field is None:
            continue
        if field in found:
            raise InvalidArgument(f"option {name} is given twice", hint=f"leave one of its names out ({field})")
        try:
            found[field] = (parse_burst if field == "burst" else parse_rate)(text)
        except ValueError as error:
            raise InvalidArgument(f"invalid value {text!r} for option {name}: {error}") from error
    return found


def limits(network: NetworkRecord, options: Mapping[str, str]) -> Limits:
    """What holds for an endpoint with these options; InvalidArgument."""
    own = Limits(**{**parse(network.options), **parse(options)})
    if not own.burst:
        return own
    least = _frame(network)
    if own.burst < least:
        raise InvalidArgument(
            f"invalid burst: {own.burst} bytes are less than a packet of the network's MTU ({least} bytes with its header)",
            hint="such packets could never pass; give more, or leave burst out",
        )
    slowest = min((rate for rate in (own.rate_in, own.rate_out) if rate), default=0)
    if slowest and own.burst > slowest * MOST_FILL:
        raise InvalidArgument(
            f"invalid burst: {own.burst} bytes take more than {MOST_FILL} s to fill at {slowest} bytes a second",
            hint="give a smaller burst, or leave it out",
        )
    return own


def changed(options: Mapping[str, str], asked: Mapping[str, str]) -> dict[str, str]:
    """An endpoint's options with those *asked* for in their place, by their short names; "" takes one off."""
    known(asked)
    wanted = {short(name): text for name, text in asked.items()}
    kept = {name: text for name, text in options.items() if short(name) not in wanted}
    return {**kept, **{name: text for name, text in wanted.items() if text}}


def known(options: Iterable[str]) -> None:
    """InvalidArgument for a name that no option of an endpoint has."""
    for name in options:
        if not is_option(name):
            raise InvalidArgument(
                f"unknown option {name} of an endpoint", hint="it takes " + ", ".join(OPTIONS.values())
            )


def check(network: NetworkRecord, options: Mapping[str, str], directions: Iterable[str]) -> None:
    """InvalidArgument when these options make no sense, or limit a direction that the driver can not (``Driver.shapes``)."""
    known(options)
    wanted, can = limits(network, options), frozenset(directions)
    for direction, rate in (("in", wanted.rate_in), ("out", wanted.rate_out)):
        if rate and direction not in can:
            raise InvalidArgument(
                f"rate_{direction} is not supported by the {network.driver} driver",
                hint=f"it limits {' and '.join(sorted(can))} alone" if can else "only bridge networks limit both ways",
            )


def bucket(rate: int, burst: int, frame: int) -> Bucket:
    burst = burst or max(LEAST_BURST, rate * _BURST_MS // 1000, frame)
    return Bucket(rate, min(burst, MOST_BURST), min(burst + rate * LATENCY_MS // 1000, 0xFFFFFFFF))


def shapers(
    network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord, plan: Iterable[Resource]
) -> Iterable[Shaper]:
    """What limits an endpoint whose interfaces are those of *plan*: inward on the host's end of its pair, outward inside."""
    wanted = limits(network, endpoint.options)
    frame = _frame(network)
    host = next((resource.host for resource in plan if isinstance(resource, Veth)), "")
    if wanted.rate_in and host:
        yield Shaper("", host, bucket(wanted.rate_in, wanted.burst, frame))
    if wanted.rate_out and sandbox.path and endpoint.ifname:
        yield Shaper(sandbox.path, endpoint.ifname, bucket(wanted.rate_out, wanted.burst, frame))


def _frame(network: NetworkRecord) -> int:
    text = network.option("com.docker.network.driver.mtu", "mtu")
    return (int(text) if text.isdecimal() and int(text) else 1500) + _FRAME
