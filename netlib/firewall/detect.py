"""Who else filters on this host, found out without running a program and without leaving a trace.

A base chain with policy DROP at the forward hook has the last word over packets that our own table lets pass: every
table at a hook is asked, and one "drop" is final.  Docker, ufw and many a hand-written ruleset have such a chain.
``Place`` is where an ACCEPT undoes that for our bridges: the chain DOCKER-USER where there is one, which Docker
leaves to others, else the dropping chain itself.

Two kinds of tables are looked at: those of nf_tables, iptables-nft's among them, in libnftables' listing; and
legacy ones by the getsockopt(2) calls of libiptc, but only those that exist: the kernel makes a legacy table for
whoever asks for it (even ``iptables-legacy -S`` does).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .intents import PortRule

_FAMILIES = ("ip", "ip6", "inet")
USER_CHAIN = "DOCKER-USER"


@dataclass(frozen=True, slots=True)
class Place:
    """A chain in which an ACCEPT for our bridges has effect.  *family* is nftables' ("ip", "ip6", "inet")."""

    family: str
    table: str
    chain: str
    hooked: str = ""
    """The base chain that drops."""

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.chain}"


def _ours(table: str) -> bool:
    return table == "pynet" or table.startswith("pynet-")


def forward_drops(chains: Iterable[dict[str, Any]]) -> list[Place]:
    """Where ACCEPTs are needed, from the answer to ``list chains``."""
    found = [item["chain"] for item in chains if "chain" in item]
    user = {(chain["family"], chain["table"]) for chain in found if chain["name"] == USER_CHAIN}
    return [
        Place(
            chain["family"],
            chain["table"],
            USER_CHAIN if (chain["family"], chain["table"]) in user else chain["name"],
            chain["name"],
        )
        for chain in found
        if chain["family"] in _FAMILIES
        and chain.get("hook") == "forward"
        and chain.get("policy") == "drop"
        and not _ours(chain["table"])
    ]


def marked_places(chains: Iterable[dict[str, Any]]) -> Iterator[Place]:
    """Where ACCEPTs of ours may stand: dropping chains, and those that dropped when the ACCEPTs were put there."""
    for chain in (item["chain"] for item in chains if "chain" in item):
        hooked = chain.get("hook") == "forward" or chain["name"] == USER_CHAIN
        if chain["family"] in _FAMILIES and hooked and not _ours(chain["table"]):
            yield Place(chain["family"], chain["table"], chain["name"])


def port_of_rule(rule: dict[str, Any]) -> tuple[str, int] | None:
    """Protocol and port whose packets *rule* translates before ours might; None if it does no such thing."""
    wanted: tuple[str, int] | None = None
    translates = False
    for expression in rule.get("expr", ()):
        match = expression.get("match")
        if match is not None and isinstance(match["left"], dict):
            payload = match["left"].get("payload", {})
            right = match["right"]
            if payload.get("field") == "dport" and match["op"] == "==" and isinstance(right, int):
                wanted = (str(payload["protocol"]), right)
        target = expression.get("xt") or {}
        name = target.get("name") if isinstance(target, dict) else None
        translates |= "dnat" in expression or "redirect" in expression or name in ("DNAT", "REDIRECT")
    return wanted if translates else None


def foreign_translations(
    ruleset: Iterable[dict[str, Any]], ports: Iterable[PortRule]
) -> Iterator[tuple[Place, PortRule]]:
    """Rules of others that translate a port of ours, from the answer to ``list ruleset``."""
    ours: dict[tuple[str, int, int], PortRule] = {(p.proto, p.host_port, p.version): p for p in ports}
    for rule in (item["rule"] for item in ruleset if "rule" in item):
        if _ours(rule["table"]) or rule["family"] not in _FAMILIES:
            continue
        wanted = port_of_rule(rule)
        if wanted is None:
            continue
        for version in {"ip": (4,), "ip6": (6,), "inet": (4, 6)}[rule["family"]]:
            for proto in ("tcp", "udp", "sctp") if wanted[0] == "th" else (wanted[0],):
                port = ours.get((proto, wanted[1], version))
                if port is not None:
                    yield Place(rule["family"], rule["table"], rule["chain"]), port


def has_firewalld(chains: Iterable[dict[str, Any]]) -> bool:
    return any(item["chain"]["table"] == "firewalld" for item in chains if "chain" in item)


# -- legacy tables
# ------------------------------------------------------------------------------------------------------

_FORWARD = 2
"""linux/netfilter.h: NF_INET_FORWARD"""
_GET_INFO, _GET_ENTRIES = 64, 65
"""linux/netfilter_ipv4/ip_tables.h: IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES; the same numbers for IPv6."""
_NF_DROP = 0
_ATTEMPTS = 100
_INFO = struct.Struct("=32sI5I5III")
"""struct ipt_getinfo: name, valid hooks, entry points, underflows (where the policies stand), number and size."""
_TARGET_OFFSET = {4: 84 + 4, 6: 136 + 4}
"""Offset of target_offset in struct ipt_entry and ip6t_entry: behind ip and nfcache."""
_XT_TARGET = 32
"""Size of struct xt_entry_target, behind which a standard target has its verdict."""


def legacy_tables(version: int) -> list[str]:
    """Names of the legacy tables in the calling thread's namespace."""
    try:
        with open(f"/proc/thread-self/net/{'ip6' if version == 6 else 'ip'}_tables_names", encoding="ascii") as names:
            return names.read().split()
    except FileNotFoundError:  # the module is not loaded
        return []
    except PermissionError:  # root's alone (0440): an ordinary user in a namespace of his own has no legacy tables
        return []


def legacy_forward_drops(version: int) -> bool:
    """Whether the legacy filter table exists in the calling thread's namespace and its FORWARD policy is DROP."""
    if "filter" not in legacy_tables(version):
        return False
    level, family = (socket.IPPROTO_IPV6, socket.AF_INET6) if version == 6 else (socket.IPPROTO_IP, socket.AF_INET)
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        underflow, entries = _filter_entries(sock, level)
    (target,) = struct.unpack_from("=H", entries, underflow + _TARGET_OFFSET[version])
    (verdict,) = struct.unpack_from("=i", entries, underflow + target + _XT_TARGET)
    return bool(verdict == -_NF_DROP - 1)


def _filter_entries(sock: socket.socket, level: int) -> tuple[int, bytes]:
    """Where the policy of FORWARD stands in the filter table, and the table; asked anew when it is another one by the second
    question (EAGAIN)."""
    for again in reversed(range(_ATTEMPTS)):
        info = _INFO.unpack(_getsockopt(sock, level, _GET_INFO, b"filter".ljust(_INFO.size, b"\0")))
        underflow, size = info[2 + 5 + _FORWARD], info[-1]
        head = struct.pack("=32sI4x", b"filter", size)
        try:
            entries = _getsockopt(sock, level, _GET_ENTRIES, head.ljust(len(head) + size, b"\0"))
        except OSError as error:
            if error.errno != errno.EAGAIN or not again:
                raise
            continue
        return underflow, entries[len(head) :]
    raise AssertionError("the last attempt returns or raises")


def legacy_counts() -> tuple[object, ...]:
    """Number and size of the rules of each legacy table of the calling thread's namespace, and whether FORWARD drops there."""
    found: list[object] = []
    for version in (4, 6):
        tables = legacy_tables(version)
        if not tables:
            continue
        level, family = (socket.IPPROTO_IPV6, socket.AF_INET6) if version == 6 else (socket.IPPROTO_IP, socket.AF_INET)
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            for table in sorted(tables):
                found.append(_getsockopt(sock, level, _GET_INFO, table.encode().ljust(_INFO.size, b"\0")))
        found.append(legacy_forward_drops(version))
    return tuple(found)


def _getsockopt(sock: socket.socket, level: int, option: int, value: bytes) -> bytes:
    """getsockopt(2) with something in the buffer, which Python's does not offer."""
    buffer = ctypes.create_string_buffer(value, len(value))
    length = ctypes.c_uint32(len(value))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(sock.fileno(), level, option, buffer, ctypes.byref(length)) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "getsockopt of the legacy filter table")
    return buffer.raw[: length.value]
