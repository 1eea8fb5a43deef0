"""The nftables back end's text: intents in, commands out.  The way back, from the kernel's listing, is listing.py.

One table, ``inet pynet`` (``inet pynet-<instance>``), whose rules are fixed.  All that varies are elements of sets
and maps, so a packet costs the same look-ups at ten ports and at ten thousand, and so does a change.

    prerouting (raw)   127.0.0.0/8 from outside: guarded ports, and everything from our bridges, dropped
    prerouting (nat)   to a local address: dnat by hostports*, else by ports*
    output (nat)       the same for the host's own packets; 127.0.0.0/8 by lohostports4, loports4
    forward            pynet_user, the user's own
                       established                                    accept
                       in by the bridge that it goes out by           accept, or if not icc: DNATed or linked* accept,
                                                                      else drop
                       from or to an internal network                 drop
                       to one of our bridges                          DNATed accept
                         that is routed                               ICMP and ports in open* accept
                         that is nat-unprotected (direct*)            accept
                         by an interface that it trusts               ports in open* accept
                         else                                         drop
                       anything else is left to the host
    postrouting        DNATed and from a network into itself (hairpin)    masquerade
                       from 127.0.0.0/8 out of a bridge                   masquerade
                       from a network into itself                         nothing
                       from a network elsewhere                           snat by snat*, or masquerade by masq*

"accept" here ends the look at our table and no more: each other table still has its word.  Hairpin is matched by
address, not by interface: with bridge-nf-call-iptables the input interface of a bridged packet is not the bridge.
The set ``own*`` joins subnet and interface, which needs concatenations with intervals: Linux 5.6, nft 0.9.4.  The maps of
published ports count what they led on, in each element: Linux 5.7, nft 0.9.5.  Only the first packet of a connection comes by.

Nothing of a user gets into the text but addresses, numbers and interface names that passed netlib/firewall/intents.py's checks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_network
from typing import Literal

from ...kernel.nft_elements import SetElement, pack
from ..intents import NetworkRules, PortRule, is_loopback

Element = tuple[str, str, str, str]
"""Set or map, key, comment, data ("" in a set)."""
Elements = tuple[Literal["add", "delete"], Sequence[Element]]

_ADDR_PORT = {"4": "ipv4_addr . inet_service", "6": "ipv6_addr . inet_service"}
ADDRESS = {"4": "ipv4_addr", "6": "ipv6_addr"}


def _sets() -> dict[str, str]:
    """Name of each set and map, and its declaration."""
    sets: dict[str, str] = {
        "bridges": "set bridges { type ifname; }",
        "internal": "set internal { type ifname; }",
        "loopback": "set loopback { type ifname; }",
        "same": "map same { type ifname . ifname : verdict; }",
        "trusted": "set trusted { type ifname . ifname; }",
        "guarded4": "set guarded4 { type ipv4_addr . inet_proto . inet_service; }",
        "loports4": f"map loports4 {{ type inet_proto . inet_service : {_ADDR_PORT['4']}; counter; }}",
        "lohostports4": f"map lohostports4 {{ type ipv4_addr . inet_proto . inet_service : {_ADDR_PORT['4']}; counter; }}",
    }
    for v, address in ADDRESS.items():
        sets |= {
            f"ports{v}": f"map ports{v} {{ type inet_proto . inet_service : {_ADDR_PORT[v]}; counter; }}",
            f"hostports{v}": f"map hostports{v} {{ type {address} . inet_proto . inet_service : {_ADDR_PORT[v]}; counter; }}",
            f"proxied{v}": f"map proxied{v} {{ type {address} . inet_proto . inet_service : {_ADDR_PORT[v]}; }}",
            f"open{v}": f"set open{v} {{ type {address} . inet_proto . inet_service; }}",
            f"linked{v}": f"set linked{v} {{ type {address} . {address} . inet_proto . inet_service; }}",
            f"routed{v}": f"set routed{v} {{ type ifname; }}",
            f"direct{v}": f"set direct{v} {{ type ifname; }}",
            f"own{v}": f"set own{v} {{ type {address} . ifname; flags interval; }}",
            f"hairpin{v}": f"set hairpin{v} {{ type {address} . {address}; flags interval; }}",
            f"masq{v}": f"set masq{v} {{ type {address}; flags interval; }}",
            f"snat{v}": f"map snat{v} {{ type {address} : {address}; flags interval; }}",
        }
    return sets


SETS = _sets()
COUNTED = tuple(name for name, text in SETS.items() if "counter" in text)
"""Maps whose elements count the connections that they led on."""


def _kinds(declaration: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The types of a set's or map's key, and of a map's data."""
    key, _, data = declaration.partition(" type ")[2].partition(";")[0].partition(" : ")
    return tuple(key.split(" . ")), tuple(data.split(" . ")) if data else ()


KINDS = {name: _kinds(text) for name, text in SETS.items()}
"""Their elements are packed without libnftables (kernel/nft_elements.py), which reads the whole of a set of intervals first."""
INTERVALS = frozenset(name for name, text in SETS.items() if "interval" in text)

CHAINS: dict[str, tuple[str, tuple[str, ...]]] = {
    # chain: declaration of its hook, rules.  Chains that others jump to come first.
    "no_icc": (
        "",
        (
            "ct status dnat accept",
            "ip saddr . ip daddr . meta l4proto . th dport @linked4 accept",
            "ip6 saddr . ip6 daddr . meta l4proto . th dport @linked6 accept",
            "drop",
        ),
    ),
    "guard": ("", ("iifname @bridges drop", "ip daddr . meta l4proto . th dport @guarded4 drop")),
    "routed": (
        "",
        (
            "ip daddr . meta l4proto . th dport @open4 accept",
            "ip6 daddr . meta l4proto . th dport @open6 accept",
            "meta nfproto ipv4 meta l4proto icmp accept",
            "meta nfproto ipv6 meta l4proto ipv6-icmp accept",
        ),
    ),
    "direct": (
        "",
        (
            "oifname @routed4 meta nfproto ipv4 jump routed",
            "oifname @routed6 meta nfproto ipv6 jump routed",
            "oifname @direct4 meta nfproto ipv4 accept",
            "oifname @direct6 meta nfproto ipv6 accept",
            "iifname . oifname @trusted ip daddr . meta l4proto . th dport @open4 accept",
            "iifname . oifname @trusted ip6 daddr . meta l4proto . th dport @open6 accept",
            "drop",
        ),
    ),
    "published": (
        "",
        (
            "dnat ip to ip daddr . meta l4proto . th dport map @hostports4",
            "dnat ip to meta l4proto . th dport map @ports4",
            "dnat ip6 to ip6 daddr . meta l4proto . th dport map @hostports6",
            "dnat ip6 to meta l4proto . th dport map @ports6",
        ),
    ),
    "local": (
        "",
        (
            "dnat ip to ip daddr . meta l4proto . th dport map @lohostports4",
            "dnat ip to meta l4proto . th dport map @loports4",
        ),
    ),
    "raw_prerouting": (
        "type filter hook prerouting priority raw; policy accept;",
        ('ip daddr 127.0.0.0/8 iifname != "lo" jump guard',),
    ),
    "prerouting": (
        "type nat hook prerouting priority dstnat; policy accept;",
        ("fib daddr type local jump published",),
    ),
    "output": (
        # the name "dstnat" is not known to nft in this hook
        "type nat hook output priority -100; policy accept;",
        ("ip daddr 127.0.0.0/8 goto local", "ip6 daddr ::1 return", "fib daddr type local jump published"),
    ),
    "forward": (
        "type filter hook forward priority filter; policy accept;",
        (
            "jump pynet_user",
            "ct state established,related accept",
            "iifname . oifname vmap @same",
            "iifname @internal drop",
            "oifname @internal drop",
            "oifname @bridges ct status dnat accept",
            "oifname @bridges goto direct",
        ),
    ),
    "postrouting": (
        "type nat hook postrouting priority srcnat; policy accept;",
        (
            "ct status dnat ip saddr . ip daddr @hairpin4 masquerade",
            "ct status dnat ip6 saddr . ip6 daddr @hairpin6 masquerade",
            "ip saddr 127.0.0.0/8 oifname @loopback masquerade",
            "ip saddr . oifname @own4 return",
            "ip6 saddr . oifname @own6 return",
            "snat ip to ip saddr map @snat4",
            "snat ip6 to ip6 saddr map @snat6",
            "ip saddr @masq4 masquerade",
            "ip6 saddr @masq6 masquerade",
        ),
    ),
}


def table_name(instance: str) -> str:
    return f"pynet-{instance}" if instance else "pynet"


def base(table: str) -> str:
    """Make the table, its sets and its fixed rules; elements and the user's chain stay as they are."""
    lines = [f"table inet {table} {{", *SETS.values(), "chain pynet_user { }"]
    lines += [f"chain {name} {{ {hook} }}" for name, (hook, _) in CHAINS.items()]
    lines.append("}")
    lines += [f"flush chain inet {table} {name}" for name in CHAINS]
    lines.append(f"table inet {table} {{")
    lines += [f"chain {name} {{\n" + "\n".join(rules) + "\n}" for name, (_, rules) in CHAINS.items()]
    lines.append("}\n")
    return "\n".join(lines)


def flush(table: str) -> str:
    """Empty every set and map."""
    return "".join(f"flush {text.split()[0]} inet {table} {name}\n" for name, text in SETS.items())


def destroy(table: str) -> str:
    # made first, because to delete what is not there fails and "destroy" came with Linux 6.3
    return f"add table inet {table}\ndelete table inet {table}\n"


def network_elements(rules: NetworkRules) -> Iterator[Element]:
    name = f'"{rules.bridge}"'
    yield "bridges", name, "", ""
    yield "same", f"{name} . {name}", "", "accept" if rules.icc else "goto no_icc"
    if rules.internal:
        yield "internal", name, "", ""
    if rules.loopback:
        yield "loopback", name, "", ""
    for interface in rules.trusted:
        yield "trusted", f'"{interface}" . {name}', "", ""
    for version in (4, 6):
        if (mode := rules.mode(version)) != "nat":
            yield f"routed{version}" if mode == "routed" else f"direct{version}", name, "", ""
    sources = {"6" if ":" in source else "4": source for source in rules.source}
    for subnet in rules.subnets:
        v = "6" if ":" in subnet else "4"
        yield f"own{v}", f"{subnet} . {name}", "", ""
        yield f"hairpin{v}", f"{subnet} . {subnet}", "", ""
        if not rules.masquerades(int(v)):
            continue
        if v in sources:
            yield f"snat{v}", subnet, "", sources[v]
        else:
            yield f"masq{v}", subnet, "", ""


def port_elements(rule: PortRule, *, loopback: bool) -> Iterator[Element]:
    """The elements of a port; *loopback* is its network's."""
    v = str(rule.version)
    port = f"{rule.proto} . {rule.host_port}"
    target = f"{rule.target_ip} . {rule.target_port}"
    if rule.source:
        key = f"{rule.source} . {rule.target_ip} . {rule.proto} . {rule.target_port}"
        yield f"linked{v}", key, rule.bridge, ""
        return
    if not rule.host_port:
        yield f"open{v}", f"{rule.target_ip} . {rule.proto} . {rule.target_port}", rule.bridge, ""
        return
    if not rule.host_ip:
        yield f"ports{v}", port, rule.bridge, target
        if loopback and v == "4":
            yield "loports4", port, "", target
        return
    key = f"{rule.host_ip} . {port}"
    if not is_loopback(rule.host_ip):
        yield f"hostports{v}", key, rule.bridge, target
        return
    # The kernel routes nothing from ::1 to another interface, so IPv6 loopback is always the proxy's.
    yield f"lohostports{v}" if loopback and v == "4" else f"proxied{v}", key, rule.bridge, target
    if v == "4":
        yield "guarded4", key, "", ""


PART = 1000
"""Most elements in one command; bounds what one netlink message of an unprivileged socket must hold."""


def parts(text: str) -> Iterator[str]:
    """*text* (of ``base``, ``flush``, ``add``, ``delete``) as several transactions, elements last and in pieces."""
    head: list[str] = []
    elements: list[str] = []
    for line in text.splitlines(keepends=True):
        (elements if line.startswith(("add element", "delete element")) else head).append(line)
    if head:
        yield "".join(head)
    yield from elements


def packed(element: Element) -> list[SetElement]:
    name, key, comment, data = element
    kinds, data_kinds = KINDS[name]
    verdict = data if data_kinds == ("verdict",) else ""
    value = pack(data_kinds, data.split(" . ")) if data and not verdict else b""
    words = key.split(" . ")
    if name not in INTERVALS:
        return [SetElement(name, pack(kinds, words), value, comment, verdict=verdict)]
    ends = [_ends(word) for word in words]
    first, last = (pack(kinds, [pair[at] for pair in ends]) for at in (0, 1))
    if len(words) > 1:
        return [SetElement(name, first, value, comment, key_end=last)]
    after = int.from_bytes(last, "big") + 1
    end = [SetElement(name, after.to_bytes(len(last), "big"), ends=True)] if after >> 8 * len(last) == 0 else []
    return [SetElement(name, first, value, comment), *end]


def _ends(word: str) -> tuple[str, str]:
    """First and last key of a part: a subnet's addresses, and anything else is itself."""
    if "/" not in word:
        return word, word
    subnet = ip_network(word)
    return str(subnet[0]), str(subnet[-1])


def text(table: str, changes: Iterable[Elements]) -> str:
    return "".join(add(table, elements) if verb == "add" else delete(table, elements) for verb, elements in changes)


def add(table: str, elements: Iterable[Element]) -> str:
    grouped: defaultdict[str, list[str]] = defaultdict(list)
    for name, key, comment, data in elements:
        grouped[name].append(key + (f' comment "{comment}"' if comment else "") + (f" : {data}" if data else ""))
    return _elements("add", table, grouped)


def delete(table: str, elements: Iterable[Element]) -> str:
    grouped: defaultdict[str, list[str]] = defaultdict(list)
    for name, key, _, _ in elements:
        grouped[name].append(key)
    return _elements("delete", table, grouped)


def _elements(verb: str, table: str, grouped: dict[str, list[str]]) -> str:
    return "".join(
        f"{verb} element inet {table} {name} {{ {', '.join(items[i : i + PART])} }}\n"
        for name, items in grouped.items()
        for i in range(0, len(items), PART)
    )
