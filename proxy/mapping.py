"""The grammar of pynet-proxy's command lines: which port leads where, as values.

    tcp 127.0.0.1:8080 10.1.0.2:80            parse_plain: three words a port
    -proto tcp -host-ip 127.0.0.1 ...         parse_docker: docker-proxy's flags, in Go's spellings

Only what the path of a process that dockerd starts for a port needs is imported.
"""

from __future__ import annotations

import _socket

from ..netlib.errors import InvalidArgument
from ..netlib.ports.bind import bind

USAGE = "pynet-proxy [OPTION ...] PROTO [HOST-IP]:PORT TARGET-IP:PORT [PROTO ...]"
DOCKER_FLAGS = frozenset({"proto", "host-ip", "host-port", "container-ip", "container-port", "use-listen-fd"})


class Mapping:
    """One port: where clients come to and where they are led."""

    __slots__ = ("host_ip", "host_port", "proto", "target_ip", "target_port")

    def __init__(self, proto: str, host_ip: str, host_port: int, target_ip: str, target_port: int) -> None:
        self.proto, self.host_ip, self.host_port = proto, host_ip, host_port
        self.target_ip, self.target_port = target_ip, target_port

    def bind(self) -> int:
        """The descriptor of its bound socket.  "::" is IPv6 alone, as dockerd has another proxy for 0.0.0.0; "" is both."""
        return bind(self.proto, self.host_ip, self.host_port, both=not self.host_ip)

    def _values(self) -> tuple[str, str, int, str, int]:
        return self.proto, self.host_ip, self.host_port, self.target_ip, self.target_port

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self._values() == other._values()

    __hash__ = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"Mapping{self._values()}"


def _port(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 65535:
        raise InvalidArgument(f"{whole!r} has no port from 1 to 65535", hint=USAGE)
    return int(text)


def parse_endpoint(text: str) -> tuple[str, int]:
    """``ip:port``, ``[ip]:port``; an empty ip is every address of both families."""
    ip, colon, port = text.rpartition(":")
    if ip.startswith("[") and ip.endswith("]"):
        ip = ip[1:-1]
    elif ":" in ip:
        colon = ""
    if not colon:
        raise InvalidArgument(f"{text!r} is not an address and port such as 127.0.0.1:80 or [::1]:80", hint=USAGE)
    try:
        if ip:
            _socket.inet_pton(_socket.AF_INET6 if ":" in ip else _socket.AF_INET, ip)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{ip!r} is not an address; names are not looked up", hint=USAGE) from error
    return ip, _port(port, text)


def parse_plain(words: list[str]) -> list[Mapping]:
    if not words or len(words) % 3:
        raise InvalidArgument("mappings are three words each", hint=USAGE)
    mappings: list[Mapping] = []
    for proto, host, target in zip(words[::3], words[1::3], words[2::3], strict=True):
        _check_proto(proto)
        mappings.append(Mapping(proto, *parse_endpoint(host), *parse_endpoint(target)))
    return mappings


def _check_proto(proto: str) -> None:
    if proto not in ("tcp", "udp", "sctp"):
        raise InvalidArgument(f"the protocol must be tcp, udp or sctp, not {proto!r}", hint=USAGE)


def parse_docker(words: list[str]) -> tuple[Mapping, bool]:
    """docker-proxy's flags, in Go's spellings (-flag value, -flag=value, --flag); the bool: the socket comes on 4."""
    values = {"proto": "tcp", "host-ip": "", "host-port": "", "container-ip": "", "container-port": ""}
    passed = False
    rest = iter(words)
    for word in rest:
        name, given, value = word.removeprefix("-").removeprefix("-").partition("=")
        if name == "use-listen-fd" and word.startswith("-"):
            passed = value in ("", "true", "1", "t", "T", "TRUE", "True")
            continue
        if not word.startswith("-") or name not in values:
            raise InvalidArgument(f"unknown argument {word!r}", hint="docker-proxy's flags, or " + USAGE)
        if not given:
            value = next(rest, "")
        values[name] = value
    _check_proto(values["proto"])
    ports = [_port(values[name], f"-{name} {values[name]}") for name in ("host-port", "container-port")]
    return Mapping(values["proto"], values["host-ip"], ports[0], values["container-ip"], ports[1]), passed
