"""The iptables back end's rules: intents in, rules out; and iptables-save's text in, intents out.

Chains of our own hang on the built-in ones; which rules stand in them depends on the networks and ports::

    raw     PREROUTING  -d 127.0.0.0/8 ! -i lo   -> GUARD  from a bridge, or to a guarded port: DROP
    nat     PREROUTING  to a local address       -> DNAT   ports bound to one address first, then the others
            OUTPUT      the same, not 127.0.0.0/8 -> DNAT
                        -d 127.0.0.0/8           -> LOCAL  ports of networks with loopback
            POSTROUTING                          -> POST   hairpin, loopback, leaving
    filter  FORWARD     first                    -> FWD    -> USER  the user's own, never changed
                                                           -> EST   established into a bridge: ACCEPT
                                                           -> SAME  in by the bridge that it goes out by: links first, then icc
                                                           -> INT   from or to an internal network: DROP
                                                           -> OPEN  nat-unprotected: ACCEPT; routed: ICMP, and ports in
                                                                    DIRECT; by an interface that is trusted: the ports
                                                           -> IN    to a bridge: DNATed ACCEPT, else DROP
                                                           -> OUT   from a bridge: ACCEPT

A packet that no rule of ours speaks of goes on in the host's own chains.  The promises are those of nft_render.py;
the cost is not: a packet walks the rules one by one.  Full names are ``PYNET-GUARD``, or ``PYNET-<instance>-GUARD``.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..intents import Mode, NetworkRules, PortRule, is_loopback

TABLES: dict[str, tuple[str, ...]] = {
    "raw": ("GUARD",),
    "nat": ("DNAT", "LOCAL", "POST"),
    "filter": ("EST", "SAME", "INT", "DIRECT", "OPEN", "IN", "OUT", "FWD"),
}
"""Chains of ours, those that others jump to first.  The user's chain is apart, because declaring a chain empties it."""
_WALK = ("EST", "SAME", "INT", "OPEN", "IN", "OUT")
USER = "USER"
LOOPBACK = {4: "127.0.0.0/8", 6: "::1/128"}
ICMP = {4: "icmp", 6: "ipv6-icmp"}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, in the few words that we need.  "!" before a value negates."""

    table: str
    chain: str
    target: str
    iface: str = ""
    out: str = ""
    src: str = ""
    dst: str = ""
    proto: str = ""
    dport: int = 0
    ctstate: str = ""
    dst_type: str = ""
    comment: str = ""
    to: str = ""
    """Address, or address and port, of DNAT and SNAT."""
    first: bool = False
    """Goes to the head of its chain."""

    def words(self) -> str:
        """The rule without its chain, as iptables-restore reads it."""
        words: list[str] = []
        for option, value in (("-s", self.src), ("-d", self.dst), ("-i", self.iface), ("-o", self.out)):
            if value:
                words += ["!", option, value[1:]] if value.startswith("!") else [option, value]
        if self.proto:
            words += ["-p", self.proto]
        if self.dport:
            words += ["-m", self.proto, "--dport", str(self.dport)]
        if self.ctstate:
            words += ["-m", "conntrack", "--ctstate", self.ctstate]
        if self.dst_type:
            words += ["-m", "addrtype", "--dst-type", self.dst_type]
        if self.comment:
            words += ["-m", "comment", "--comment", f'"{self.comment}"']
        words += ["-j", self.target]
        if self.to:
            words += ["--to-destination" if self.target == "DNAT" else "--to-source", self.to]
        return " ".join(words)

    def body(self) -> dict[str, Any]:
        return asdict(self)


class Names:
    """Full names of an instance's chains."""

    def __init__(self, instance: str) -> None:
        self.prefix = f"PYNET-{instance}-" if instance else "PYNET-"
        self.user = self.prefix + USER

    def chain(self, short: str) -> str:
        return self.prefix + short

    def hooks(self, version: int) -> list[Rule]:
        """Rules in the built-in chains."""
        loopback = LOOPBACK[version]
        local = [Rule("nat", "OUTPUT", self.chain("LOCAL"), dst=loopback)] if version == 4 else []
        return [
            Rule("raw", "PREROUTING", self.chain("GUARD"), iface="!lo", dst=loopback),
            Rule("nat", "PREROUTING", self.chain("DNAT"), dst_type="LOCAL"),
            Rule("nat", "OUTPUT", self.chain("DNAT"), dst="!" + loopback, dst_type="LOCAL"),
            *local,
            Rule("nat", "POSTROUTING", self.chain("POST")),
            Rule("filter", "FORWARD", self.chain("FWD"), first=True),
        ]

    def fixed(self) -> list[Rule]:
        """Rules in our chains that are always there."""
        return [Rule("filter", self.chain("FWD"), self.chain(short)) for short in (USER, *_WALK)]

    def network(self, rules: NetworkRules, version: int) -> Iterator[Rule]:
        bridge, chain = rules.bridge, self.chain
        yield Rule("filter", chain("EST"), "ACCEPT", out=bridge, ctstate="RELATED,ESTABLISHED")
        if not rules.icc:
            yield Rule("filter", chain("SAME"), "ACCEPT", iface=bridge, out=bridge, ctstate="DNAT")
        yield Rule("filter", chain("SAME"), "ACCEPT" if rules.icc else "DROP", iface=bridge, out=bridge)
        if rules.internal:
            yield Rule("filter", chain("INT"), "DROP", iface=bridge)
            yield Rule("filter", chain("INT"), "DROP", out=bridge)
        mode = rules.mode(version)
        if mode == "nat-unprotected":
            yield Rule("filter", chain("OPEN"), "ACCEPT", out=bridge)
        if mode == "routed":
            yield Rule("filter", chain("OPEN"), "ACCEPT", out=bridge, proto=ICMP[version])
            yield Rule("filter", chain("OPEN"), chain("DIRECT"), out=bridge)
        for interface in rules.trusted:
            yield Rule("filter", chain("OPEN"), chain("DIRECT"), iface=interface, out=bridge)
        yield Rule("filter", chain("IN"), "ACCEPT", out=bridge, ctstate="DNAT")
        yield Rule("filter", chain("IN"), "DROP", out=bridge)
        yield Rule("filter", chain("OUT"), "ACCEPT", iface=bridge)
        yield Rule("raw", chain("GUARD"), "DROP", iface=bridge)
        if rules.loopback and version == 4:
            yield Rule("nat", chain("POST"), "MASQUERADE", src=LOOPBACK[version], out=bridge)
        source = next((source for source in rules.source if (":" in source) == (version == 6)), "")
        for subnet in rules.subnets:
            if (":" in subnet) != (version == 6):
                continue
            yield Rule("nat", chain("POST"), "MASQUERADE", src=subnet, dst=subnet, ctstate="DNAT", comment=bridge)
            if not rules.masquerades(version):
                continue
            if source:
                yield Rule("nat", chain("POST"), "SNAT", src=subnet, out="!" + bridge, to=source)
            else:
                yield Rule("nat", chain("POST"), "MASQUERADE", src=subnet, out="!" + bridge)

    def port(self, rule: PortRule, *, loopback: bool) -> Iterator[Rule]:
        chain = self.chain
        host = f"{rule.host_ip}/{32 if rule.version == 4 else 128}" if rule.host_ip else ""
        ip = f"[{rule.target_ip}]" if rule.version == 6 else rule.target_ip
        target = f"{ip}:{rule.target_port}"
        local = loopback and rule.version == 4
        if rule.source:
            bits = 32 if rule.version == 4 else 128
            yield Rule(
                "filter", chain("SAME"), "ACCEPT", iface=rule.bridge, out=rule.bridge, src=f"{rule.source}/{bits}",
                dst=f"{rule.target_ip}/{bits}", proto=rule.proto, dport=rule.target_port, first=True,
            )  # fmt: skip
            return
        if not rule.host_port:
            own = f"{rule.target_ip}/{32 if rule.version == 4 else 128}"
            yield Rule(
                "filter", chain("DIRECT"), "ACCEPT", out=rule.bridge, dst=own, proto=rule.proto, dport=rule.target_port
            )  # fmt: skip
            return

        def to(chain: str) -> Rule:
            return Rule(
                "nat", chain, "DNAT", dst=host, proto=rule.proto, dport=rule.host_port, comment=rule.bridge, to=target,
                first=bool(host),
            )  # fmt: skip

        if is_loopback(rule.host_ip):
            note = f"{rule.bridge} {target}"
            yield Rule("raw", chain("GUARD"), "DROP", dst=host, proto=rule.proto, dport=rule.host_port, comment=note)
            if local:
                yield to(chain("LOCAL"))
            return
        yield to(chain("DNAT"))
        if local and not host:
            yield to(chain("LOCAL"))


# -- text for iptables-restore ----------------------------------------------------------------------------------------


def edit(
    add: Iterable[Rule],
    delete: Iterable[Rule],
    declare: Iterable[tuple[str, str]] = (),
    require: Iterable[Rule] = (),
) -> str:
    """Input for ``iptables-restore --noflush``: declared (table, chain) are made or emptied, then the rules change.

    Nothing of a table is done when a rule *require*d of it, or to be deleted, is not there; tables of required rules come
    first.
    """
    lines: defaultdict[str, list[str]] = defaultdict(list)
    for rule in require:
        lines[rule.table].append(f"-C {rule.chain} {rule.words()}")
    for table, chain in declare:
        lines[table].append(f":{chain} - [0:0]")
    for rule in delete:
        lines[rule.table].append(f"-D {rule.chain} {rule.words()}")
    for rule in add:
        lines[rule.table].append(f"-{'I' if rule.first else 'A'} {rule.chain} {rule.words()}")
    return "".join(f"*{table}\n" + "\n".join(items) + "\nCOMMIT\n" for table, items in lines.items())


def destroy(names: Names, version: int, dump: Dump) -> str:
    """Input that removes all that is ours from what *dump* shows."""
    lines: defaultdict[str, list[str]] = defaultdict(list)
    for rule in names.hooks(version):
        lines[rule.table] += [f"-D {rule.chain} {rule.words()}"] * dump.count(rule)
    for table, shorts in TABLES.items():
        ours = [names.chain(short) for short in (*reversed(shorts), *((USER,) if table == "filter" else ()))]
        there = [chain for chain in ours if (table, chain) in dump.chains]
        lines[table] += [f"-F {chain}" for chain in there] + [f"-X {chain}" for chain in there]
    return "".join(f"*{table}\n" + "\n".join(items) + "\nCOMMIT\n" for table, items in lines.items() if items)


# -- reading iptables-save
# ----------------------------------------------------------------------------------------------


class Dump:
    """iptables-save's text of one family, taken apart."""

    def __init__(self, text: str) -> None:
        self.chains: dict[tuple[str, str], str] = {}
        """(table, chain) to policy; "-" of a chain that is not built in."""
        self.rules: defaultdict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
        """(table, chain) to rules: option to value, with "!" where negated."""
        table = ""
        for line in text.splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith(":"):
                chain, policy = line[1:].split()[:2]
                self.chains[table, chain] = policy
            elif line.startswith("-A "):
                words = _words(line)
                self.rules[table, words[1]].append(_options(words[2:]))

    def count(self, rule: Rule) -> int:
        """How often *rule* stands in its chain."""
        wanted = _options(_words(rule.words()))
        return sum(_same(found, wanted) for found in self.rules.get((rule.table, rule.chain), ()))


def _words(line: str) -> list[str]:
    return shlex.split(line) if '"' in line else line.split()


def _options(words: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    negated, option = "", ""
    for word in words:
        if word == "!":
            negated = "!"
        elif word.startswith("-") and not (option and not options[option]):
            option, options[word] = word, negated
            negated = ""
        elif option:
            options[option] += word
    return options


def _same(found: dict[str, str], wanted: dict[str, str]) -> bool:
    # the last -m stays in the table of options; which match it was is told by the options of the match
    return {k: v for k, v in found.items() if k != "-m"} == {k: v for k, v in wanted.items() if k != "-m"}


_TARGET = re.compile(r"\[?([0-9a-f.:]+?)\]?:(\d+)\Z")


def _target(text: str) -> tuple[str, int]:
    match = _TARGET.match(text)
    return (match[1], int(match[2])) if match else ("", 0)


def parse(names: Names, dumps: dict[int, Dump]) -> tuple[list[NetworkRules], list[PortRule]]:
    """Intents from the dumps of both families.  A rule of a form that we do not write is somebody else's, and no intent."""
    return list(_networks(names, dumps)), [rule for dump in dumps.values() for rule in _ports(names, dump)]


def _networks(names: Names, dumps: dict[int, Dump]) -> Iterator[NetworkRules]:
    icc: dict[str, bool] = {}
    internal: set[str] = set()
    loopback: set[str] = set()
    subnets: defaultdict[str, list[str]] = defaultdict(list)
    masqueraded: defaultdict[str, set[str]] = defaultdict(set)
    modes: dict[tuple[str, int], Mode] = {}
    trusted: defaultdict[str, set[str]] = defaultdict(set)
    for version, dump in dumps.items():
        for rule in dump.rules["filter", names.chain("OPEN")]:
            if rule.get("-j") == "ACCEPT" and rule.keys() == {"-o", "-j"}:
                modes[rule["-o"], version] = "nat-unprotected"
            elif rule.get("-j") == names.chain("DIRECT") and rule.keys() == {"-o", "-j"}:
                modes[rule["-o"], version] = "routed"
            elif rule.get("-j") == names.chain("DIRECT") and rule.keys() == {"-i", "-o", "-j"}:
                trusted[rule["-o"]].add(rule["-i"])
        for rule in dump.rules["filter", names.chain("SAME")]:
            if "--ctstate" not in rule and "-i" in rule and "-s" not in rule:
                icc[rule["-i"]] = rule.get("-j") == "ACCEPT"
        internal.update(rule["-i"] for rule in dump.rules["filter", names.chain("INT")] if "-i" in rule)
        for rule in dump.rules["nat", names.chain("POST")]:
            if "-s" not in rule:
                continue
            if "--comment" in rule:
                subnets[rule["--comment"]].append(rule["-s"])
            elif "-o" not in rule:
                continue
            elif rule["-s"] in LOOPBACK.values():
                loopback.add(rule["-o"])
            else:
                masqueraded[rule["-o"].lstrip("!")].add(rule.get("--to-source", ""))
    for bridge, allowed in icc.items():
        own = sorted(subnets[bridge], key=lambda text: (":" in text, text))
        yield NetworkRules(
            bridge=bridge,
            subnets=tuple(own),
            internal=bridge in internal,
            masquerade=bridge not in internal and (not own or bridge in masqueraded),
            icc=allowed,
            source=tuple(sorted(masqueraded[bridge] - {""}, key=lambda text: ":" in text)),
            loopback=bridge in loopback,
            mode4=modes.get((bridge, 4), "nat"),
            mode6=modes.get((bridge, 6), "nat"),
            trusted=tuple(sorted(trusted[bridge])),
        )


def _ports(names: Names, dump: Dump) -> Iterator[PortRule]:
    for rule in dump.rules["nat", names.chain("DNAT")]:
        yield from _port(rule, rule.get("--to-destination", ""), rule.get("--comment", ""))
    for rule in dump.rules["raw", names.chain("GUARD")]:
        bridge, _, target = rule.get("--comment", "").partition(" ")
        yield from _port(rule, target, bridge)
    for rule in dump.rules["filter", names.chain("DIRECT")]:
        port = rule.get("--dport", "")
        if {"-d", "-o", "-p"} <= rule.keys() and port.isdecimal() and rule.get("-j") == "ACCEPT":
            yield PortRule(rule["-p"], "", 0, rule["-d"].partition("/")[0], int(port), rule["-o"])
    for rule in dump.rules["filter", names.chain("SAME")]:
        port = rule.get("--dport", "")
        if {"-s", "-d", "-i", "-o", "-p"} <= rule.keys() and port.isdecimal() and rule.get("-j") == "ACCEPT":
            source, target = (rule[word].partition("/")[0] for word in ("-s", "-d"))
            yield PortRule(rule["-p"], "", 0, target, int(port), rule["-o"], source)


def _port(rule: dict[str, str], target: str, bridge: str) -> Iterator[PortRule]:
    ip, port = _target(target)
    host_port = rule.get("--dport", "")
    if ip and "-p" in rule and host_port.isdecimal():
        yield PortRule(rule["-p"], rule.get("-d", "").partition("/")[0], int(host_port), ip, port, bridge)
