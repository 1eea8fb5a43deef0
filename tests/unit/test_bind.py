"""The one place where a port's socket is bound."""

from __future__ import annotations

import os
import resource
import socket

import pytest

from pynet.netlib.errors import BindFailed, InvalidArgument, PortInUse, Unavailable
from pynet.netlib.ports.bind import bind


def test_a_stream_socket_listens_at_once_and_the_second_one_is_told_who_holds_it() -> None:
    with socket.socket(fileno=bind("tcp", "127.0.0.1", 0)) as first:
        ip, port = first.getsockname()
        assert first.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert not os.get_inheritable(first.fileno())
        with pytest.raises(PortInUse) as caught:
            bind("tcp", ip, port)
        assert (caught.value.host_ip, caught.value.port, caught.value.proto) == (ip, port, "tcp")
        with socket.socket(fileno=bind("udp", ip, port)) as other:
            assert other.type == socket.SOCK_DGRAM


@pytest.mark.parametrize("both", [False, True])
def test_an_ipv6_wildcard_takes_ipv4_only_when_it_is_told_to(both: bool) -> None:
    with socket.socket(fileno=bind("tcp", "::", 0, both=both)) as sock:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == (not both)


def test_no_address_is_every_address() -> None:
    with socket.socket(fileno=bind("tcp", "", 0, both=True)) as sock:
        port = sock.getsockname()[1]
        for ip in ("127.0.0.1", "::1"):
            socket.create_connection((ip, port), timeout=20).close()


@pytest.mark.parametrize("ip", ["localhost", "127.0.0.256", "127.1", "1::2::3", "127.0.0.1\0"])
def test_names_are_not_looked_up(ip: str) -> None:
    with pytest.raises(InvalidArgument, match="not an address"):
        bind("tcp", ip, 0)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_has_sixteen_bits(port: int) -> None:
    with pytest.raises(InvalidArgument, match="not a port"):
        bind("tcp", "127.0.0.1", port)


def test_an_address_of_somebody_else_is_said_in_dockers_words() -> None:
    wanted = r"^failed to bind host port 192\.0\.2\.77:80/udp: cannot assign requested address$"
    with pytest.raises(BindFailed, match=wanted) as caught:
        bind("udp", "192.0.2.77", 80)
    assert caught.value.hint
    with pytest.raises(BindFailed, match=r"\[2001:db8::7\]:80/tcp"):
        bind("tcp", "2001:db8::7", 80)


def test_without_a_descriptor_it_is_not_the_callers_fault() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(Unavailable):
            bind("tcp", "127.0.0.1", 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
