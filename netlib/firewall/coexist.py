"""Living with the host's other filters: ACCEPTs for our bridges in the chains that would drop their packets, and
words about what we can not mend.

For each bridge there are two rules in each Place (firewall_detect.py), marked with a comment so that they are found
again:

    iifname BRIDGE accept
    oifname BRIDGE accept

The second looks generous and is not: our own table drops what may not reach a container, and in whichever table
a packet is dropped, it is gone.  No connection state is asked for, because iptables-nft refuses to list a table
with nft's own "ct" expressions in it, and such a table may be Docker's.

A chain that can not be changed (a table with an owner, one removed a moment ago) is left alone; ``diagnose`` tells.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ..errors import NotSupported
from ..kernel import advertisements
from ..kernel.libnftables import Nft, NftError
from ..kernel.netns import NetnsThread, open_netns
from ..kernel.rtnetlink import Rtnetlink
from . import detect
from .intents import NetworkRules, PortRule
from .iptables.process import IptablesError, LegacyTables, check_installed
from .iptables.render import Rule, edit

T = TypeVar("T")


class Coexistence:
    """ACCEPTs of one instance in the chains of others.  Not thread-safe: the back end has the lock.

    *nft* None: nftables do not work here.  *legacy* false: our own rules stand in the legacy tables and accept there.
    """

    def __init__(self, mark: str, nft: Nft | None, *, legacy: bool) -> None:
        self._mark = mark
        self._nft = nft
        self._netns = open_netns("/proc/thread-self/ns/net")
        self._tables: LegacyTables | None = None
        if legacy:
            try:
                check_installed()
                self._tables = LegacyTables()
            except NotSupported:  # diagnose tells if it matters
                pass
        self._legacy = legacy

    def close(self) -> None:
        if self._tables is not None:
            self._tables.close()
        if self._netns >= 0:
            os.close(self._netns)
            self._netns = -1

    def _inside(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call *function* in the namespace that the back end was made in."""
        if os.stat("/proc/thread-self/ns/net").st_ino == os.fstat(self._netns).st_ino:
            return function(*arguments)
        with NetnsThread() as thread:
            return thread.call(self._netns, function, *arguments)

    # -- ACCEPTs ------------------------------------------------------------------------------------------------

    def counts(self) -> object:
        """Something that differs when rules came to or went from the legacy tables, or a policy of FORWARD changed."""
        return self._inside(detect.legacy_counts)

    def sync(self, bridges: Iterable[str]) -> bool:
        """Have ACCEPTs for exactly *bridges* wherever they are needed; whether something had to be changed."""
        wanted = sorted(bridges)
        changed = False
        if self._nft is not None:
            chains = self._nft.list("list chains")
            needed = {(p.family, p.table, p.chain) for p in detect.forward_drops(chains)} if wanted else set()
            for place in detect.marked_places(chains):
                here = (place.family, place.table, place.chain) in needed
                changed |= self._sync_nft(self._nft, place, wanted if here else [])
        if self._tables is not None:
            for version in (4, 6):
                changed |= self._sync_legacy(self._tables, version, wanted)
        return changed

    def _comment(self, bridge: str) -> str:
        return f"{self._mark} {bridge}"

    def _sync_nft(self, nft: Nft, place: detect.Place, bridges: Sequence[str]) -> bool:
        try:
            present = self._present(nft, place)
            text = "".join(
                f"delete rule {place} handle {handle}\n"
                for (_, bridge), handles in present.items()
                for handle in (handles[1:] if bridge in bridges else handles)
            )
            text += "".join(
                f'insert rule {place} {key} "{bridge}" accept comment "{self._comment(bridge)}"\n'
                for bridge in bridges
                for key in ("iifname", "oifname")
                if (key, bridge) not in present
            )
            if text:
                nft.run(text)
            return bool(text)
        except NftError as error:
            if error.errno not in (errno.ENOENT, errno.EPERM, errno.EBUSY):
                raise
            return False

    def _present(self, nft: Nft, place: detect.Place) -> dict[tuple[str, str], list[int]]:
        """Handles of our rules in a chain by (key, bridge)."""
        found: dict[tuple[str, str], list[int]] = {}
        for item in nft.list(f"list chain {place}"):
            rule = item.get("rule", {})
            mark, _, bridge = str(rule.get("comment", "")).partition(" ")
            if mark == self._mark and bridge:
                key = str(rule["expr"][0]["match"]["left"]["meta"]["key"])
                found.setdefault((key, bridge), []).append(int(rule["handle"]))
        return found

    def _sync_legacy(self, tables: LegacyTables, version: int, bridges: Sequence[str]) -> bool:
        if "filter" not in self._inside(detect.legacy_tables, version):
            return False
        drops = self._inside(detect.legacy_forward_drops, version)
        if not drops and not tables.running(version) and bridges:
            return False  # nothing to mend, and what an earlier run left goes with the last bridge
        dump = tables.save(version)
        chain = detect.USER_CHAIN if ("filter", detect.USER_CHAIN) in dump.chains else "FORWARD"
        stale = [
            Rule("filter", where, "ACCEPT", iface=rule.get("-i", ""), out=rule.get("-o", ""), comment=rule["--comment"])
            for where in (detect.USER_CHAIN, "FORWARD")
            for rule in dump.rules["filter", where]
            if rule.get("--comment", "").startswith(self._mark + " ")
        ]
        wanted: list[Rule] = []
        for bridge in bridges if drops else ():
            for iface, out in ((bridge, ""), ("", bridge)):
                wanted.append(
                    Rule("filter", chain, "ACCEPT", iface, out, comment=self._comment(bridge), first=True)
                )  # fmt: skip
        new = [rule for rule in wanted if not dump.count(rule)]
        old = [rule for rule in stale if not any(rule.words() == kept.words() for kept in wanted)]
        try:
            if new or old:
                tables.restore(version, edit(new, old))
        except IptablesError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return bool(new or old)

    # -- words ------------------------------------------------------------------------------------------------------

    def diagnose(self, networks: Iterable[NetworkRules], ports: Sequence[PortRule]) -> list[str]:
        """What stands in the way of *networks* and *ports*, a sentence each."""
        networks = list(networks)
        bridges = [rules.bridge for rules in networks]
        said = self._inside(_host_settings, networks)
        if self._nft is not None:
            chains = self._nft.list("list chains")
            for place in detect.forward_drops(chains):
                present = self._present(self._nft, place)
                bare = [bridge for bridge in bridges if ("oifname", bridge) not in present]
                if bare:
                    said.append(
                        f"The policy of chain {place.family} {place.table} {place.hooked} is drop; "
                        f"packets of {', '.join(bare)} may be lost there: accept them in {place}."
                    )
            if detect.has_firewalld(chains) and bridges:
                said.append(
                    "firewalld is running; if containers are not reached, trust their bridges: "
                    + "; ".join(f"firewall-cmd --zone=trusted --add-interface={bridge}" for bridge in bridges)
                )
            if ports:
                for place, port in detect.foreign_translations(self._nft.list("list ruleset"), ports):
                    said.append(_taken(str(place), port))
        for version in (4, 6) if self._legacy else ():
            if self._inside(detect.legacy_forward_drops, version) and self._tables is None and bridges:
                said.append(
                    f"The FORWARD policy of the legacy IPv{version} filter table is DROP, and python-iptables is not "
                    f"there to accept packets of {', '.join(bridges)}: install it, or accept them by hand."
                )
            if ports and self._tables is not None and "nat" in self._inside(detect.legacy_tables, version):
                dump = self._tables.save(version)
                ours = {(p.proto, str(p.host_port)): p for p in ports if p.version == version}
                for (table, chain), found in dump.rules.items():
                    for rule in found if table == "nat" else ():
                        mine = ours.get((rule.get("-p", ""), rule.get("--dport", "")))
                        if mine is not None and rule.get("-j") in ("DNAT", "REDIRECT"):
                            said.append(_taken(f"legacy {table} {chain}", mine))
        return said


def _taken(place: str, port: PortRule) -> str:
    return (
        f"Chain {place} translates {port.proto} port {port.host_port} too; whichever rule comes first wins: "
        f"remove that rule, or publish another port than {port.host_port}."
    )


def _host_settings(networks: Sequence[NetworkRules]) -> list[str]:
    """Sysctls of the calling thread's namespace that keep *networks* from working."""
    said: list[str] = []
    open_networks = [rules for rules in networks if not rules.internal]
    for version, name in ((4, "ipv4/ip_forward"), (6, "ipv6/conf/all/forwarding")):
        used = any((":" in subnet) == (version == 6) for rules in open_networks for subnet in rules.subnets)
        if used and _sysctl(name) == "0":
            said.append(f"IPv{version} forwarding is off: set sysctl net.{name.replace('/', '.')}=1.")
        if used and version == 6 and _sysctl(name) == "1":
            with Rtnetlink() as rtnl:
                said += [
                    f"{interface} has its IPv6 way out from router advertisements, which a host that forwards ignores: set "
                    f"sysctl net.ipv6.conf.{interface}.accept_ra=2."
                    for interface in advertisements.depending(rtnl)
                ]
    for rules in networks:
        if not rules.icc:
            said += _reach_each_other(rules)
        if rules.loopback and _sysctl(f"ipv4/conf/{rules.bridge}/route_localnet") == "0":
            said.append(f"127.0.0.1 can not be translated: set sysctl net.ipv4.conf.{rules.bridge}.route_localnet=1.")
    return said


def _reach_each_other(rules: NetworkRules) -> Iterator[str]:
    """Containers were kept apart by the bridge itself if the firewall did not see its packets when they joined."""
    with Rtnetlink() as rtnl:
        bridge = rtnl.link(rules.bridge)
        ports = [link for link in rtnl.links() if bridge is not None and link.master == bridge.index]
    if all(port.isolated for port in ports):
        return
    for version, name in ((4, "bridge-nf-call-iptables"), (6, "bridge-nf-call-ip6tables")):
        used = any((":" in subnet) == (version == 6) for subnet in rules.subnets)
        if used and _sysctl(f"bridge/{name}") != "1":
            yield (
                f"Containers of {rules.bridge} reach each other in spite of icc=false, because bridged IPv{version} packets "
                f"do not pass the firewall here: load br_netfilter and set sysctl net.bridge.{name}=1, or start them again."
            )


def _sysctl(name: str) -> str:
    """The value; "" if there is no such parameter."""
    try:
        with open(f"/proc/sys/net/{name}", encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""
