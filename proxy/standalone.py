"""pynet-proxy: the forwarder by itself, for somebody at a shell or in docker-proxy's place.

    pynet-proxy tcp 127.0.0.1:8080 10.1.0.2:80 [udp :53 10.1.0.2:53 ...]
    pynet-proxy -proto tcp -host-ip 127.0.0.1 -host-port 8080 -container-ip 10.1.0.2 -container-port 80 [-use-listen-fd]

The second form is docker-proxy's, with its descriptors: 3 is told "0\\n" when the port is served or "1\\n" and why not;
with -use-listen-fd, 4 is the socket, bound already (moby, cmd/docker-proxy).  Both serve until SIGTERM or SIGINT, in
this one process and its bulk workers; without a control socket, a run directory or anything else of pynet.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from typing import NamedTuple

from ..netlib.errors import InvalidArgument, PortInUse, PynetError
from . import forwarder, ports
from .lane import Lane
from .udp import IDLE, LIMIT

_READY_FD, _LISTEN_FD = 3, 4
_USAGE = "pynet-proxy PROTO [HOST-IP]:PORT TARGET-IP:PORT [PROTO ...]"


class Mapping(NamedTuple):
    proto: str
    host_ip: str
    host_port: int
    target_ip: str
    target_port: int


def _endpoint(text: str) -> tuple[str, int]:
    """``ip:port``, ``[ip]:port``; an empty ip is every address of both families."""
    ip, colon, port = text.rpartition(":")
    if ip.startswith("[") and ip.endswith("]"):
        ip = ip[1:-1]
    elif ":" in ip:
        colon = ""
    if not colon or not (port.isascii() and port.isdigit()) or not 1 <= int(port) <= 65535:
        raise InvalidArgument(f"{text!r} is not an address and port such as 127.0.0.1:80 or [::1]:80", hint=_USAGE)
    return ip or "::", int(port)


def parse_plain(words: list[str]) -> list[Mapping]:
    if not words or len(words) % 3:
        raise InvalidArgument("mappings are three words each", hint=_USAGE)
    mappings: list[Mapping] = []
    for proto, host, target in zip(words[::3], words[1::3], words[2::3], strict=True):
        mappings.append(Mapping(proto, *_endpoint(host), *_endpoint(target)))
    return mappings


def parse_docker(words: list[str]) -> tuple[Mapping, bool]:
    """docker-proxy's flags, in Go's spellings (-flag value, -flag=value, --flag); the bool: the socket comes on 4."""
    parser = argparse.ArgumentParser(prog="pynet-proxy", usage=_USAGE, allow_abbrev=False)
    for flag, kind, default in (
        ("proto", str, "tcp"),
        ("host-ip", str, ""),
        ("host-port", int, -1),
        ("container-ip", str, ""),
        ("container-port", int, -1),
    ):
        parser.add_argument(f"-{flag}", f"--{flag}", type=kind, default=default)
    parser.add_argument("-use-listen-fd", "--use-listen-fd", action="store_true")
    found = parser.parse_args(words)
    mapping = Mapping(found.proto, found.host_ip or "::", found.host_port, found.container_ip, found.container_port)
    return mapping, bool(found.use_listen_fd)


def _bind(mapping: Mapping) -> int:
    family = socket.AF_INET6 if ":" in mapping.host_ip else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM if mapping.proto == "tcp" else socket.SOCK_DGRAM)
    try:
        if mapping.proto == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(mapping.host_ip != "::"))
        sock.bind((mapping.host_ip, mapping.host_port))
    except (OSError, OverflowError) as error:
        sock.close()
        if isinstance(error, OSError) and error.errno == 98:
            raise PortInUse(mapping.host_ip, mapping.host_port, mapping.proto) from error
        raise InvalidArgument(f"cannot bind {mapping.host_ip} port {mapping.host_port}: {error}") from error
    return sock.detach()


async def _serve(lane: Lane, mappings: list[Mapping], fds: list[int], ready_fd: int | None) -> None:
    loop = asyncio.get_running_loop()
    cpus = len(os.sched_getaffinity(0))
    options = forwarder.Options(bulk=max(1, min(4, cpus // 2)), udp_idle=IDLE, udp_clients=LIMIT)
    service = forwarder.Forwarder(loop, lane, options)
    entries = [
        {"id": str(number), "proto": mapping.proto, "target": [mapping.target_ip, mapping.target_port]}
        for number, mapping in enumerate(mappings)
    ]
    service.listen(ports.parse_listen({"ports": entries}, len(fds)), fds)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.request_stop)
    if ready_fd is not None:
        os.write(ready_fd, b"0\n")
        os.close(ready_fd)
    await service.stopped.wait()
    await service.close()


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    docker = bool(words) and words[0].startswith("-") and words[0] not in ("-h", "--help")
    if not docker and (not words or words[0].startswith("-")):
        print(f"usage: {_USAGE}")
        return 0 if words else 2
    try:
        fds: list[int] = []
        if docker:
            mapping, passed = parse_docker(words)
            mappings = [mapping]
            fds.append(os.dup(_LISTEN_FD) if passed else _bind(mapping))
        else:
            mappings = parse_plain(words)
            for mapping in mappings:
                ports.parse_target([mapping.target_ip, mapping.target_port])
                fds.append(_bind(mapping))
        lane = Lane()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(lane)) as runner:
            runner.run(_serve(lane, mappings, fds, _READY_FD if docker else None))
    except (PynetError, OSError) as error:
        print(f"pynet-proxy: {error}", file=sys.stderr)
        if isinstance(error, PynetError) and error.hint:
            print(error.hint, file=sys.stderr)
        if docker:
            try:
                os.write(_READY_FD, f"1\n{error}".encode())
            except OSError:
                pass  # started by hand, without dockerd's pipe
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
