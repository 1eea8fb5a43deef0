"""Names in containers, end to end: what real clients are answered, what changes live, and what a kill of a process costs."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynet.names import presentation
from pynet.netlib.kernel.netns import NetnsThread
from pynet.plugins.testhost import Host

from support.engine import Bed, Daemon
from support.waiting import PATIENCE

CLIENTS = ["pynet", pytest.param("docker", marks=pytest.mark.skipif(not shutil.which("docker"), reason="no docker"))]


@pytest.fixture
def daemon(bed: Bed) -> Daemon:
    return bed.daemon


@pytest.fixture
def own(host: Host) -> Iterator[Daemon]:
    """A pynetd that a test may kill: afterwards one of those that watch it has another child than before."""
    with Daemon.running() as daemon:
        daemon.bootstrap()
        yield daemon


def said(daemon: Daemon, *words: str, client: str = "pynet") -> str:
    """What a command prints; it succeeds."""
    done = daemon.docker(*words) if client == "docker" else daemon.pynet(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(daemon: Daemon, name: str, *options: str, client: str = "pynet") -> None:
    """Start a container that does nothing."""
    said(daemon, "run", "-d", "--name", name, *options, "busybox", "sleep", "1000", client=client)


def address(daemon: Daemon, name: str, network: str = "net") -> str:
    return str(daemon.get(f"/containers/{name}/json").body["NetworkSettings"]["Networks"][network]["IPAddress"])


def lookup(daemon: Daemon, name: str, *asked: str) -> list[str]:
    """What busybox's nslookup in a container prints as addresses, in order; nothing for a name that is not known."""
    done = daemon.pynet("exec", name, "nslookup", *asked)
    answer = done.stdout.partition("\n\n")[2]
    return re.findall(r"^Address(?: \d+)?: (\S+)", answer, re.MULTILINE)


def netns(daemon: Daemon, name: str) -> str:
    return str(daemon.get(f"/containers/{name}/json").body["NetworkSettings"]["SandboxKey"])


def ask(daemon: Daemon, container: str, name: str, type: str = "A") -> list[str]:
    """What a program in the container is answered by 127.0.0.11: code and records."""
    thread = NetnsThread()
    fd = os.open(netns(daemon, container), os.O_RDONLY | os.O_CLOEXEC)
    try:
        with thread.socket(fd, socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(("127.0.0.11", 53))
            sock.send(presentation.query(name, type))
            reply = sock.recv(4096)
    finally:
        os.close(fd)
        thread.close()
    return [presentation.code_name(reply), *presentation.lines(reply)]


# -- what resolves ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_containers_find_each_other_under_all_their_names(daemon: Daemon, client: str) -> None:
    said(daemon, "network", "create", "--subnet", "10.81.0.0/24", "net", client=client)
    run(daemon, "web", "--network", "net", "--network-alias", "www", "-h", "front", client=client)
    run(daemon, "box", "--network", "net", "-h", "here", "--domainname", "corp.example", client=client)
    web, own = address(daemon, "web"), address(daemon, "box")
    id = daemon.get("/containers/web/json").body["Id"][:12]
    for name in ("web", "WEB", "www", "front", id, "web.net"):
        assert lookup(daemon, "box", name) == [web], name
    for name in ("box", "here", "here.corp.example"):
        assert lookup(daemon, "box", name) == [own], name
    shown = daemon.get("/containers/web/json").body["NetworkSettings"]["Networks"]["net"]
    assert shown["DNSNames"] == ["web", "www", id, "front"]
    assert ask(daemon, "box", "web", "AAAA") == ["NOERROR"]
    assert ask(daemon, "box", f"{'.'.join(reversed(web.split('.')))}.in-addr.arpa", "PTR")[1].endswith(" PTR web.net.")
    assert ask(daemon, "box", "_8080._tcp.web", "SRV")[1].endswith(" SRV 0 0 8080 web.")


def test_the_default_bridge_has_names_too(daemon: Daemon) -> None:
    run(daemon, "web")
    run(daemon, "box")
    assert lookup(daemon, "box", "web") == [address(daemon, "web", "bridge")]


def test_several_containers_behind_one_alias_take_turns(daemon: Daemon) -> None:
    said(daemon, "network", "create", "--subnet", "10.81.0.0/24", "net")
    for number in range(3):
        run(daemon, f"web{number}", "--network", "net", "--network-alias", "web")
    run(daemon, "box", "--network", "net")
    wanted = {address(daemon, f"web{number}") for number in range(3)}
    answers = [ask(daemon, "box", "web")[1:] for _ in range(3)]
    assert {line.split()[-1] for line in answers[0]} == wanted
    assert {lines[0].split()[-1] for lines in answers} == wanted
    said(daemon, "rm", "-f", "web1")
    assert len(ask(daemon, "box", "web")) == 3


def test_what_a_user_asks_for_by_name_comes_first(daemon: Daemon) -> None:
    said(daemon, "network", "create", "--subnet", "10.81.0.0/24", "net")
    run(daemon, "db", "--network", "net")
    run(daemon, "web", "--network", "net")
    hosts = ["--add-host", "web:192.0.2.7", "--add-host", "up:host-gateway", "--add-host", "six:2001:db8::7"]
    run(daemon, "box", "--network", "net", *hosts, "--link", "db:store")
    gateway = daemon.get("/networks/bridge").body["IPAM"]["Config"][0]["Gateway"]
    assert lookup(daemon, "box", "web") == ["192.0.2.7"]
    assert lookup(daemon, "box", "up") == lookup(daemon, "box", "host.docker.internal") == [gateway]
    assert ask(daemon, "box", "six", "AAAA")[1].endswith(" AAAA 2001:db8::7")
    assert lookup(daemon, "box", "store") == [address(daemon, "db")]
    assert lookup(daemon, "web", "store") == []
    said(daemon, "stop", "-t", "0", "db")
    assert lookup(daemon, "box", "store") == []
    run(daemon, "between", "--network", "net")  # it takes the address
    said(daemon, "start", "db")
    assert lookup(daemon, "box", "store") == [address(daemon, "db")]


# -- what changes live --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_names_follow_connect_disconnect_rename_and_restart_at_once(daemon: Daemon, client: str) -> None:
    for number, network in enumerate(("net", "other")):
        said(daemon, "network", "create", "--subnet", f"10.8{number}.0.0/24", network, client=client)
    run(daemon, "box", "--network", "net", client=client)
    run(daemon, "web", "--network", "other", client=client)
    assert lookup(daemon, "box", "web") == []
    said(daemon, "network", "connect", "--alias", "www", "net", "web", client=client)
    assert lookup(daemon, "box", "web") == lookup(daemon, "box", "www") == [address(daemon, "web")]
    assert lookup(daemon, "box", "web.net") == [address(daemon, "web")]
    said(daemon, "rename", "web", "site", client=client)
    assert lookup(daemon, "box", "web") == []
    assert lookup(daemon, "box", "site") == [address(daemon, "site")]
    said(daemon, "restart", "-t", "0", "site", client=client)
    assert lookup(daemon, "box", "site") == lookup(daemon, "box", "www") == [address(daemon, "site")]
    said(daemon, "network", "disconnect", "net", "site", client=client)
    assert lookup(daemon, "box", "site") == lookup(daemon, "box", "www") == []
    said(daemon, "network", "connect", "net", "site", client=client)
    assert lookup(daemon, "box", "site") == [address(daemon, "site")]
    said(daemon, "rm", "-f", "site", client=client)
    assert lookup(daemon, "box", "site") == []
    assert daemon.get("/pynet/check").body == []


def test_whose_network_is_another_containers_or_the_hosts_has_its_names(daemon: Daemon) -> None:
    said(daemon, "network", "create", "--subnet", "10.81.0.0/24", "net")
    run(daemon, "web", "--network", "net")
    run(daemon, "beside", "--network", "container:web")
    run(daemon, "free", "--network", "host")
    run(daemon, "alone", "--network", "none")
    assert lookup(daemon, "beside", "web") == [address(daemon, "web")]
    files = {name: said(daemon, "exec", name, "cat", "/etc/resolv.conf") for name in ("beside", "free", "alone")}
    assert "nameserver 127.0.0.11\n" in files["beside"]
    assert files["free"] == Path("/etc/resolv.conf").read_text()
    assert "127.0.0.11" not in files["alone"]
    said(daemon, "network", "disconnect", "none", "alone")
    said(daemon, "network", "connect", "net", "alone")
    assert lookup(daemon, "alone", "web") == [address(daemon, "web")]


# -- files --------------------------------------------------------------------------------------------------------------


def test_resolv_conf_says_what_holds_and_stays_its_users(daemon: Daemon) -> None:
    said(daemon, "network", "create", "--subnet", "10.81.0.0/24", "net")
    run(
        daemon,
        "box",
        "--network",
        "net",
        "--dns",
        "192.0.2.53",
        "--dns-search",
        "corp.example",
        "--dns-option",
        "rotate",
    )
    text = said(daemon, "exec", "box", "cat", "/etc/resolv.conf")
    assert text.endswith(
        "\nnameserver 127.0.0.11\nsearch corp.example\noptions rotate ndots:0\n\n"
        "# Based on host file: '/etc/resolv.conf' (internal resolver)\n# ExtServers: [192.0.2.53]\n"
        "# Overrides: [nameservers search options]\n# Option ndots from: internal\n"
    )
    said(daemon, "exec", "box", "sh", "-c", "echo '# mine' >> /etc/resolv.conf")
    said(daemon, "network", "create", "--subnet", "10.82.0.0/24", "other")
    said(daemon, "network", "connect", "other", "box")
    assert said(daemon, "exec", "box", "cat", "/etc/resolv.conf") == f"{text}# mine\n"
    run(daemon, "plain", "--network", "net")
    servers = re.findall(r"^nameserver (\S+)", Path("/etc/resolv.conf").read_text(), re.MULTILINE)
    listed = " ".join(f"host({server})" for server in servers)
    assert f"# ExtServers: [{listed}]\n# Overrides: []\n" in said(daemon, "exec", "plain", "cat", "/etc/resolv.conf")


def test_what_an_older_pynet_has_started_keeps_its_files_until_it_starts_again(daemon: Daemon) -> None:
    said(daemon, "network", "create", "--subnet", "10.81.0.0/24", "net")
    run(daemon, "box", "--network", "net")
    directory = daemon.root / "containers" / daemon.get("/containers/box/json").body["Id"]
    (directory / "resolv.conf.written").unlink()
    with open(directory / "hosts", "a", encoding="ascii") as hosts:
        hosts.write("10.81.0.9\tpeer\n")
    (directory / "hosts.written").write_text((directory / "hosts").read_text())
    before = [(directory / name).read_text() for name in ("hosts", "resolv.conf")]
    said(daemon, "network", "create", "--subnet", "10.82.0.0/24", "other")
    said(daemon, "network", "connect", "other", "box")
    assert [(directory / name).read_text() for name in ("hosts", "resolv.conf")] == before
    said(daemon, "restart", "-t", "0", "box")
    assert "peer" not in (directory / "hosts").read_text()
    assert lookup(daemon, "box", "box")


# -- kills --------------------------------------------------------------------------------------------------------------


def test_a_query_that_comes_while_the_name_server_is_dead_is_answered(own: Daemon) -> None:
    said(own, "network", "create", "--subnet", "10.81.0.0/24", "net")
    run(own, "web", "--network", "net")
    run(own, "box", "--network", "net")
    old = own.kill("names")
    assert ask(own, "box", "web") == ["NOERROR", f"web. 600 IN A {address(own, 'web')}"]
    assert own.pid("names") not in (0, old)
    own.eventually(lambda: own.get("/pynet/check").body == [])


def test_nobody_notices_that_pynetd_is_killed(own: Daemon) -> None:
    said(own, "network", "create", "--subnet", "10.81.0.0/24", "net")
    run(own, "web", "--network", "net")
    run(own, "box", "--network", "net")
    wanted = ["NOERROR", f"web. 600 IN A {address(own, 'web')}"]
    fd = os.open(netns(own, "box"), os.O_RDONLY | os.O_CLOEXEC)
    server, old = own.pid("names"), own.kill()
    thread = NetnsThread()
    try:
        with thread.socket(fd, socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(("127.0.0.11", 53))
            sock.send(presentation.query("web", "A"))
            assert presentation.lines(sock.recv(512)) == wanted[1:]
    finally:
        os.close(fd)
        thread.close()
    own.wait_back(old)
    assert ask(own, "box", "web") == wanted
    assert own.pid("names") == server
    said(own, "rename", "web", "site")
    assert ask(own, "box", "site")[0] == "NOERROR"
    assert own.get("/pynet/check").body == []


def test_when_both_are_killed_at_once_all_is_made_anew(own: Daemon) -> None:
    said(own, "network", "create", "--subnet", "10.81.0.0/24", "net")
    run(own, "web", "--network", "net")
    run(own, "box", "--network", "net")
    old = own.pid()
    pidfds = [os.pidfd_open(pid) for pid in (old, own.pid("names"))]
    for pidfd in pidfds:
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)  # neither sees the other go
    for pidfd in pidfds:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
    if own.process is not None and own.process.pid == old:
        own.process.wait()
        own.process = None
    own.wait_back(old)
    assert ask(own, "box", "web") == ["NOERROR", f"web. 600 IN A {address(own, 'web')}"]
    assert own.get("/pynet/check").body == []


# -- looking in ---------------------------------------------------------------------------------------------------------


def test_what_a_container_is_answered_can_be_asked_from_outside(daemon: Daemon) -> None:
    said(daemon, "network", "create", "--subnet", "10.81.0.0/24", "net")
    run(daemon, "web", "--network", "net")
    run(daemon, "box", "--network", "net", "--add-host", "up.corp:192.0.2.7", "--dns-search", "corp")
    run(daemon, "apart")
    run(daemon, "free", "--network", "host")
    asked = ("dns", "query", "--format", "{{.Container}} {{.Question}} {{.Answer}} {{.Source}}")
    web = address(daemon, "web")
    assert said(daemon, *asked, "web", "--from", "box") == f"box web A {web} network net\n"
    assert said(daemon, *asked, "web", "--tcp", "--from", "box") == f"box web A {web} network net\n"
    assert said(daemon, *asked, "up", "--from", "box") == "box up.corp A 192.0.2.7 hosts\n"
    assert said(daemon, *asked, "_80._tcp.web", "-t", "SRV", "--from", "box") == (
        "box _80._tcp.web SRV 0 0 80 web. network net\n"
    )
    everybody = daemon.pynet(*asked, "web").stdout.splitlines()
    assert [line.split()[0] for line in everybody] == ["apart", "box", "web"]
    assert everybody[1] == f"box web A {web} network net"
    table = said(daemon, "dns", "query", "web", "--from", "box").splitlines()
    assert re.fullmatch(rf"box +web +A {web} +network net +[0-9.]+ ms", table[1])
    none = daemon.pynet("dns", "query", "web", "-t", "AAAA", "--from", "box")
    assert (none.returncode, none.stdout.split()[-8:-4]) == (1, ["none", "of", "this", "type"])
    assert "names are not served in container free" in daemon.pynet("dns", "query", "web", "--from", "free").stderr
    assert "cannot ask for" in daemon.pynet("dns", "query", "web", "-t", "NONSENSE", "--from", "box").stderr


def test_what_a_container_may_resolve_is_listed(daemon: Daemon) -> None:
    said(daemon, "network", "create", "--subnet", "10.81.0.0/24", "net")
    run(daemon, "web", "--network", "net", "--network-alias", "www")
    run(daemon, "box", "--network", "net", "--add-host", "up:192.0.2.7")
    run(daemon, "apart")
    shown = said(
        daemon, "dns", "ls", "--from", "box", "--format", "{{.Name}} {{.Addresses}} {{.Source}} {{.Container}}"
    )
    rows = shown.splitlines()
    assert "up 192.0.2.7 hosts " in rows
    for name in ("web", "www"):
        assert f"{name} {address(daemon, 'web')} network net web" in rows
    assert not any(row.startswith("apart ") for row in rows)
    assert f"apart {address(daemon, 'apart', 'bridge')} network bridge apart" in said(
        daemon, "dns", "ls", "--format", "{{.Name}} {{.Addresses}} {{.Source}} {{.Container}}"
    )


def test_what_a_container_asks_for_can_be_followed(daemon: Daemon) -> None:
    said(daemon, "network", "create", "--subnet", "10.81.0.0/24", "net")
    run(daemon, "web", "--network", "net")
    run(daemon, "box", "--network", "net")
    process = daemon.start_pynet("dns", "log", "box")
    assert process.stdout is not None and process.stderr is not None
    try:
        while not select.select([process.stdout], [], [], 0)[0]:  # until the log is open, nothing of it can be seen
            assert ask(daemon, "box", "web")[0] == "NOERROR"
        line = process.stdout.readline().decode()
        assert re.fullmatch(r"[0-9:.]{12} A web\. NOERROR network net [0-9.]+ ms\n", line)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_the_metrics_page_has_the_name_servers_counters(host: Host) -> None:
    with Daemon.running("--metrics-addr", "127.0.0.1:9323") as daemon:

        def page() -> str:
            with urllib.request.urlopen("http://127.0.0.1:9323/metrics", timeout=PATIENCE) as answer:
                return str(answer.read().decode())

        assert "pynet_names_" not in page() and "pynet_proxy_processes 1\n" in page()
        daemon.bootstrap()
        run(daemon, "web")
        for _ in range(2):
            assert ask(daemon, "web", "web")[0] == "NOERROR"
        assert 'pynet_names_questions_total{answer="local"} 1\n' in page()
        assert "pynet_names_sandboxes 1\n" in page()
        said(daemon, "rm", "-f", "web")
        assert 'pynet_names_transport_total{proto="udp"} 2\n' in page()  # a counter never goes back


def test_the_command_lines_of_the_page_do_what_it_says(daemon: Daemon) -> None:
    page = (Path(__file__).parents[2] / "docs/dns.md").read_text()
    lines = re.findall(r"^    (pynet .*)$", page, re.MULTILINE)
    assert len(lines) >= 9
    fails = ("pynet dns query example.org",)  # nobody outside answers here
    for line in lines:
        words = shlex.split(line)[1:]
        if words[:2] == ["dns", "log"]:
            continue  # it goes on for ever; above it is followed
        done = daemon.pynet(*words)
        assert done.returncode == line.startswith(fails), f"{line}: {done.stdout}{done.stderr}"
    for name in ("www", "web.net", "host.docker.internal"):
        assert lookup(daemon, "box", name), name


# -- other clients ------------------------------------------------------------------------------------------------------


RESOLVE = r"""
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
int main(int count, char **names) {
    for (int i = 1; i < count; i++) {
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = 0;
        int error = getaddrinfo(names[i], 0, &hints, &found);
        printf("%s", names[i]);
        if (error) printf(" error %d", error == EAI_NONAME ? 1 : error);
        for (; found; found = found->ai_next) {
            char text[64];
            void *address = found->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)found->ai_addr)->sin_addr
                                                        : (void *)&((struct sockaddr_in6 *)found->ai_addr)->sin6_addr;
            printf(" %s", inet_ntop(found->ai_family, address, text, sizeof text));
        }
        printf("\n");
    }
}
"""
"""getaddrinfo(3) of the C library that it is compiled with: musl asks for both families at once, and wants both answers."""


@pytest.mark.parametrize("compiler", ["musl-gcc", "gcc"])
def test_c_libraries_find_names(daemon: Daemon, compiler: str) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    said(daemon, "network", "create", "--ipv6", "--subnet", "10.81.0.0/24", "--subnet", "fd81::/64", "net")
    said(daemon, "network", "create", "--subnet", "10.82.0.0/24", "--internal", "four")
    run(daemon, "web", "--network", "net", "--network-alias", "www")
    run(daemon, "db", "--network", "four")
    directory = daemon.root.parent / compiler
    directory.mkdir()
    (directory / "resolve.c").write_text(RESOLVE)
    command = [compiler, "-static", "-w", "-o", str(directory / "resolve"), str(directory / "resolve.c")]
    if subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False).returncode:
        pytest.skip(f"{compiler} has no static library")
    six = daemon.get("/containers/web/json").body["NetworkSettings"]["Networks"]["net"]["GlobalIPv6Address"]
    said(daemon, "create", "--name", "box", "--network", "net", "-v", f"{directory}:/t", "busybox", "sleep", "1000")
    said(daemon, "network", "connect", "four", "box")
    said(daemon, "start", "box")
    for name in ("web", "WEB", "www", "web.net"):
        line = said(daemon, "exec", "box", "/t/resolve", name).split()
        assert (line[0], set(line[1:])) == (name, {address(daemon, "web"), six})
    assert said(daemon, "exec", "box", "/t/resolve", "db") == f"db {address(daemon, 'db', 'four')}\n"
    said(
        daemon, "network", "disconnect", "net", "box"
    )  # internal networks alone: who is unknown is known to be so, at once
    assert said(daemon, "exec", "box", "/t/resolve", "web", "web.example") == "web error 1\nweb.example error 1\n"


@pytest.mark.parametrize("tool", ["dig", "drill"])
def test_the_tools_of_administrators_get_answers(daemon: Daemon, tool: str) -> None:
    if not shutil.which(tool):
        pytest.skip(f"no {tool}")
    said(daemon, "network", "create", "--subnet", "10.81.0.0/24", "net")
    run(daemon, "web", "--network", "net")
    options = {"dig": ["+noall", "+answer", "+tries=1"], "drill": ["-Q"]}[tool]
    for more in ([], {"dig": ["+tcp"], "drill": ["-t"]}[tool]):
        done = subprocess.run(
            ["nsenter", f"--net={netns(daemon, 'web')}", tool, *options, *more, "@127.0.0.11", "web", "A"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        assert address(daemon, "web") in done.stdout.split(), done.stdout
