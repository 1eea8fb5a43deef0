"""The nftables back end's text: intents in, commands out; and the kernel's listing in, intents out.

One table, ``inet pynet`` (``inet pynet-<instance>``), whose rules are fixed.  All that varies are elements of sets
and maps, so a packet costs the same look-ups at ten ports and at ten thousand, and so does a change.

    prerouting (raw)   127.0.0.0/8 from outside: guarded ports, and everything from our bridges, dropped
    prerouting (nat)   to a local address: dnat by hostports*, else by ports*
    output (nat)       the same for the host's own packets; 127.0.0.0/8 by lohostports4, loports4
    forward            pynet_user, the user's own
                       established                                    accept
                       in by the bridge that it goes out by           accept, or if not icc: DNATed accept, else drop
                       from or to an internal network                 drop
                       to one of our bridges                          DNATed accept, else drop
                       anything else is left to the host
    postrouting        DNATed and from a network into itself (hairpin)    masquerade
                       from 127.0.0.0/8 out of a bridge                   masquerade
                       from a network into itself                         nothing
                       from a network elsewhere                           snat by snat*, or masquerade by masq*

"accept" here ends the look at our table and no more: each other table still has its word.  Hairpin is matched by
address, not by interface: with bridge-nf-call-iptables the input interface of a bridged packet is not the bridge.
The set ``own*`` joins subnet and interface, which needs concatenations with intervals: Linux 5.6, nft 0.9.4.

Nothing of a user gets into the text but addresses, numbers and interface names that passed netlib/firewall/intents.py's checks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from ...kernel.nft_elements import SetElement, pack
from ..intents import NetworkRules, PortRule, is_loopback

T = TypeVar("T")
Element = tuple[str, str, str, str]
"""Set or map, key, comment, data ("" in a set)."""
Elements = tuple[Literal["add", "delete"], Sequence[Element]]

_ADDR_PORT = {"4": "ipv4_addr . inet_service", "6": "ipv6_addr . inet_service"}
_ADDR = {"4": "ipv4_addr", "6": "ipv6_addr"}


def _sets() -> dict[str, str]:
    """Name of each set and map, and its declaration."""
    sets: dict[str, str] = {
        "bridges": "set bridges { type ifname; }",
        "internal": "set internal { type ifname; }",
        "loopback": "set loopback { type ifname; }",
        "same": "map same { type ifname . ifname : verdict; }",
        "guarded4": "set guarded4 { type ipv4_addr . inet_proto . inet_service; }",
        "loports4": f"map loports4 {{ type inet_proto . inet_service : {_ADDR_PORT['4']}; }}",
        "lohostports4": f"map lohostports4 {{ type ipv4_addr . inet_proto . inet_service : {_ADDR_PORT['4']}; }}",
    }
    for v, address in _ADDR.items():
        sets |= {
            f"ports{v}": f"map ports{v} {{ type inet_proto . inet_service : {_ADDR_PORT[v]}; }}",
            f"hostports{v}": f"map hostports{v} {{ type {address} . inet_proto . inet_service : {_ADDR_PORT[v]}; }}",
            f"proxied{v}": f"map proxied{v} {{ type {address} . inet_proto . inet_service : {_ADDR_PORT[v]}; }}",
            f"own{v}": f"set own{v} {{ type {address} . ifname; flags interval; }}",
            f"hairpin{v}": f"set hairpin{v} {{ type {address} . {address}; flags interval; }}",
            f"masq{v}": f"set masq{v} {{ type {address}; flags interval; }}",
            f"snat{v}": f"map snat{v} {{ type {address} : {address}; flags interval; }}",
        }
    return sets


SETS = _sets()


def _kinds(declaration: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The types of a set's or map's key, and of a map's data."""
    key, _, data = declaration.partition(" type ")[2].partition(";")[0].partition(" : ")
    return tuple(key.split(" . ")), tuple(data.split(" . ")) if data else ()


KINDS = {name: _kinds(text) for name, text in SETS.items() if "interval" not in text and "inet_service" in text}
"""Of the sets that published ports are in: their elements are packed without libnftables (kernel/nft_elements.py)."""

CHAINS: dict[str, tuple[str, tuple[str, ...]]] = {
    # chain: declaration of its hook, rules.  Chains that others jump to come first.
    "no_icc": ("", ("ct status dnat accept", "drop")),
    "guard": ("", ("iifname @bridges drop", "ip daddr . meta l4proto . th dport @guarded4 drop")),
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
            "oifname @bridges drop",
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
    sources = {"6" if ":" in source else "4": source for source in rules.source}
    for subnet in rules.subnets:
        v = "6" if ":" in subnet else "4"
        yield f"own{v}", f"{subnet} . {name}", "", ""
        yield f"hairpin{v}", f"{subnet} . {subnet}", "", ""
        if rules.masquerade and v in sources:
            yield f"snat{v}", subnet, "", sources[v]
        elif rules.masquerade:
            yield f"masq{v}", subnet, "", ""


def port_elements(rule: PortRule, *, loopback: bool) -> Iterator[Element]:
    """The elements of a port; *loopback* is its network's."""
    v = str(rule.version)
    port = f"{rule.proto} . {rule.host_port}"
    target = f"{rule.target_ip} . {rule.target_port}"
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


def packed(element: Element) -> SetElement:
    name, key, comment, data = element
    kinds, data_kinds = KINDS[name]
    value = pack(data_kinds, data.split(" . ")) if data else b""
    return SetElement(name, pack(kinds, key.split(" . ")), value, comment)


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


# -- reading back ---------------------------------------------------------------------------------------------------


def is_complete(objects: Iterable[dict[str, Any]]) -> bool:
    """Whether a table's listing has all fixed rules: each chain as many as it should (nobody but us writes there)."""
    found = Counter(item["rule"]["chain"] for item in objects if "rule" in item)
    return all(found[chain] == len(rules) for chain, (_, rules) in CHAINS.items())


def parse(objects: Iterable[dict[str, Any]]) -> tuple[list[NetworkRules], list[PortRule]]:
    """Intents from ``list table`` in libnftables-json(5)'s form.

    An element of a form that we do not write is somebody else's, and no intent: it must not keep us from reading our own.
    """
    elements: dict[str, list[Any]] = {}
    for item in objects:
        for kind in ("set", "map"):
            if kind in item:
                elements[item[kind]["name"]] = item[kind].get("elem", [])
    return list(_networks(elements)), list(_ports(elements))


def _read(elements: Iterable[Any], read: Callable[[Any], T]) -> Iterator[T]:
    for element in elements:
        try:
            yield read(element)
        except (KeyError, TypeError, ValueError):
            pass


def _plain(key: Any) -> Any:
    """A key without what may be said about it."""
    return key["elem"]["val"] if isinstance(key, dict) and "elem" in key else key


def _prefix(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['prefix']['addr']}/{value['prefix']['len']}"
    return f"{value}/{128 if ':' in value else 32}"


def _name(key: Any) -> str:
    name = _plain(key)
    if not isinstance(name, str):
        raise TypeError
    return name


def _owned(key: Any) -> tuple[str, str]:
    subnet, bridge = _plain(key)["concat"]
    return _prefix(subnet), _name(bridge)


def _same(element: Any) -> tuple[str, bool]:
    key, verdict = element
    return _name(_plain(key)["concat"][0]), "accept" in verdict


def _source(element: Any) -> tuple[str, str]:
    subnet, source = element
    return _prefix(_plain(subnet)), _name(source)


def _networks(elements: dict[str, list[Any]]) -> Iterator[NetworkRules]:
    icc = dict(_read(elements.get("same", []), _same))
    subnets: defaultdict[str, list[str]] = defaultdict(list)
    masqueraded: set[str] = set()
    sources: dict[str, str] = {}
    for v in _ADDR:
        for subnet, bridge in _read(elements.get(f"own{v}", []), _owned):
            subnets[bridge].append(subnet)
        masqueraded.update(_read(elements.get(f"masq{v}", []), lambda key: _prefix(_plain(key))))
        sources |= dict(_read(elements.get(f"snat{v}", []), _source))
    internals, loopbacks = (set(_read(elements.get(name, []), _name)) for name in ("internal", "loopback"))
    for bridge in _read(elements.get("bridges", []), _name):
        own = sorted(subnets[bridge], key=lambda text: (":" in text, text))
        internal = bridge in internals
        yield NetworkRules(
            bridge=bridge,
            subnets=tuple(own),
            internal=internal,
            # of a network without a subnet nobody can tell, and it does not matter
            masquerade=not internal and (not own or any(s in masqueraded or s in sources for s in own)),
            icc=icc.get(bridge, True),
            source=tuple(dict.fromkeys(sources[s] for s in own if s in sources)),
            loopback=bridge in loopbacks,
        )


def _ports(elements: dict[str, list[Any]]) -> Iterator[PortRule]:
    for name in ("ports4", "ports6", "hostports4", "hostports6", "lohostports4", "proxied4", "proxied6"):
        yield from _read(elements.get(name, []), _port)


def _port(element: Any) -> PortRule:
    key, data = element
    comment = key["elem"].get("comment", "") if "elem" in key else ""
    *host, proto, port = _plain(key)["concat"]
    target_ip, target_port = data["concat"]
    return PortRule(_name(proto), host[0] if host else "", int(port), target_ip, int(target_port), comment)
