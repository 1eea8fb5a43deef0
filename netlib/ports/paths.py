"""By which way a published port leads to its container, and why: NAT in the kernel, the userland proxy, or both.

    nat     the kernel translates; the container sees the client's own address
    proxy   the proxy accepts and connects anew; the container sees the proxy's address (or a PROXY protocol header)
    both    NAT for what comes from the wire, from containers and to the host's own addresses; the proxy for what NAT can not
            carry, clients on the host's loopback
    open    no port of the host leads there: in a routed network packets come to the container's own address and port
    none    nothing leads anywhere now: the port is kept, and waits for a network that publishes

Pure: it is read off the plan's own resources (plans.py), so it can not differ from what was made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..firewall.intents import PortRule, is_loopback
from ..model import PublishedPort
from .leases import UNSPECIFIED

Path = Literal["nat", "proxy", "both", "open", "none"]


@dataclass(frozen=True, slots=True)
class PortPath:
    port: PublishedPort
    path: Path
    why: str
    """A sentence without its full stop."""
    target: tuple[str, int] | None
    """Address and port in the container; None while it leads nowhere."""


def path_of(
    port: PublishedPort, rules: Iterable[PortRule], served: tuple[str, int] | None, *, host_input: bool = False
) -> PortPath:
    """*rules* are those of the sandbox's plan, *served* is where the proxy leads this port, if it does."""
    version = 6 if ":" in port.host_ip else 4
    if not port.host_port:
        own = (port.proto, version, 0, port.container_port)
        opened = next((r for r in rules if (r.proto, r.version, r.host_port, r.target_port) == own), None)
        if opened is None:
            return PortPath(port, "none", "no network of the container is routed", None)
        why = "the network is routed: packets come to the container's own address"
        return PortPath(port, "open", why, (opened.target_ip, opened.target_port))
    key = (port.proto, version, "" if port.host_ip in UNSPECIFIED else port.host_ip, port.host_port)
    rule = next((rule for rule in rules if rule.key == key), None)
    loopback = is_loopback(port.host_ip)
    if served is None:
        if rule is None or (loopback and version == 6):
            return PortPath(port, "none", "no network of the container publishes ports", None)
        return PortPath(port, "nat", "there is no userland proxy", (rule.target_ip, rule.target_port))
    if loopback:
        return PortPath(port, "proxy", "the kernel translates nothing that is sent to a loopback address", served)
    if port.proxy_protocol:
        return PortPath(port, "proxy", f"the PROXY protocol (version {port.proxy_protocol}) was asked for", served)
    if rule is None:
        other = 6 if ":" in served[0] else 4
        if other != version:
            return PortPath(
                port, "proxy", f"the host's address is IPv{version} and the container has IPv{other} alone", served
            )
        why = "the host's INPUT rules judge who reaches it" if host_input else "the network publishes without NAT"
        return PortPath(port, "proxy", why, served)
    if port.host_ip in UNSPECIFIED:
        return PortPath(port, "both", "NAT, and the proxy for clients on the host's loopback", served)
    return PortPath(port, "nat", "NAT carries all that comes to one address of the host; the proxy stands by", served)
