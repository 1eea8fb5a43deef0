"""pynet-proxy at a shell and in docker-proxy's place: many processes, one forwarder."""

from __future__ import annotations

import contextlib
import os
import platform
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from pynet.netlib import ipc
from pynet.netlib.errors import Forbidden, InvalidArgument
from pynet.proxy.mapping import Mapping, parse_docker, parse_plain
from pynet.proxy.process.client import ForwarderClient
from pynet.proxy.standalone import lend
from pynet.proxy.standalone.main import main

from support.proxy import echoing, receive

HOST = "127.0.0.1"
COMMAND = [sys.executable, "-I", "-m", "pynet.proxy.standalone.main"]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[ForwarderClient]:
    """Of the forwarder that this test's processes share.  A short path: those of Unix sockets are."""
    top = tempfile.mkdtemp()
    monkeypatch.setenv("PYNET_PROXY_RUN", top)
    client = ForwarderClient(f"{top}/{os.stat('/proc/self/ns/net').st_ino}/forwarder.sock")
    yield client
    client.shutdown()
    shutil.rmtree(top)


def _free() -> int:
    with socket.create_server((HOST, 0)) as sock:
        return int(sock.getsockname()[1])


def _wire(write: int, listener: int | None, words: list[str]) -> list[str]:
    """A program that puts descriptors where dockerd does, 3 and 4, and becomes the command."""
    moves = f"os.dup2({write}, 103); " + ("" if listener is None else f"os.dup2({listener}, 4); ") + "os.dup2(103, 3); "
    code = f"import os, sys; {moves}os.close(103); os.closerange(5, 100); os.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-I", "-S", "-c", code, *COMMAND, *words]


def _wait_for_end(pidfd: int) -> None:
    assert select.select([pidfd], [], [], 20)[0]


def _words(port: int, target: int, host: str = HOST) -> list[str]:
    words = ["-proto", "tcp", "-host-ip", host, "-host-port", str(port)]
    return [*words, "-container-ip", HOST, "-container-port", str(target)]


@contextlib.contextmanager
def _docker_form(words: list[str], listener: socket.socket | None = None) -> Generator[tuple[bytes, int]]:
    """What it says on descriptor 3, and its pid."""
    read, write = os.pipe()
    fds = (write,) if listener is None else (write, listener.fileno())
    fd = None if listener is None else listener.fileno()
    process = subprocess.Popen(_wire(write, fd, words), pass_fds=fds, stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read, "rb") as ready:
        said = ready.read()
    try:
        yield said, process.pid
    finally:
        process.send_signal(signal.SIGINT)  # as dockerd
        process.wait(10)


def _talk(port: int, target: socket.socket, host: str = HOST) -> None:
    with socket.create_connection((host, port), timeout=20) as client, target.accept()[0] as peer:
        client.sendall(b"x")
        assert peer.recv(1) == b"x"


def test_it_takes_the_place_of_docker_proxy(client: ForwarderClient) -> None:
    port = _free()
    with socket.create_server((HOST, 0)) as target:
        target.settimeout(20)
        words = _words(port, target.getsockname()[1])
        with _docker_form(words) as (said, _):
            assert said == b"0\n"
            _talk(port, target)
            with _docker_form(words) as (said, _):
                assert said.startswith(b"1\nfailed to bind host port")
            _talk(port, target)


def test_it_takes_the_socket_that_dockerd_has_bound(client: ForwarderClient) -> None:
    with socket.create_server((HOST, 0)) as target, socket.socket() as listener:
        target.settimeout(20)
        listener.bind((HOST, 0))
        port = listener.getsockname()[1]
        words = ["-proto=tcp", f"-host-ip={HOST}", f"-host-port={port}", f"-container-ip={HOST}"]
        words += [f"-container-port={target.getsockname()[1]}", "-use-listen-fd"]
        with _docker_form(words, listener) as (said, _):
            assert said == b"0\n"
            _talk(port, target)


def test_all_share_one_forwarder_and_are_next_to_nothing(client: ForwarderClient) -> None:
    with socket.create_server((HOST, 0)) as target, contextlib.ExitStack() as stack:
        target.settimeout(20)
        ports = [_free() for _ in range(4)]
        pids: list[int] = []
        for port in ports:
            said, pid = stack.enter_context(_docker_form(_words(port, target.getsockname()[1])))
            assert said == b"0\n"
            pids.append(pid)
        stats = client.stats()
        assert len(stats["ports"]) == 4 and stats["pid"] not in pids
        for port in ports:
            _talk(port, target)
        for pid in pids:
            with open(f"/proc/{pid}/smaps_rollup") as rollup:
                size = next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
            assert size < (32 if platform.machine() == "x86_64" else 512)


def test_both_wildcards_are_two_proxies(client: ForwarderClient) -> None:
    """dockerd publishes on 0.0.0.0 and on ::, which must not be in each other's way."""
    port = _free()
    with socket.create_server((HOST, 0)) as target:
        target.settimeout(20)
        number = target.getsockname()[1]
        with (
            _docker_form(_words(port, number, "0.0.0.0")) as (one, _),
            _docker_form(_words(port, number, "::")) as (two, _),
        ):
            assert (one, two) == (b"0\n", b"0\n")
            _talk(port, target)
            _talk(port, target, "::1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_port_ends_with_its_process(client: ForwarderClient, number: signal.Signals) -> None:
    port = _free()
    with socket.create_server((HOST, 0)) as target, _docker_form(_words(port, target.getsockname()[1])) as (said, pid):
        assert said == b"0\n"
        pidfd = os.pidfd_open(pid)
        os.kill(pid, number)
        _wait_for_end(pidfd)
        os.close(pidfd)
        if number != signal.SIGKILL and platform.machine() == "x86_64":
            # whoever has seen the process end may take the port at once
            with socket.create_server((HOST, port)):
                assert client.stats()["ports"] == {}
        else:
            for _ in range(1000):
                if client.stats()["ports"] == {}:
                    break
            with socket.create_server((HOST, port)):
                pass


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the sleeping program of this machine does not return")
def test_a_run_directory_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns it could answer in the forwarder's place."""
    monkeypatch.setenv("PYNET_PROXY_RUN", str(tmp_path))
    run = Path(lend.run_directory())
    assert run.parent == tmp_path and run.stat().st_mode & 0o777 == 0o700
    try:
        os.chown(run, 1, 1)
    except OSError:
        pytest.skip("needs root with more than one uid")
    with pytest.raises(Forbidden, match="belongs to user 1"):
        lend.run_directory()


def test_what_a_lender_has_begun_ends_with_its_connection(client: ForwarderClient) -> None:
    with (
        socket.create_server((HOST, 0)) as target,
        _docker_form(_words(_free(), target.getsockname()[1])) as (said, _),
        socket.create_server((HOST, 0)) as sock,
    ):
        assert said == b"0\n"
        before = len(os.listdir(f"/proc/{client.ping()}/fd"))
        channel = ipc.connect(client.path, 20)
        entry = {"id": "x", "proto": "tcp", "target": [HOST, 9]}
        channel.send({"op": "listen", "batch": 1, "more": True, "ports": [entry]}, [sock.fileno()])
        assert channel.receive() == ({"ok": True}, [])
        channel.close()
        end = time.monotonic() + 20
        while len(os.listdir(f"/proc/{client.ping()}/fd")) > before:
            assert time.monotonic() < end


def test_all_ports_of_dockerds_processes_are_on_one_page(
    client: ForwarderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after the forwarder was lost; who asks for a page where there can be none is served without."""
    metrics, ports = _free(), [_free(), _free()]
    monkeypatch.setenv("PYNET_PROXY_METRICS", f":{metrics}")  # every address, of both families

    def told(host: str = HOST) -> bytes:
        with urllib.request.urlopen(f"http://{host}:{metrics}/metrics", timeout=20) as answer:
            return bytes(answer.read())

    with socket.create_server((HOST, 0)) as target:
        target.settimeout(20)
        number = target.getsockname()[1]
        with (
            _docker_form(_words(ports[0], number)) as (first, _),
            _docker_form(_words(ports[1], number)) as (second, _),
        ):
            assert first == second == b"0\n"
            _talk(ports[1], target)
            for page in (told(), told("[::1]")):
                for port in ports:
                    assert b'connections_total{port="tcp/%s:%d/' % (HOST.encode(), port) in page
            pidfd = os.pidfd_open(client.ping())
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            _wait_for_end(pidfd)
            os.close(pidfd)
            for port in ports:
                _talk(port, target)
            assert b'connections_total{port="tcp/' in told()
        client.shutdown()
        with socket.create_server((HOST, 0)) as taken:
            monkeypatch.setenv("PYNET_PROXY_METRICS", f"{HOST}:{taken.getsockname()[1]}")
            with _docker_form(_words(ports[0], number)) as (said, _):
                assert said == b"0\n"
                _talk(ports[0], target)
                log = Path(client.path).with_name("forwarder.log").read_text()
                assert "PYNET_PROXY_METRICS: failed to bind host port" in log


def test_the_loss_of_the_forwarder_loses_no_port(client: ForwarderClient) -> None:
    with socket.create_server((HOST, 0)) as target, contextlib.ExitStack() as stack:
        target.settimeout(20)
        ports = [_free() for _ in range(3)]
        for port in ports:
            said, _ = stack.enter_context(_docker_form(_words(port, target.getsockname()[1])))
            assert said == b"0\n"
        first = client.ping()
        pidfd = os.pidfd_open(first)
        os.kill(first, signal.SIGKILL)
        _wait_for_end(pidfd)
        os.close(pidfd)
        for port in ports:
            _talk(port, target)  # who connects meanwhile waits in the queue of the socket
        assert client.ping() != first
        assert len(client.stats()["ports"]) == 3


def test_the_forwarder_ends_when_the_last_port_has_gone(client: ForwarderClient) -> None:
    run = os.path.dirname(client.path)
    os.makedirs(run)
    forwarder = subprocess.Popen(
        [sys.executable, "-I", "-m", "pynet.proxy.standalone.shared", "--run", run, "--linger", "0.5"],
        stdout=subprocess.PIPE,
    )
    assert forwarder.stdout is not None
    with forwarder.stdout, socket.create_server((HOST, 0)) as target:
        assert forwarder.stdout.readline() == b"0\n"
        target.settimeout(20)
        port = _free()
        with _docker_form(_words(port, target.getsockname()[1])) as (said, _):
            assert said == b"0\n" and client.ping() == forwarder.pid
            client.close()
            _talk(port, target)
        assert forwarder.wait(20) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-proto", "icmp", "-host-port", "1", "-container-port", "1"], b"icmp"),
        (["-proto", "tcp", "-host-port", "x", "-container-port", "1"], b"port"),
        (["-proto", "tcp", "-host-ip", HOST, "-no-such-flag"], b"no-such-flag"),
        (["-host-ip", HOST, "-host-port", "0", "-container-ip", HOST, "-container-port", "80"], b"port"),
        (["-host-ip", "192.0.2.1", "-host-port", "9", "-container-ip", HOST, "-container-port", "80"], b"bind"),
    ],
)
def test_what_is_wrong_is_said_to_dockerd(client: ForwarderClient, words: list[str], said: bytes) -> None:
    with _docker_form(words) as (answer, _):
        assert answer.startswith(b"1\n") and said in answer


def test_a_target_that_is_no_address_is_said_to_dockerd(client: ForwarderClient) -> None:
    words = ["-host-ip", HOST, "-host-port", str(_free()), "-container-port", "80", "-container-ip"]
    for target in ("example", 'x"y'):
        with _docker_form([*words, target]) as (answer, _):
            assert answer.startswith(b"1\n") and b"address" in answer


def test_the_plain_form_is_three_words_a_port() -> None:
    assert parse_plain(["tcp", ":8080", "10.1.0.2:80", "udp", "[::1]:53", "[fd00::2]:53"]) == [
        Mapping("tcp", "", 8080, "10.1.0.2", 80),
        Mapping("udp", "::1", 53, "fd00::2", 53),
    ]
    assert parse_docker(["-proto", "udp", "-host-port=1", "--container-port", "2", "-container-ip", "10.0.0.2"]) == (
        Mapping("udp", "", 1, "10.0.0.2", 2),
        False,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["tcp", "127.0.0.1:80"],
        ["tcp", "80", "10.0.0.2:80"],
        ["tcp", "::1:80", "10.0.0.2:80"],
        ["tcp", "x:0", "y:1"],
        ["x", ":1", "y:1"],
    ],
)
def test_a_bad_plain_form_says_how_it_goes(words: list[str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_plain(words)
    assert caught.value.hint


@pytest.mark.parametrize("words", [["tcp", "127.0.0.1:1", "example:80"], ["tcp", "192.0.2.1:80", "10.0.0.2:80"]])
def test_what_can_not_be_served_is_one_line(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    assert capfd.readouterr().err.startswith("pynet-proxy: ")


@contextlib.contextmanager
def _plain(*words: str) -> Generator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([*COMMAND, *words])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _connect(process: subprocess.Popen[bytes], port: int) -> socket.socket:
    """As soon as it serves."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        assert process.poll() is None
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection((HOST, port), 20)
    raise AssertionError("it does not serve")


def _wait_closed(port: int) -> None:
    """Until nobody listens there; a connection would be one more that is live."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        fields = (line.split() for line in lines)
        if not any(local.endswith(f":{port:04X}") and state == "0A" for _, local, _, state, *_ in fields):
            return
    raise AssertionError("it listens on")


def test_the_plain_form_tells_targets_who_the_client_is() -> None:
    with socket.create_server((HOST, 0)) as target:
        target.settimeout(20)
        port, number = _free(), target.getsockname()[1]
        words = ("tcp", f"{HOST}:{port}", f"{HOST}:{number}", "--proxy-protocol", "1", "--workers=2")
        with _plain(*words) as process, _connect(process, port) as client, target.accept()[0] as peer:
            client.sendall(b"hello")
            want = f"PROXY TCP4 {HOST} {HOST} {client.getsockname()[1]} {port}\r\nhello".encode()
            assert peer.recv(len(want), socket.MSG_WAITALL) == want


def test_the_plain_form_ends_with_its_live_connections_when_it_is_to_drain() -> None:
    with socket.create_server((HOST, 0)) as target:
        target.settimeout(20)
        port, number = _free(), target.getsockname()[1]
        words = ("--drain", "60", "tcp", f"{HOST}:{port}", f"{HOST}:{number}")
        with _plain(*words) as process, _connect(process, port) as client, target.accept()[0] as peer:
            process.terminate()
            _wait_closed(port)
            client.sendall(b"live")
            assert peer.recv(4, socket.MSG_WAITALL) == b"live"
            assert process.poll() is None
            client.close()
            peer.close()
            assert process.wait(20) == 0
        with _plain(*words) as process, _connect(process, port), target.accept()[0]:
            process.terminate()
            _wait_closed(port)
            process.terminate()
            assert process.wait(20) == 0


@pytest.mark.parametrize("bulk", [False, True])
def test_a_drain_waits_for_connections_in_every_process(bulk: bool) -> None:
    """Of two workers' and, when they have moved a lot, of the bulk workers'; a second signal ends all of them."""
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(echoing())
        port = _free()
        words = ("--drain", "60", "--workers", "2", "tcp", f"{HOST}:{port}", f"{HOST}:{address[1]}")
        process = stack.enter_context(_plain(*words))
        _connect(process, port).close()
        clients = [stack.enter_context(socket.create_connection((HOST, port), 20)) for _ in range(30)]
        for client in clients:
            _echo(client, 6 << 20 if bulk else 1)
        process.terminate()
        _wait_closed(port)
        for client in clients:
            _echo(client, 1)
        assert process.poll() is None
        for client in clients[1:]:
            client.close()
        _echo(clients[0], 1)
        process.terminate()
        assert process.wait(20) == 0
        with contextlib.suppress(ConnectionResetError):
            assert clients[0].recv(1) == b"", "nobody is left that serves it"


def _echo(client: socket.socket, count: int) -> None:
    """*count* bytes there and back, a piece at a time."""
    while count:
        piece = bytes(min(count, 1 << 16))
        client.sendall(piece)
        assert receive(client, len(piece)) == piece
        count -= len(piece)


def test_the_plain_form_answers_prometheus() -> None:
    port, metrics = _free(), _free()
    with _plain("--metrics", f"{HOST}:{metrics}", "tcp", f"{HOST}:{port}", f"{HOST}:9") as process:
        _connect(process, metrics).close()
        with urllib.request.urlopen(f"http://{HOST}:{metrics}/metrics", timeout=20) as answer:
            assert f'pynet_proxy_connections_total{{port="tcp/{HOST}/{port}"'.encode() in answer.read()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--proxy-protocol", "3", "tcp", ":1", "127.0.0.1:2"], "invalid choice: 3"),
        (["--bogus", "tcp", ":1", "127.0.0.1:2"], "unrecognized arguments: --bogus"),
        (["--drain", "-1", "tcp", ":1", "127.0.0.1:2"], "drain"),
        (["--workers", "2"], "three words each"),
        (["--udp-clients", "0", "udp", ":1", "127.0.0.1:2"], "--udp-clients"),
        (["--udp-idle", "nan", "udp", ":1", "127.0.0.1:2"], "--udp-idle"),
        (["--metrics", "localhost:9", "tcp", ":1", "127.0.0.1:2"], "'localhost' is not an address"),
        (["--metrics", "9", "tcp", "127.0.0.1:0", "127.0.0.1:2"], "no port from 1 to 65535"),
    ],
)
def test_a_bad_option_is_one_line_and_a_hint(words: list[str], says: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    first, hint = capfd.readouterr().err.splitlines()
    assert first.startswith("pynet-proxy: ") and says in first
    assert hint.startswith("pynet-proxy ")


def test_its_help_tells_of_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    page = capsys.readouterr().out
    assert "PROTO [HOST-IP]:PORT TARGET-IP:PORT" in page and "--proxy-protocol" in page and "docker-proxy" in page


def test_the_plain_form_serves_in_the_foreground_until_it_is_ended() -> None:
    with socket.create_server((HOST, 0)) as target:
        target.settimeout(20)
        one, two = _free(), _free()
        number = target.getsockname()[1]
        words = ["tcp", f"{HOST}:{one}", f"{HOST}:{number}", "tcp", f":{two}", f"{HOST}:{number}"]
        process = subprocess.Popen([*COMMAND, *words])
        try:
            _connect(process, two).close()
            target.accept()[0].close()
            _talk(one, target)
            _talk(two, target, "::1")
        finally:
            process.terminate()
            assert process.wait(20) == 0
