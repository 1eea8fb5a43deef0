"""Real servers behind the forwarder read who the client is from its PROXY protocol header."""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from pynet.proxy.api import Forwarder

HOST = "127.0.0.1"


def _free() -> int:
    with socket.create_server((HOST, 0)) as sock:
        return int(sock.getsockname()[1])


def _nginx(directory: Path, port: int) -> list[str]:
    said = "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port"
    temporary = "".join(
        f"{name}_temp_path {directory}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(f"""
user root root; daemon off; master_process off; pid {directory}/pid; error_log stderr;
events {{ }}
http {{
    access_log off; {temporary}
    server {{
        listen {HOST}:{port} proxy_protocol; listen [::1]:{port} proxy_protocol;
        location / {{ return 200 "{said}"; }}
    }}
}}
""")
    return ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")]


def _haproxy(directory: Path, port: int) -> list[str]:
    (directory / "haproxy.cfg").write_text(f"""
defaults
    mode http
    timeout client 20s
frontend f
    bind {HOST}:{port} accept-proxy
    bind [::1]:{port} accept-proxy
    http-request return status 200 content-type text/plain lf-string "%[src] %[src_port] %[dst] %[dst_port]"
""")
    return ["haproxy", "-db", "-f", str(directory / "haproxy.cfg")]


@pytest.fixture(scope="module", params=["nginx", "haproxy"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port, on 127.0.0.1 and ::1, of a server that says who it was told the client is."""
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    command: Callable[[Path, int], list[str]] = _nginx if name == "nginx" else _haproxy
    directory, port = tmp_path_factory.mktemp(name), _free()
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command(directory, port), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection((HOST, port)).close()
            break
        except ConnectionRefusedError:
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < end
            process.poll()
    yield port
    process.terminate()
    process.wait(20)


@pytest.fixture
async def forwarder() -> AsyncIterator[Forwarder]:
    async with Forwarder() as forwarder:
        yield forwarder


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "way",
    [
        (HOST, HOST, HOST),
        ("::1", "::1", "::1"),
        ("::1", "::1", HOST),  # the header says TCP6 to an IPv4 back end
        (HOST, HOST, "::1"),
        ("::", HOST, HOST),  # IPv4 in IPv6's clothes
        ("::", "::1", HOST),
    ],
)
async def test_the_server_is_told_who_the_client_is(
    server: int, forwarder: Forwarder, version: int, way: tuple[str, str, str]
) -> None:
    listen, client, target = way
    port = await forwarder.forward_tcp((listen, 0), (target, server), proxy_protocol=version)
    connection = http.client.HTTPConnection(client, port.address[1], timeout=20)
    connection.connect()
    here = connection.sock.getsockname()
    for _ in range(2):  # the header comes once in a connection
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.read().decode().split() == [here[0], str(here[1]), client, str(port.address[1])]
    connection.close()


async def test_without_the_header_these_servers_do_not_answer(server: int, forwarder: Forwarder) -> None:
    """So what the others see is the header's doing."""
    port = await forwarder.forward_tcp((HOST, 0), (HOST, server))
    connection = http.client.HTTPConnection(HOST, port.address[1], timeout=20)
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        connection.request("GET", "/")
        connection.getresponse()
    connection.close()


async def test_the_header_of_a_client_that_says_nothing_and_leaves(forwarder: Forwarder) -> None:
    """It comes before anything else, also before the client's FIN."""
    with socket.create_server((HOST, 0)) as sock:
        sock.settimeout(20)
        port = await forwarder.forward_tcp((HOST, 0), sock.getsockname(), proxy_protocol=1)
        with socket.create_connection(port.address) as client:
            client.shutdown(socket.SHUT_WR)
            with sock.accept()[0] as peer:
                got = b""
                while data := peer.recv(100):
                    got += data
                expected = f"PROXY TCP4 {HOST} {HOST} {client.getsockname()[1]} {port.address[1]}\r\n"
                assert got == expected.encode()
