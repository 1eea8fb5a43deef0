"""The ``-p`` grammar, as Docker's client reads it (docker/go-connections, nat/parse.go).

    [HOST_IP:][HOST_PORT[-END]:]CONTAINER_PORT[-END][/PROTO][,proxy-protocol=1|2]

    80                     container port 80 on a port that the engine picks
    8080:80                host port 8080 on every address
    127.0.0.1:8080:80      on one address;  127.0.0.1::80 with a port that the engine picks;  [::1]:8080:80 for IPv6
    8000-8010:80-90        eleven bindings, port by port
    8000-8010:80           one binding; the engine takes the first free port of the range
    53:53/udp              tcp is meant when nothing is said
    8080:80,proxy-protocol=2   the container gets each client's address first (ours; docs/proxy.md)

Text in, ExposedPorts and PortBindings out; no look-ups, no I/O.
"""

from __future__ import annotations

from ..netlib.errors import InvalidArgument

PROTOCOLS = ("tcp", "udp", "sctp")
_HINT = "write [HOST_IP:][HOST_PORT:]CONTAINER_PORT[/tcp|udp|sctp], for example 127.0.0.1:8080:80"

Binding = dict[str, str | int]
"""HostIp and HostPort of the Engine API, empty means "the engine decides"; ProxyProtocol, our own."""


class InvalidPublish(InvalidArgument):
    """A ``-p`` or ``--expose`` value is not in the grammar."""

    exit_code = 125

    def __init__(self, text: str, why: str, hint: str = _HINT) -> None:
        super().__init__(f"invalid port {text!r}: {why}", hint=hint)
        self.text = text


def parse_publish(text: str) -> list[tuple[str, Binding]]:
    """One ``-p`` value -> [("80/tcp", {"HostIp": ..., "HostPort": ...}), ...]."""
    ports, comma, option = text.partition(",")
    found = _parse_ports(text, ports)
    if comma:
        for port, binding in found:
            binding["ProxyProtocol"] = _proxy_protocol(text, option, port)
    return found


def _proxy_protocol(text: str, option: str, port: str) -> int:
    name, _, version = option.partition("=")
    if name != "proxy-protocol" or version not in ("1", "2"):
        raise InvalidPublish(text, f"there is no option {option!r}", "write ,proxy-protocol=1 or ,proxy-protocol=2")
    if not port.endswith("/tcp"):
        raise InvalidPublish(text, "the PROXY protocol is for tcp ports")
    return int(version)


def _parse_ports(text: str, ports: str) -> list[tuple[str, Binding]]:
    spec, proto = _protocol(text, ports)
    host_ip, host, container = _split(text, spec)
    if not container:
        raise InvalidPublish(text, "no container port is given")
    first, last = parse_range(text, container)
    if not host:
        return [(f"{port}/{proto}", {"HostIp": host_ip, "HostPort": ""}) for port in range(first, last + 1)]
    host_first, host_last = parse_range(text, host)
    if host_last - host_first == last - first:
        return [
            (f"{port}/{proto}", {"HostIp": host_ip, "HostPort": str(host_first + port - first)})
            for port in range(first, last + 1)
        ]
    if first != last:
        raise InvalidPublish(text, f"the host's range {host} and the container's {container} differ in length")
    return [(f"{first}/{proto}", {"HostIp": host_ip, "HostPort": f"{host_first}-{host_last}"})]


def parse_expose(text: str) -> list[str]:
    """One ``--expose`` value, ``80``, ``80-90`` or ``53/udp`` -> ["80/tcp", ...]."""
    hint = "write PORT[-END][/tcp|udp], for example 8000-8010/tcp"
    spec, proto = _protocol(text, text)
    if ":" in spec:
        raise InvalidPublish(text, "an exposed port has no host side", hint)
    first, last = parse_range(text, spec)
    return [f"{port}/{proto}" for port in range(first, last + 1)]


def publish_all(publish: list[str], expose: list[str]) -> tuple[dict[str, dict[str, str]], dict[str, list[Binding]]]:
    """All ``-p`` and ``--expose`` values -> ExposedPorts, PortBindings."""
    exposed: dict[str, dict[str, str]] = {}
    bindings: dict[str, list[Binding]] = {}
    for text in publish:
        for port, binding in parse_publish(text):
            exposed[port] = {}
            known = bindings.setdefault(port, [])
            if binding not in known:
                known.append(binding)
    for text in expose:
        for port in parse_expose(text):
            exposed[port] = {}
    return exposed, bindings


def parse_range(text: str, piece: str) -> tuple[int, int]:
    """``80`` or ``80-90`` -> first, last."""
    low, dash, high = piece.partition("-")
    first = _port(text, low)
    last = _port(text, high) if dash else first
    if last < first:
        raise InvalidPublish(text, f"the range {piece} runs backwards")
    return first, last


def _port(text: str, digits: str) -> int:
    if not (digits.isascii() and digits.isdecimal()):
        raise InvalidPublish(text, f"{digits!r} is not a port number")
    if not 1 <= int(digits) <= 65535:
        raise InvalidPublish(text, f"port {digits} is not between 1 and 65535")
    return int(digits)


def _protocol(text: str, spec: str) -> tuple[str, str]:
    head, slash, proto = spec.partition("/")
    if not slash:
        return head, "tcp"
    if proto.lower() not in PROTOCOLS:
        raise InvalidPublish(text, f"protocol {proto!r} is not one of {', '.join(PROTOCOLS)}")
    return head, proto.lower()


def _split(text: str, spec: str) -> tuple[str, str, str]:
    """-> host address, host ports, container ports."""
    if spec.startswith("["):
        address, bracket, rest = spec[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise InvalidPublish(text, "an IPv6 address is written [ADDRESS]:PORT:PORT")
        return _address(text, address, 6), *_host_and_container(text, rest[1:])
    parts = spec.rsplit(":", 2)
    if len(parts) < 3:
        return "", *_host_and_container(text, spec)
    address, host, container = parts
    if ":" in address:
        # Docker takes a bare IPv6 address here; what is meant by 1::80:80 is anybody's guess
        raise InvalidPublish(text, "an IPv6 address is written in brackets")
    return _address(text, address, 4), host, container


def _host_and_container(text: str, rest: str) -> tuple[str, str]:
    parts = rest.split(":")
    if len(parts) > 2:
        raise InvalidPublish(text, "too many colons")
    return ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])


def _address(text: str, address: str, version: int) -> str:
    import socket

    if not address:
        return ""
    try:
        socket.inet_pton(socket.AF_INET if version == 4 else socket.AF_INET6, address)
    except (OSError, ValueError):
        raise InvalidPublish(text, f"{address!r} is not an IPv{version} address") from None
    return address
