"""How a container resolves: from its record and the engine's options to what the library is told, and to resolv.conf.  Pure.

    host, container:X      the files of the host, of X
    none                   nobody serves names in there: the host's servers, without those on its loopback
    any other network      127.0.0.11 (docs/dns.md); whom that asks is a matter of the name server, and stands in a comment

The texts follow moby's (daemon/libnetwork/internal/resolvconf), whose readers look for ``ExtServers`` in the comments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...names.resolvconf import ResolvConf, parse
from ...netlib.model import Naming
from ...netlib.naming import ADDRESS
from ..name_options import NameOptions
from .record import Container

HEADER = """\
# Written by pynet.  It can be edited: pynet leaves a file alone that is not
# as it wrote it, until the container's next start.
"""


@dataclass(frozen=True)
class Resolving:
    """What holds for one container: its own options, else the engine's, else the host's."""

    servers: tuple[str, ...]
    """Those that somebody named; () are the host's."""
    search: tuple[str, ...]
    options: tuple[str, ...]
    """Of its own or the engine's; the host's where neither has any."""
    overrides: tuple[str, ...]
    """What of this is not the host's: nameservers, search, options."""
    host: ResolvConf

    @classmethod
    def of(cls, host_config: Mapping[str, Any], defaults: NameOptions, host_text: str) -> Resolving:
        host = parse(host_text)
        servers = tuple(host_config["Dns"] or defaults.servers)
        search = tuple(host_config["DnsSearch"] or defaults.search)
        options = tuple(host_config["DnsOptions"] or defaults.options)
        named = (("nameservers", servers), ("search", search), ("options", options))
        return cls(
            servers,
            () if search == (".",) else search or host.search,
            options or host.options,
            tuple(name for name, value in named if value),
            host,
        )

    @property
    def ndots(self) -> int | None:
        return ResolvConf(options=self.options).ndots

    def render(self) -> str:
        """The resolv.conf of a container in which names are served."""
        options = [*self.options, *([] if self.ndots is not None else ["ndots:0"])]
        lines = [HEADER, f"nameserver {ADDRESS}"]
        if self.search:
            lines.append(f"search {' '.join(self.search)}")
        lines += [f"options {' '.join(options)}", "", "# Based on host file: '/etc/resolv.conf' (internal resolver)"]
        asked = self.servers or [f"host({server})" for server in self.host.servers]
        if asked:
            lines.append(f"# ExtServers: [{' '.join(asked)}]")
        lines.append(f"# Overrides: [{' '.join(self.overrides)}]")
        source = "internal" if self.ndots is None else "override" if "options" in self.overrides else "host"
        lines.append(f"# Option ndots from: {source}")
        return "\n".join(lines) + "\n"


def is_named(container: Container) -> bool:
    """Whether names are served in the container's own sandbox."""
    mode = container.network_mode
    return mode != "host" and not mode.startswith("container:") and "none" not in container.networks


def naming(container: Container, resolving: Resolving, hosts: Iterable[tuple[str, str]]) -> Naming | None:
    """What the library is told; *hosts* are ``--add-host`` and links, (name, address) each."""
    if not is_named(container):
        return None
    hostname, domain = str(container.config["Hostname"]), str(container.config["Domainname"])
    return Naming(
        own=(hostname, *([f"{hostname}.{domain}"] if domain else [])),
        hosts=tuple(dict.fromkeys(hosts)),
        servers=resolving.servers,
        search=resolving.search,
        ndots=resolving.ndots,
    )


def extra_hosts(host_config: Mapping[str, Any], gateways: Sequence[str]) -> list[tuple[str, str]]:
    """``--add-host`` as (name, address); ``host-gateway`` is one of each family that there is."""
    found: list[tuple[str, str]] = []
    for item in host_config["ExtraHosts"] or ():
        name, _, address = item.partition(":")
        found += [(name, one) for one in (gateways if address == "host-gateway" else [address.strip("[]")])]
    return found
