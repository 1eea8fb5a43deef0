"""Names for one given namespace, by the program itself."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pynet.names import presentation
from pynet.names.resolver import Found, Resolver
from pynet.netlib.controller import Controller
from pynet.plugins.testhost import Host

from support.netlib import call_in
from support.waiting import PATIENCE


def ask(name: str, address: tuple[str, int] = ("127.0.0.11", 53)) -> list[list[str]]:
    """What a UDP and a TCP client are answered."""
    query = presentation.query(name)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.create_connection(address, timeout=PATIENCE) as tcp,
    ):
        udp.settimeout(PATIENCE)
        udp.connect(address)
        udp.send(query)
        tcp.sendall(struct.pack(">H", len(query)) + query)
        (length,) = struct.unpack(">H", tcp.recv(2, socket.MSG_WAITALL))
        return [presentation.lines(udp.recv(4096)), presentation.lines(tcp.recv(length, socket.MSG_WAITALL))]


def test_a_namespace_is_answered_from_what_the_program_says(start_controller: Callable[..., Controller]) -> None:
    controller = start_controller()
    sandbox = controller.create_sandbox("a")
    with Resolver(sandbox.path, hosts={"db": ["10.0.0.2", "fd00::2"]}, outside=False, ttl=5) as resolver:
        assert resolver.address == ("127.0.0.11", 53)
        assert call_in(controller, sandbox.path, ask, "db") == [["db. 5 IN A 10.0.0.2"]] * 2
        assert resolver.lookup("db", "AAAA") == Found("NOERROR", ("db. 5 IN AAAA fd00::2",), "hosts")
        assert resolver.lookup("else").code == "NXDOMAIN"
        resolver.set(hosts={"else": ["10.0.0.3"]})
        assert call_in(controller, sandbox.path, ask, "else") == [["else. 5 IN A 10.0.0.3"]] * 2
        assert resolver.lookup("db").code == "NXDOMAIN"
        with pytest.raises(ValueError, match="nowhere"):
            resolver.set(hosts={"db": ["nowhere"]})
        assert resolver.lookup("else").lines == ("else. 5 IN A 10.0.0.3",)
        with pytest.raises(OSError, match="in use"):
            Resolver(sandbox.path)
    resolver.close()
    Resolver(sandbox.path).close()


def test_servers_are_asked_from_inside(start_controller: Callable[..., Controller]) -> None:
    controller = start_controller()
    sandbox = controller.create_sandbox("a")
    with (
        Resolver(sandbox.path, address="127.0.0.1", hosts={"corp.example": ["10.0.0.9"]}, outside=False),
        Resolver(sandbox.path, servers=["127.0.0.1"]) as resolver,
    ):
        assert call_in(controller, sandbox.path, ask, "corp.example") == [["corp.example. 600 IN A 10.0.0.9"]] * 2
        assert resolver.lookup("corp.example").source == "cache"
        resolver.set(servers=(), outside=False)
        assert resolver.lookup("corp.example").code == "NXDOMAIN"


def test_the_own_namespace_is_one_too(host: Host, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    with (
        Resolver(address="127.0.0.1", hosts={"up.example": ["10.0.0.1"]}, outside=False),
        Resolver(resolv_conf=str(tmp_path / "resolv.conf"), port=0) as resolver,
    ):
        assert resolver.address[1] not in (0, 53)
        assert ask("up.example", resolver.address) == [["up.example. 600 IN A 10.0.0.1"]] * 2


def test_what_is_no_namespace_and_no_address_is_refused(host: Host, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Resolver(str(tmp_path / "none"))
    with pytest.raises(OSError, match="Invalid argument"):
        Resolver(str(tmp_path))
    with pytest.raises(ValueError, match="nowhere"):
        Resolver(port=0, hosts={"db": ["nowhere"]})
