"""A redirect of one port by nftables, by hand: a table of its own, with a nat chain and a rule for each protocol.

    begin, NEWTABLE, NEWCHAIN, NEWRULE, NEWRULE, end  -->  one datagram, one transaction

Each sandbox with a name server has it made.  libnftables needs 0.4 ms to read and resolve the same as text, the kernel 0.1.
Whatever else is done with the table is text for libnftables (firewall/redirect.py).

Layouts: linux/netfilter/nfnetlink.h, nf_tables.h.  The expressions are those that the nft command makes of

    ip daddr ADDRESS udp dport 53 dnat to ADDRESS:PORT
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping

from .conntrack import NETLINK_NETFILTER
from .netlink import NLM_F_CREATE, NLM_F_EXCL, Message, NetlinkSocket, attribute, nested, text
from .nft_elements import NFGENMSG, NFNL_SUBSYS_NFTABLES, transaction

NFPROTO_IPV4, NF_INET_LOCAL_OUT, NLM_F_APPEND = 2, 3, 0x800
_NEWTABLE, _NEWCHAIN, _NEWRULE = (NFNL_SUBSYS_NFTABLES << 8 | kind for kind in (0, 3, 6))
_TABLE_NAME, _CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_TYPE, _HOOK_NUMBER, _HOOK_PRIORITY = 1, 1, 3, 4, 7, 1, 2
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS, _LIST_ELEMENT, _EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2, 4, 1, 1, 2
_META_L4PROTO, _NETWORK_HEADER, _TRANSPORT_HEADER, _DNAT = 16, 1, 2, 1
_DADDR, _DPORT = 16, 2
"""Where they are in an IPv4 header, and in one of TCP or UDP."""
_PRIORITY_DSTNAT = -100


def make_redirect(table: str, address: str, port: int, targets: Mapping[str, int]) -> None:
    """In the calling thread's namespace, send what it says to *address* and *port* by these protocols to other ports there.

    NetlinkError, and nothing made: EEXIST where there is such a table, others where the kernel has no nftables.
    """
    netlink = NetlinkSocket(NETLINK_NETFILTER)
    try:
        transaction(netlink, _messages(table, socket.inet_aton(address), port, targets))
    finally:
        netlink.close()


def _messages(table: str, address: bytes, port: int, targets: Mapping[str, int]) -> list[Message]:
    generic = NFGENMSG.pack(NFPROTO_IPV4, 0, 0)
    hook = nested(
        _CHAIN_HOOK, _u32(_HOOK_NUMBER, NF_INET_LOCAL_OUT), _u32(_HOOK_PRIORITY, _PRIORITY_DSTNAT & 0xFFFFFFFF)
    )
    chain = text(_CHAIN_TABLE, table) + text(_CHAIN_NAME, "output") + hook + text(_CHAIN_TYPE, "nat")
    named = text(_RULE_TABLE, table) + text(_RULE_CHAIN, "output")
    return [
        Message(f"create table {table}", _NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, generic + text(_TABLE_NAME, table)),
        Message("add chain output", _NEWCHAIN, NLM_F_CREATE, generic + chain),
        *(
            Message(
                f"add the rule for {proto}",
                _NEWRULE,
                NLM_F_CREATE | NLM_F_APPEND,
                generic + named + nested(_RULE_EXPRESSIONS, *_rule(address, proto, port, target)),
            )
            for proto, target in targets.items()
        ),
    ]


def _rule(address: bytes, proto: str, port: int, target: int) -> list[bytes]:
    return [
        _payload(_NETWORK_HEADER, _DADDR, 4),
        _equals(address),
        _expression("meta", _u32(2, _META_L4PROTO), _u32(1, 1)),
        _equals(bytes([socket.IPPROTO_TCP if proto == "tcp" else socket.IPPROTO_UDP])),
        _payload(_TRANSPORT_HEADER, _DPORT, 2),
        _equals(struct.pack("!H", port)),
        _immediate(1, address),
        _immediate(2, struct.pack("!H", target)),
        # type, family, registers of the address and of the port
        _expression("nat", _u32(1, _DNAT), _u32(2, NFPROTO_IPV4), _u32(3, 1), _u32(5, 2)),
    ]


def _payload(base: int, offset: int, length: int) -> bytes:
    return _expression("payload", _u32(1, 1), _u32(2, base), _u32(3, offset), _u32(4, length))


def _equals(value: bytes) -> bytes:
    return _expression("cmp", _u32(1, 1), _u32(2, 0), nested(3, attribute(1, value)))


def _immediate(register: int, value: bytes) -> bytes:
    return _expression("immediate", _u32(1, register), nested(2, attribute(1, value)))


def _expression(name: str, *data: bytes) -> bytes:
    return nested(_LIST_ELEMENT, text(_EXPRESSION_NAME, name), nested(_EXPRESSION_DATA, *data))


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value))
