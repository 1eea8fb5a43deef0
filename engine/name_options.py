"""What the engine's options say of names, for containers that say nothing themselves: Docker's options and keys.  Pure.

--dns 192.0.2.53 --dns-search corp.example --dns-opt ndots:2        servers, search list, options
--host-gateway-ip 192.0.2.1                                         what host-gateway means in --add-host
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self

from ..netlib.errors import InvalidArgument
from .fields import is_word


@dataclass(frozen=True)
class NameOptions:
    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    host_gateways: tuple[str, ...] = ()
    """Addresses, one of a family; () is the default bridge's own."""

    @classmethod
    def of(cls, arguments: Namespace) -> Self:
        """InvalidArgument says which option is wrong."""
        found = cls(
            tuple(arguments.dns),
            tuple(arguments.dns_search),
            tuple(arguments.dns_opt),
            tuple(arguments.host_gateway_ip),
        )
        for option, values in (("--dns", found.servers), ("--host-gateway-ip", found.host_gateways)):
            for value in values:
                _check_address(option, value)
        families = [ip_address(value).version for value in found.host_gateways]
        if len(families) > len(set(families)):
            raise InvalidArgument(
                "only one IPv4 and one IPv6 host gateway IP address can be specified",
                hint="give --host-gateway-ip once for each family",
            )
        for option, values in (("--dns-search", found.search), ("--dns-opt", found.options)):
            for value in values:
                if not is_word(value):
                    raise InvalidArgument(f"invalid argument {value!r} for {option}: it is one word")
        return found


def _check_address(option: str, value: str) -> None:
    try:
        ip_address(value)
    except ValueError:
        raise InvalidArgument(
            f"invalid argument {value!r} for {option}: it is not an IP address", hint="for example 192.0.2.1"
        ) from None
