"""What a sandbox is answered: (Zones, sandbox, Question) -> Answer, or None: not ours, to be forwarded.  Pure.

docs/dns.md has the table.  In order:

    ANY                           HINFO (RFC 8482), so that nobody is sent large answers for small questions
    the view's hosts              --add-host, links, its own name: they hide a name of a network altogether
    names on its networks         the first network of the view that has an address of the family asked for
    _port._proto.name             SRV below such a name
    addresses                     PTR
    localhost                     RFC 6761 6.3
    single labels, inside only    NXDOMAIN, by the view

A name that is known and has nothing of the type asked for is an empty NOERROR: were it forwarded, a name would leak, and
an upstream's NXDOMAIN for AAAA would make musl forget the A that it has got.  Neither that nor NXDOMAIN has a SOA: names
come with the next ``network connect``, so nobody shall keep the absence (RFC 2308 5: without a SOA it is not cached).
"""

from __future__ import annotations

import functools
import socket
import struct
from typing import NamedTuple

from . import message
from .message import AAAA, ANY, AXFR, HINFO, IXFR, NOERROR, NXDOMAIN, PTR, REFUSED, SRV, A, Question, Record
from .zones import Found, Network, Sight, Zones, reverse_name

_PROTOCOLS = (b"_tcp", b"_udp", b"_sctp")
_RFC8482 = b"\x07RFC8482\x00"
_LOCALHOST = Found((socket.inet_aton("127.0.0.1"),), (bytes(15) + b"\x01",))
_LOCAL_REVERSE = {reverse_name(one) for one in (*_LOCALHOST.ipv4, *_LOCALHOST.ipv6)}
_srv = struct.Struct(">HHH")


class Answer(NamedTuple):
    code: int
    source: str
    """From where it is, for people: hosts, network NAME, or which rule."""
    records: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
    lasting: bool = True
    """Of a name that somebody has: as many as there are names, so worth keeping."""

    @property
    def turns(self) -> int:
        """How many orders of its records take turns."""
        return len(self.records) or 1

    def reply(self, question: Question, turn: int = 0, truncate_at: int = message.MAX_UDP) -> bytes:
        """The message; *turn*: how often its records were rotated before."""
        records = self.records
        if len(records) > 1:
            first = turn % len(records)
            records = records[first:] + records[:first]
        return message.reply(
            question, self.code, records, additional=self.additional, authoritative=True, truncate_at=truncate_at
        )


def find(zones: Zones, sandbox: str, question: Question) -> Answer | None:
    """None: neither ours nor forbidden."""
    sight = zones.sight(sandbox)
    if sight is None:
        return Answer(REFUSED, "no view", lasting=False)
    if question.type == ANY:
        return Answer(NOERROR, "RFC 8482", (Record(HINFO, zones.ttl, _RFC8482),), lasting=False)
    if question.type in (AXFR, IXFR):
        return Answer(REFUSED, "no transfers", lasting=False)
    return _ours(zones, sight, question) or _forbidden(sight, question)


def _ours(zones: Zones, sight: Sight, question: Question) -> Answer | None:
    name, type = question.name, question.type
    meant = sight.hosts.get(name)
    if meant is not None:
        return _addresses(meant, "hosts", type, zones.ttl)
    networks = zones.networks(sight)
    known: Answer | None = None
    for network in networks:
        meant = network.find(name)
        if meant is not None:
            answer = _addresses(meant, f"network {network.name}", type, zones.ttl)
            if answer.records:
                return answer
            known = known or answer
    if known:
        return known
    if name.startswith(b"_"):
        known = _service(sight, networks, question, zones.ttl)
    elif name.endswith(b".arpa"):
        known = _pointer(networks, name, type, zones.ttl)
    if known:
        return known
    if name == b"localhost" or name.endswith(b".localhost"):
        return _addresses(_LOCALHOST, "RFC 6761", type, zones.ttl)._replace(lasting=False)
    return None


def _addresses(meant: Found, source: str, type: int, ttl: int) -> Answer:
    those = meant.ipv4 if type == A else meant.ipv6 if type == AAAA else ()
    return Answer(NOERROR, source, tuple(Record(type, ttl, data) for data in those))


def _service(sight: Sight, networks: list[Network], question: Question, ttl: int) -> Answer | None:
    """``_port._proto.name``, where *name* is known.  RFC 2782: the target is not compressed."""
    port, _, rest = question.name.partition(b".")
    protocol, _, name = rest.partition(b".")
    if protocol not in _PROTOCOLS or not name:
        return None
    source, meant = "hosts", sight.hosts.get(name)
    for network in networks:
        if meant is not None:
            break
        source, meant = f"network {network.name}", network.find(name)
    if meant is None:
        return None
    number = _port(port[1:], protocol[1:])
    if not number:
        return Answer(NXDOMAIN, source, lasting=False)
    if question.type != SRV:
        return Answer(NOERROR, source)
    # as asked, case and all: behind two labels and the two lengths before them
    target = question.wire[len(port) + len(protocol) + 2 : -4]
    additional = [Record(A, ttl, data, target) for data in meant.ipv4]
    additional += [Record(AAAA, ttl, data, target) for data in meant.ipv6]
    return Answer(NOERROR, source, (Record(SRV, ttl, _srv.pack(0, 0, number) + target),), tuple(additional))


@functools.lru_cache(1024)
def _port(name: bytes, protocol: bytes) -> int:
    """The port of a number or of a service's name (services(5)), 0 for neither."""
    if name.isdigit():
        return int(name) if len(name) < 6 and int(name) < 65536 else 0
    try:
        return socket.getservbyname(name.decode("ascii"), protocol.decode("ascii"))
    except (OSError, ValueError):
        return 0


def _pointer(networks: list[Network], name: bytes, type: int, ttl: int) -> Answer | None:
    for network in networks:
        pointers = network.pointers(name)
        if pointers:
            those = pointers if type == PTR else ()
            return Answer(NOERROR, f"network {network.name}", tuple(Record(PTR, ttl, data) for data in those))
    if name in _LOCAL_REVERSE:
        record = Record(PTR, ttl, message.wire_name("localhost"))
        return Answer(NOERROR, "RFC 6761", (record,) if type == PTR else ())
    return None


def _forbidden(sight: Sight, question: Question) -> Answer | None:
    view = sight.view
    if not view.outside and not view.upstreams:
        return Answer(NXDOMAIN, "internal networks only", lasting=False)
    if view.ndots and question.name and b"." not in question.name:
        return Answer(NXDOMAIN, "a single label, and ndots is set", lasting=False)
    return None
