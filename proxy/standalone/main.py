"""pynet-proxy: the forwarder by itself, for somebody at a shell or in docker-proxy's place.

    pynet-proxy [OPTION ...] tcp 127.0.0.1:8080 10.1.0.2:80 [udp :53 10.1.0.2:53 ...]
    pynet-proxy -proto tcp -host-ip 127.0.0.1 -host-port 8080 -container-ip 10.1.0.2 -container-port 80 [-use-listen-fd]

The first form serves in the foreground, in this one process and its workers, until SIGTERM or SIGINT (foreground.py).

The second is docker-proxy's, with its descriptors: 3 is told "0\\n" when the port is served or "1\\n" and why not; with
-use-listen-fd, 4 is the socket, bound already (moby, cmd/docker-proxy).  dockerd starts one for each port, so:

    bind or take 4 --> lend to the shared forwarder (lend.py) --> "0\\n" --> become the sleeper (sleeper.py)

The port ends when this process does.  Only what this path needs is imported at the top, and no more than that.
"""

from __future__ import annotations

import _socket
import os
import sys

from ...netlib.errors import InvalidArgument, PynetError
from ...netlib.ports.bind import bind

_READY_FD, _LISTEN_FD = 3, 4
_USAGE = "pynet-proxy [OPTION ...] PROTO [HOST-IP]:PORT TARGET-IP:PORT [PROTO ...]"
_DOCKER_FLAGS = frozenset({"proto", "host-ip", "host-port", "container-ip", "container-port", "use-listen-fd"})


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
        raise InvalidArgument(f"{whole!r} has no port from 1 to 65535", hint=_USAGE)
    return int(text)


def parse_endpoint(text: str) -> tuple[str, int]:
    """``ip:port``, ``[ip]:port``; an empty ip is every address of both families."""
    ip, colon, port = text.rpartition(":")
    if ip.startswith("[") and ip.endswith("]"):
        ip = ip[1:-1]
    elif ":" in ip:
        colon = ""
    if not colon:
        raise InvalidArgument(f"{text!r} is not an address and port such as 127.0.0.1:80 or [::1]:80", hint=_USAGE)
    try:
        if ip:
            _socket.inet_pton(_socket.AF_INET6 if ":" in ip else _socket.AF_INET, ip)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{ip!r} is not an address; names are not looked up", hint=_USAGE) from error
    return ip, _port(port, text)


def parse_plain(words: list[str]) -> list[Mapping]:
    if not words or len(words) % 3:
        raise InvalidArgument("mappings are three words each", hint=_USAGE)
    mappings: list[Mapping] = []
    for proto, host, target in zip(words[::3], words[1::3], words[2::3], strict=True):
        _check_proto(proto)
        mappings.append(Mapping(proto, *parse_endpoint(host), *parse_endpoint(target)))
    return mappings


def _check_proto(proto: str) -> None:
    if proto not in ("tcp", "udp", "sctp"):
        raise InvalidArgument(f"the protocol must be tcp, udp or sctp, not {proto!r}", hint=_USAGE)


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
            raise InvalidArgument(f"unknown argument {word!r}", hint="docker-proxy's flags, or " + _USAGE)
        if not given:
            value = next(rest, "")
        values[name] = value
    _check_proto(values["proto"])
    ports = [_port(values[name], f"-{name} {values[name]}") for name in ("host-port", "container-port")]
    return Mapping(values["proto"], values["host-ip"], ports[0], values["container-ip"], ports[1]), passed


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _docker(words: list[str], ready_fd: int) -> None:
    """Lend the port and become the sleeper; comes back only by an error."""
    from . import lend, sleeper

    mapping, passed = parse_docker(words)
    drain = os.environ.get("PYNET_PROXY_DRAIN", "0")
    try:
        seconds = float(drain)
    except ValueError as error:
        raise InvalidArgument(f"PYNET_PROXY_DRAIN must be a number of seconds, not {drain!r}") from error
    fd = _LISTEN_FD if passed else mapping.bind()
    run = lend.run_directory()
    name = f"{mapping.proto}/{mapping.host_ip}:{mapping.host_port}/{os.getpid()}"
    target = (mapping.target_ip, mapping.target_port)
    control = lend.lend(run, mapping.proto, name, target=target, fd=fd, drain=seconds)
    again = ["-proto", mapping.proto, "-host-ip", mapping.host_ip, "-host-port", str(mapping.host_port)]
    again += ["-container-ip", mapping.target_ip, "-container-port", str(mapping.target_port), "-use-listen-fd"]
    code = "from pynet.proxy.standalone.main import main; raise SystemExit(main())"
    sleeper.become(
        run, [sys.executable, "-I", "-c", code, *again], listener=fd, control=control, ready=b"0\n", ready_fd=ready_fd
    )


def is_docker_form(words: list[str]) -> bool:
    """Go takes one dash or two; the options of the plain form have two, and a -h of its own."""
    if not words or not words[0].startswith("-"):
        return False
    name = words[0].lstrip("-").partition("=")[0]
    return name in _DOCKER_FLAGS or not (words[0].startswith("--") or words[0] == "-h")


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    docker = is_docker_form(words)
    if not words:
        print(f"usage: {_USAGE}\n       pynet-proxy --help", file=sys.stderr)
        return 2
    # without dockerd's pipe, by hand, the next descriptor that is opened would have that number
    ready_fd = _READY_FD if docker and _is_open(_READY_FD) else -1
    try:
        if docker:
            _docker(words, ready_fd)
        else:
            from . import foreground

            foreground.serve(words)
    except (PynetError, OSError) as error:
        print(f"pynet-proxy: {error}", file=sys.stderr)
        if isinstance(error, PynetError) and error.hint:
            print(error.hint, file=sys.stderr)
        if ready_fd >= 0:
            try:
                os.write(ready_fd, f"1\n{error}".encode())
            except OSError:
                pass  # nobody listens any more
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
