"""Names of network interfaces: the one grammar, for what pynet makes, for what it is told to use, and for its rules.

The kernel takes more (net/core/dev.c, dev_valid_name: any fifteen bytes without "/", ":" and blanks).  A name of this
grammar needs no quoting in any rule language and is no wildcard there ("+" is iptables', "*" nft's), is no template
("eth%d", for which the kernel would choose another name), and has a directory of its own below /proc/sys/net.
"""

from __future__ import annotations

import re

from .errors import InvalidArgument

IFNAMSIZ = 16
"""net/if.h: fifteen bytes and a NUL."""
_GRAMMAR = re.compile(r"[A-Za-z0-9_.@-]{1,15}\Z")
_TAKEN = (".", "..", "all", "default")
"""Directories, and the two that stand for every interface in /proc/sys/net/*/conf (the kernel refuses them since 4.17)."""
HINT = "use up to 15 letters, digits, '_', '.', '@' and '-'"


def is_ifname(name: str) -> bool:
    return _GRAMMAR.match(name) is not None and name not in _TAKEN


def check_ifname(name: str) -> str:
    """*name*, or InvalidArgument."""
    if not is_ifname(name):
        raise InvalidArgument(f"invalid interface name {name!r}", hint=HINT)
    return name
