"""Firewall intents: what the host's packet filter must do for us, whatever carries it out.

    NetworkRules   one bridge network: who may talk to it, and how its packets leave
    PortRule       one published port: a host address and port that lead to a container's
    FirewallBackend  what keeps both true in a kernel: nftables/backend.py, iptables/backend.py; choice.py picks one

The intents are values; ``check_network`` and ``check_port`` are the one place that says which values make sense, and
bring them into the form in which the kernel shows them again, so that intents and kernel can be compared with ``==``.
What each intent promises: docs/firewall.md.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

from ..errors import InvalidArgument
from ..ifname import check_ifname

PortKey = tuple[str, int, str, int]
"""Protocol, IP version, host address or "", host port: two rules with one key can not both be true.  An open port's is
its own address, behind an arrow, and its own port; before the arrow is who alone may send there."""

Mode = Literal["nat", "nat-unprotected", "routed"]
"""How packets of one family come into a network, Docker's gateway modes (docs/firewall.md says what each promises).  To a
firewall Docker's fourth, isolated, is an internal network like any other."""

PROTOCOLS = ("tcp", "udp", "sctp")
_INSTANCE = re.compile(r"[0-9a-f]{0,8}\Z")


@dataclass(frozen=True, slots=True)
class NetworkRules:
    """One bridge network."""

    bridge: str
    subnets: tuple[str, ...] = ()
    """CIDRs of the network (network addresses, not interface addresses)."""
    internal: bool = False
    """Nothing may pass between this network and anything but itself and the host."""
    masquerade: bool = True
    """Packets that leave through another interface take an address of the host."""
    icc: bool = True
    """Containers of the network may talk to each other other than through published ports."""
    source: tuple[str, ...] = ()
    """Host addresses to leave with in place of the outgoing interface's, at most one a family; needs *masquerade*."""
    loopback: bool = False
    """Published IPv4 ports answer on 127.0.0.1 through NAT; the bridge needs sysctl route_localnet=1."""
    mode4: Mode = "nat"
    mode6: Mode = "nat"
    trusted: tuple[str, ...] = ()
    """Host interfaces from which open ports (see PortRule) are reached at the container's own address."""

    def mode(self, version: int) -> Mode:
        return self.mode6 if version == 6 else self.mode4

    def masquerades(self, version: int) -> bool:
        """Whether what leaves with this IP version takes an address of the host."""
        return self.masquerade and self.mode(version) != "routed"


@dataclass(frozen=True, slots=True)
class PortRule:
    """One published port.  Host and target address are of one family.

    With host port 0 nothing is translated: the target's own port is *open* to who sends straight to the container, which is
    everybody in a routed network, and who comes by a trusted interface in any other.
    """

    proto: str
    host_ip: str
    """"" is every local address of the target's family, but for loopback, which needs ``NetworkRules.loopback``.  A
    loopback address is reachable from this host alone; it leads to the target if the network has *loopback*, else the
    rule just guards it (the userland proxy serves it)."""
    host_port: int
    target_ip: str
    target_port: int
    bridge: str
    source: str = ""
    """With host port 0: the one address of the network that may send to the target's port, though its containers are apart."""

    @property
    def version(self) -> int:
        return 6 if ":" in self.target_ip else 4

    @property
    def key(self) -> PortKey:
        if not self.host_port:
            return (self.proto, self.version, f"{self.source}-> {self.target_ip}", self.target_port)
        return (self.proto, self.version, self.host_ip, self.host_port)


class FirewallBackend(Protocol):
    """Keeps intents true in the network namespace of the thread that made it.

    Thread-safe.  Every call is idempotent: to add what is there and to remove what is not there succeeds.  A call is
    one transaction: it happens as a whole or raises and changes nothing.  Rules that somebody else flushed come back
    with the next change.  InvalidArgument for intents that make no sense, NotSupported for what the host lacks,
    OSError with errno for what the kernel refused.
    """

    name: str

    def ensure(self) -> None:
        """Make tables, chains and fixed rules; what they hold stays.  The user's chain is made, and never changed."""
        ...

    def add_network(self, rules: NetworkRules) -> None:
        """Add a network, or change the one with this bridge."""
        ...

    def remove_network(self, bridge: str) -> None:
        """Remove the network's rules.  Its ports are their endpoints' business."""
        ...

    def add_ports(self, rules: Iterable[PortRule]) -> None:
        """Publish; a rule replaces the one with the same key."""
        ...

    def remove_ports(self, rules: Iterable[PortRule]) -> None:
        """Withdraw.  A key that leads to another target by now stays."""
        ...

    def replace(self, networks: Iterable[NetworkRules], ports: Iterable[PortRule]) -> None:
        """Make exactly this be there."""
        ...

    def state(self) -> tuple[list[NetworkRules], list[PortRule]]:
        """What the kernel holds for us; empty when there is nothing."""
        ...

    def connections(self) -> dict[PortKey, int]:
        """How many connections NAT led to the target of each port, since its rule was written; a port that is not counted is
        not in there."""
        ...

    def mend(self, *, whole: bool = True) -> bool:
        """Put back what others took from what was put there; whether something was not as it should be.  Without *whole* only
        our ACCEPTs in the chains of others are looked after."""
        ...

    def disturbed(self) -> bool:
        """Whether somebody changed what tells nobody of its changes (legacy tables) since our own last change."""
        ...

    def diagnose(self) -> list[str]:
        """What on this host stands in our way, a sentence each."""
        ...

    def destroy(self) -> None:
        """Remove all that is ours, the user's chain included."""
        ...

    def close(self) -> None:
        """Let go of sockets and processes; rules stay."""
        ...


def check_instance(instance: str) -> str:
    """*instance*, if it can be part of a name."""
    if not _INSTANCE.match(instance):
        raise InvalidArgument(f"invalid instance suffix {instance!r}: not up to eight lower-case hexadecimal digits")
    return instance


def _address(text: str, what: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f"invalid {what} {text!r}: not an IP address") from None
    if "%" in text:
        raise InvalidArgument(f"invalid {what} {text!r}: an address with a zone can not be matched")
    return address


def _text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """As nft and iptables-save show it: inet_ntop(3) has its own way with ::ffff:192.0.2.1, and Python's changes by version."""
    return socket.inet_ntop(socket.AF_INET if address.version == 4 else socket.AF_INET6, address.packed)


def _subnet(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid subnet {text!r}: {error}") from None
    return f"{_text(network.network_address)}/{network.prefixlen}"


def _check_sendable(address: ipaddress.IPv4Address | ipaddress.IPv6Address, what: str, why: str) -> None:
    if address.is_unspecified or address.is_loopback or address.is_multicast:
        raise InvalidArgument(f"invalid {what} address {address}: packets can not {why}")


def check_network(rules: NetworkRules) -> NetworkRules:
    """*rules* in canonical form (subnets sorted by family, addresses in their shortest form), or InvalidArgument."""
    check_ifname(rules.bridge)
    subnets = tuple(sorted({_subnet(subnet) for subnet in rules.subnets}, key=lambda text: (":" in text, text)))
    sources = [_address(source, "source address") for source in rules.source]
    for source in sources:
        _check_sendable(source, "source", "leave with it")
    if len({source.version for source in sources}) != len(sources):
        raise InvalidArgument(f"more than one source address a family for {rules.bridge}")
    families = {6 if ":" in subnet else 4 for subnet in subnets}
    modes: dict[int, Mode] = {}
    for version in (4, 6):
        if rules.mode(version) not in get_args(Mode):
            raise InvalidArgument(
                f"unknown gateway mode {rules.mode(version)}", hint="one of " + ", ".join(get_args(Mode))
            )
        # without a subnet of its family there is nothing to act on, and it could not be read back
        modes[version] = rules.mode(version) if version in families and not rules.internal else "nat"
    for interface in rules.trusted:
        check_ifname(interface)
    rules = replace(rules, mode4=modes[4], mode6=modes[6])
    masqueraded = {version for version in families if rules.masquerades(version) and not rules.internal}
    return replace(
        rules,
        subnets=subnets,
        masquerade=bool(masqueraded) if families else rules.masquerade and not rules.internal,
        source=tuple(_text(s) for s in sorted(sources, key=lambda s: s.version) if s.version in masqueraded),
        trusted=() if rules.internal else tuple(sorted(set(rules.trusted))),
    )


def check_port(rule: PortRule) -> PortRule:
    """*rule* in canonical form, or InvalidArgument."""
    if rule.proto not in PROTOCOLS:
        raise InvalidArgument(f"invalid protocol {rule.proto!r}", hint="one of " + ", ".join(PROTOCOLS))
    for port in (rule.host_port, rule.target_port):
        if not 0 < port < 65536 and not (port == rule.host_port == 0 and not rule.host_ip):
            raise InvalidArgument(f"invalid port {port}: not between 1 and 65535")
    check_ifname(rule.bridge)
    target = _address(rule.target_ip, "target address")
    _check_sendable(target, "target", "be sent there")
    host_ip = source = ""
    if rule.source:
        sender = _address(rule.source, "source address")
        if rule.host_port or sender.version != target.version:
            raise InvalidArgument(
                f"invalid source address {sender}: only of an open port, and of one family with its target"
            )
        source = _text(sender)
    if rule.host_ip:
        host = _address(rule.host_ip, "host address")
        if host.version != target.version:
            raise InvalidArgument(
                f"can not forward {host} to {target} by NAT: not of one family",
                hint="publish through the userland proxy, or choose an address of the same family",
            )
        if host.is_unspecified:
            raise InvalidArgument(f"{host} is no address to match", hint='"" stands for every address')
        host_ip = _text(host)
    if (host_ip, _text(target), source) == (rule.host_ip, rule.target_ip, rule.source):
        return rule
    return replace(rule, host_ip=host_ip, target_ip=_text(target), source=source)


def is_loopback(host_ip: str) -> bool:
    """Whether a canonical host address is this host's own: 127.0.0.0/8 (RFC 1122 3.2.1.3) or ::1 (RFC 4291 2.5.3)."""
    return host_ip.startswith("127.") or host_ip == "::1"
