"""Elements of nftables' sets and maps by hand: added or deleted, all of them in one transaction.

    SetElement, SetElement, ...  -->  BATCH_BEGIN, NEWSETELEM | DELSETELEM ..., BATCH_END: one datagram

A port is published and withdrawn by such elements alone, and most of what libnftables does for them is to read anew which
tables and sets there are: 0.3 ms and twice that with cold caches, where the kernel needs 0.05 (bench/bench_firewall.py).
Everything else, and what does not fit one datagram, is text for libnftables.

Layouts: linux/netfilter/nfnetlink.h, nf_tables.h.  A key of several parts has each of them padded to four bytes.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from .conntrack import NETLINK_NETFILTER
from .netlink import NLM_F_CREATE, Message, NetlinkSocket, attribute, nested, text

NFPROTO_INET, NFNL_SUBSYS_NFTABLES = 1, 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW, _DELETE = NFNL_SUBSYS_NFTABLES << 8 | 12, NFNL_SUBSYS_NFTABLES << 8 | 14  # NFT_MSG_NEWSETELEM, _DELSETELEM
NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_LIST_ELEM = 1, 2, 3, 1
NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_FLAGS, NFTA_SET_ELEM_USERDATA, NFTA_SET_ELEM_KEY_END = (
    1,
    2,
    3,
    6,
    10,
)
NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN = 1, 2, 1, 2
NFT_SET_ELEM_INTERVAL_END = 1
VERDICTS = {"accept": 1, "drop": 0, "jump": -3, "goto": -4}
IFNAMSIZ = 16
_COMMENT = 0  # libnftnl's udata.h: NFTNL_UDATA_SET_ELEM_COMMENT
AT_ONCE = 256
"""Elements that one transaction of this module may hold; their bytes fit the send buffer of every socket."""

NFGENMSG = struct.Struct("!BBH")  # family, version, resource id
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}


class SetElement(NamedTuple):
    """``key`` and ``data`` (b"" in a set) as ``pack`` makes them; ``comment`` as the nft command shows it.

    A range of a set with the flag interval is one element with a ``key_end`` where the key has several parts, and else two: where
    it begins, and an ``ends`` after its last key.  A verdict ("accept", "goto web") stands in ``verdict``, not in ``data``.
    """

    set: str
    key: bytes
    data: bytes = b""
    comment: str = ""
    key_end: bytes = b""
    ends: bool = False
    verdict: str = ""


def pack(kinds: Sequence[str], words: Sequence[str]) -> bytes:
    """The bytes of *words* of these nftables data types, as a key or a map's data.

    ValueError, OSError for a word that is none of its type; the types are ipv4_addr, ipv6_addr, inet_proto, inet_service,
    ifname.
    """
    return b"".join(_pack(kind, word) for kind, word in zip(kinds, words, strict=True))


def _pack(kind: str, word: str) -> bytes:
    if kind == "ipv4_addr":
        return socket.inet_pton(socket.AF_INET, word)
    if kind == "ipv6_addr":
        return socket.inet_pton(socket.AF_INET6, word)
    if kind == "ifname" and len(name := word.strip('"').encode()) < IFNAMSIZ:
        return name.ljust(IFNAMSIZ, b"\0")
    if kind == "inet_proto" and word in _PROTOCOLS:
        return struct.pack("=B3x", _PROTOCOLS[word])
    if kind == "inet_service" and 0 <= int(word) <= 0xFFFF:
        return struct.pack("!H2x", int(word))
    raise ValueError(f"{word!r} is no {kind} that is packed by hand")


class ElementSocket:
    """A netlink socket for such transactions, of the calling thread's namespace.  Thread-safe."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(NETLINK_NETFILTER)

    def close(self) -> None:
        self._netlink.close()

    def change(self, table: str, changes: Iterable[tuple[Literal["add", "delete"], Sequence[SetElement]]]) -> None:
        """Carry out *changes* of the table of family inet in order: all of them, or NetlinkError and none.

        As with the nft command, adding an element that is there with the same data is fine (EEXIST with other data), deleting
        one that is not is ENOENT.
        """
        transaction(
            self._netlink,
            [message for verb, elements in changes for message in _messages(verb, table, elements)],
        )


def transaction(netlink: NetlinkSocket, messages: Sequence[Message]) -> None:
    """Have nftables do all that *messages* ask for in one datagram; NetlinkError, and nothing done."""
    bounds = NFGENMSG.pack(0, 0, NFNL_SUBSYS_NFTABLES)
    netlink.transact(
        [Message("begin a transaction", _BATCH_BEGIN, 0, bounds), *messages],
        closing=Message("end a transaction", _BATCH_END, 0, bounds),
    )


def _messages(verb: Literal["add", "delete"], table: str, elements: Sequence[SetElement]) -> Iterator[Message]:
    grouped: dict[str, list[SetElement]] = {}
    for element in elements:
        grouped.setdefault(element.set, []).append(element)
    kind, flags = (_NEW, NLM_F_CREATE) if verb == "add" else (_DELETE, 0)
    for name, its in grouped.items():
        body = (
            NFGENMSG.pack(NFPROTO_INET, 0, 0)
            + text(NFTA_SET_ELEM_LIST_TABLE, table)
            + text(NFTA_SET_ELEM_LIST_SET, name)
            + nested(NFTA_SET_ELEM_LIST_ELEMENTS, *(_element(element, whole=verb == "add") for element in its))
        )
        yield Message(f"{verb} elements of {name}", kind, flags, body)


def _element(element: SetElement, *, whole: bool) -> bytes:
    parts = nested(NFTA_SET_ELEM_KEY, attribute(NFTA_DATA_VALUE, element.key))
    if element.key_end:
        parts += nested(NFTA_SET_ELEM_KEY_END, attribute(NFTA_DATA_VALUE, element.key_end))
    if element.ends:
        parts += attribute(NFTA_SET_ELEM_FLAGS, struct.pack("!I", NFT_SET_ELEM_INTERVAL_END))
    if whole and element.verdict:
        word, _, chain = element.verdict.partition(" ")
        verdict = attribute(NFTA_VERDICT_CODE, struct.pack("!i", VERDICTS[word]))
        verdict += text(NFTA_VERDICT_CHAIN, chain) if chain else b""
        parts += nested(NFTA_SET_ELEM_DATA, nested(NFTA_DATA_VERDICT, verdict))
    if whole and element.data:
        parts += nested(NFTA_SET_ELEM_DATA, attribute(NFTA_DATA_VALUE, element.data))
    if whole and element.comment:
        words = element.comment.encode() + b"\0"
        parts += attribute(NFTA_SET_ELEM_USERDATA, bytes([_COMMENT, len(words)]) + words)
    return nested(NFTA_LIST_ELEM, parts)
