"""The grammar of published ports: the text of ``-p``, the Engine API's PortBindings, and ``--expose``.

    -p  [[HOST_IP:][HOST_PORT[-LAST]]:]CONTAINER_PORT[-LAST][/PROTO[+PROTO...]][,proxy-protocol=1|2]      PROTO tcp, udp, sctp

    80                          a port of the host's choosing, on every address
    8080:80                     that port, on every address
    127.0.0.1:8080:80           that port, on one address; [::1]:8080:80 likewise
    127.0.0.1::80               a port of the host's choosing, on one address
    8000-8010:80-90             port by port; the ranges are equally long
    8000-8010:80                any free port of the range
    53:53/udp+tcp               both protocols (ours); ports of the host's choosing are chosen for each by itself
    8080:80,proxy-protocol=2    the container is told each client's address (ours; docs/proxy.md)

All come out as one ``PortBinding`` a container port.  Texts of errors are those of Docker's parsers (go-connections:
nat/nat.go; cli: container/opts.go; moby: validatePortBindings in daemon/container.go).  Stricter than Docker in one
respect: in ``-p`` a host port of 0 is an error, since "any port" has a notation of its own; through the API, where
clients do send "0", it means any port.

The one grammar of ports: the command line, the engine, images' EXPOSE and the library read by it, so it is part of the
foundation, and nothing is imported here that a command would feel (dataclasses alone are 9 ms, re and socket 3 each).
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from ..errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

PROTOCOLS = ("tcp", "udp", "sctp")
MAX_PORT = 65535

_HINT = "write [HOST_IP:][HOST_PORT:]CONTAINER_PORT[/tcp|udp|sctp], ports from 1 to 65535, ranges as 8000-8010"


class PortBinding:
    """One container port and where on the host it is to appear; a value: equal, ordered and hashed by its fields.

    ``host_ip`` is a canonical address, or "" for every address of the host.  Any one port of
    ``host_port_first..host_port_last`` will do; both 0: any ephemeral port.  ``proxy_protocol`` is the version of the
    PROXY protocol header that the container gets first (tcp); 0 for none.
    """

    __slots__ = ("container_port", "host_ip", "host_port_first", "host_port_last", "proto", "proxy_protocol")

    def __init__(  # noqa: PLR0917
        self,
        proto: str,
        host_ip: str,
        host_port_first: int,
        host_port_last: int,
        container_port: int,
        proxy_protocol: int = 0,
    ) -> None:
        self.proto, self.host_ip = proto, host_ip
        self.host_port_first, self.host_port_last = host_port_first, host_port_last
        self.container_port, self.proxy_protocol = container_port, proxy_protocol

    @property
    def _fields(self) -> tuple[str, str, int, int, int, int]:
        ports = (self.host_port_first, self.host_port_last, self.container_port)
        return (self.proto, self.host_ip, *ports, self.proxy_protocol)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PortBinding) and self._fields == other._fields

    def __lt__(self, other: PortBinding) -> bool:
        return self._fields < other._fields

    def __hash__(self) -> int:
        return hash(self._fields)

    def __repr__(self) -> str:
        return f"PortBinding{self._fields}"

    @property
    def ephemeral(self) -> bool:
        return self.host_port_first == 0

    @property
    def key(self) -> str:
        """The container port as the Engine API names it: ``80/tcp``."""
        return f"{self.container_port}/{self.proto}"

    def __str__(self) -> str:
        return format_publish(self)


class PortSelection:
    """What ``port rm`` names: host ports as they are published."""

    __slots__ = ("first", "host_ip", "last", "protos")

    def __init__(self, host_ip: str, first: int, last: int, protos: list[str]) -> None:
        self.host_ip, self.first, self.last, self.protos = host_ip, first, last, protos

    def __contains__(self, port: tuple[str, str, int]) -> bool:
        """Whether (protocol, host address, host port) is meant."""
        proto, host_ip, number = port
        return proto in self.protos and self.host_ip in ("", host_ip) and self.first <= number <= self.last


def parse_host_ports(text: str) -> PortSelection:
    """``[HOST_IP:]HOST_PORT[-LAST][/PROTO[+PROTO...]]``, tcp where no protocol is named."""
    left, _, proto = text.partition("/")
    ip, _, ports = left.rpartition(":")
    first, last = _range(ports, f"invalid hostPort: {ports}")
    return PortSelection(_host_ip(ip), first, last, _protos(proto))


class _NotAPort(ValueError):
    """Why a text is no port or range."""


def parse_publish(text: str) -> list[PortBinding]:
    """Read one ``-p``.  InvalidArgument for anything outside the grammar."""
    ports, comma, option = text.partition(",")
    return _parse_ports(ports, option if comma else None)


def _option(text: str, proto: str) -> int:
    name, _, version = text.partition("=")
    if name != "proxy-protocol":
        raise InvalidArgument(
            f"invalid option of a published port: {text!r}", hint="proxy-protocol=1 or proxy-protocol=2"
        )
    return _proxy_protocol(version, proto)


def _proxy_protocol(version: str, proto: str) -> int:
    if version not in ("1", "2"):
        raise InvalidArgument(f"invalid version of the PROXY protocol: {version}", hint="1 and 2 are known")
    if proto != "tcp":
        raise InvalidArgument(f"the PROXY protocol is for tcp ports, not {proto}", hint="publish without it")
    return int(version)


def _parse_ports(text: str, option: str | None) -> list[PortBinding]:
    left, _, container = text.rpartition(":")
    ip, _, host = left.rpartition(":")
    # More colons than two belong to an IPv6 address, bracketed or not; like Docker, "::1:8080:80" is read as ::1.
    container, _, proto = container.partition("/")
    if not container:
        raise InvalidArgument(f"no port specified: {text}<empty>", hint=_HINT)
    protos = _protos(proto)
    host_ip = _host_ip(ip)
    first, last = _range(container, f"invalid containerPort: {container}")
    host_first, host_last = _range(host, f"invalid hostPort: {host}") if host else (0, 0)
    if host and first != last and last - first != host_last - host_first:
        raise InvalidArgument(
            f"invalid ranges specified for container and host Ports: {container} and {host}",
            hint="give both ranges the same length, or a range of host ports for one container port",
        )
    found: list[PortBinding] = []
    for proto in protos:
        version = 0 if option is None else _option(option, proto)
        for port in range(first, last + 1):
            low, high = (host_first, host_last) if not host or first == last else (port + host_first - first,) * 2
            found.append(PortBinding(proto, host_ip, low, high, port, version))
    return found


def format_publish(binding: PortBinding) -> str:
    """The ``-p`` that means this binding."""
    ip = f"[{binding.host_ip}]" if ":" in binding.host_ip else binding.host_ip
    host = format_host_port(binding)
    option = f",proxy-protocol={binding.proxy_protocol}" if binding.proxy_protocol else ""
    if ip:
        return f"{ip}:{host}:{binding.key}{option}"
    return f"{host}:{binding.key}{option}" if host else f"{binding.key}{option}"


def format_host_port(binding: PortBinding) -> str:
    """The wanted host port as the Engine API's HostPort: "", "8080" or "8000-8010"."""
    if binding.ephemeral:
        return ""
    if binding.host_port_first == binding.host_port_last:
        return str(binding.host_port_first)
    return f"{binding.host_port_first}-{binding.host_port_last}"


def parse_port_bindings(bindings: Mapping[str, object]) -> list[PortBinding]:
    """Read ``HostConfig.PortBindings``: ``{"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}``.

    ``"ProxyProtocol": 1`` or 2 beside them is an extension of ours.
    An empty or null list means one ephemeral port, as Docker fills it in for API versions up to 1.52.
    """
    result: list[PortBinding] = []
    for key, entries in bindings.items():
        port, proto = parse_port(key)
        if entries is None or entries == []:
            entries = [{}]
        if not isinstance(entries, list):
            raise InvalidArgument(f"invalid port bindings for {key}: a list of HostIp and HostPort is needed")
        for entry in entries:
            result.append(_api_binding(key, port, proto, entry))
    return result


def format_port_bindings(bindings: Sequence[PortBinding]) -> dict[str, list[dict[str, Any]]]:
    """The Engine API's PortBindings for these values."""
    result: dict[str, list[dict[str, Any]]] = {}
    for binding in bindings:
        entry: dict[str, Any] = {"HostIp": binding.host_ip, "HostPort": format_host_port(binding)}
        if binding.proxy_protocol:
            entry["ProxyProtocol"] = binding.proxy_protocol
        result.setdefault(binding.key, []).append(entry)
    return result


def parse_port(text: str) -> tuple[int, str]:
    """One port with its protocol, ``80/tcp`` or ``80``, as the keys of PortBindings and ExposedPorts."""
    port, _, proto = text.partition("/")
    try:
        first, last = _parse_range(port)
    except _NotAPort:
        first, last = 0, -1
    if first != last:
        raise InvalidArgument(f"invalid port specification: {_quote(text)}", hint="name one port, as 80/tcp")
    return first, _proto(proto)


def parse_expose(text: str, what: str = "--expose") -> list[str]:
    """Read one ``--expose`` (or *what* else has that form): a port or a range, with a protocol -> ["80/tcp", ...]."""
    if ":" in text:
        raise InvalidArgument(f"invalid port format for {what}: {text}", hint="to map a port to the host use --publish")
    ports, _, proto = text.partition("/")
    try:
        first, last = _parse_range(ports)
    except _NotAPort as why:
        raise InvalidArgument(f"invalid range format for {what}: {text}, error: {why}", hint=_HINT) from None
    proto = _proto(proto)
    return [f"{port}/{proto}" for port in range(first, last + 1)]


def _api_binding(key: str, port: int, proto: str, entry: object) -> PortBinding:
    if not isinstance(entry, dict):
        raise InvalidArgument(f"invalid port bindings for {key}: a list of HostIp and HostPort is needed")
    ip, wanted = entry.get("HostIp") or "", entry.get("HostPort") or ""
    if not isinstance(ip, str) or not isinstance(wanted, str):
        raise InvalidArgument(f"invalid port bindings for {key}: HostIp and HostPort are strings")
    first = last = 0
    if wanted.rstrip("0"):
        first, last = _range(wanted, f"invalid port specification: {_quote(wanted)}")
    version = entry.get("ProxyProtocol")
    if version is not None and type(version) is not int:
        raise InvalidArgument(f"invalid port bindings for {key}: ProxyProtocol is 1 or 2", hint="leave it out for none")
    return PortBinding(proto, _host_ip(ip), first, last, port, _proxy_protocol(str(version), proto) if version else 0)


def _proto(text: str) -> str:
    proto = text.lower() or "tcp"
    if proto not in PROTOCOLS:
        raise InvalidArgument(f"invalid proto: {proto}", hint=f"choose one of {', '.join(PROTOCOLS)}")
    return proto


def _protos(text: str) -> list[str]:
    """One protocol, or several with + between them."""
    words = text.split("+")
    protos = [_proto(one) for one in words]
    if len(words) > 1 and ("" in words or len(set(protos)) < len(protos)):
        raise InvalidArgument(f"invalid proto: {text}", hint="name each protocol once, as tcp+udp")
    return protos


def _host_ip(text: str) -> str:
    """Canonical text of an address, with or without brackets; "" stays.  A mapped IPv4 address is that IPv4 address."""
    if not text:
        return ""
    bare = text[1:-1] if text[0] == "[" and text[-1] == "]" else text
    try:
        if ":" not in bare:
            return inet_ntop(AF_INET, inet_pton(AF_INET, bare))
        packed = inet_pton(AF_INET6, bare)
    except (OSError, ValueError):  # ValueError: a NUL, or characters outside ASCII
        raise InvalidArgument(f"invalid IP address: {bare}", hint="write [::1] or 127.0.0.1, not a name") from None
    # RFC 4291 2.5.5.2; an IPv6 socket with IPV6_V6ONLY can not be bound to such an address.
    if packed.startswith(b"\0" * 10 + b"\xff\xff"):
        return inet_ntop(AF_INET, packed[12:])
    return inet_ntop(AF_INET6, packed)


def _range(text: str, message: str) -> tuple[int, int]:
    try:
        return _parse_range(text)
    except _NotAPort as why:
        raise InvalidArgument(message, hint=f"{why}; {_HINT}") from None


def _parse_range(text: str) -> tuple[int, int]:
    if not text:
        raise _NotAPort("empty string specified for ports")
    first, dash, last = text.partition("-")
    start = _parse_number(first)
    end = _parse_number(last) if dash else start
    if end < start:
        raise _NotAPort(f"invalid range specified for port: {text}")
    return start, end


def _parse_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise _NotAPort(f"{_quote(text)}: invalid syntax")
    digits = text.lstrip("0") or "0"
    number = int(digits) if len(digits) <= 5 else MAX_PORT + 1  # int() of a very long text is slow, or an error
    if not 1 <= number <= MAX_PORT:
        raise _NotAPort(f"{_quote(text)}: value out of range (1–65535)")
    return number


def _quote(text: str) -> str:
    """As Go's %q for what people type: double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
