"""Real servers as upstreams, in a namespace of their own: dnsmasq, unbound and nsd, each as its packager ships it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from pynet.names import message, presentation, resolvconf
from pynet.names.forward import Forwarder, Source
from pynet.names.message import Question
from pynet.names.process.entrance import SPARE, Entrance, Spares
from pynet.names.process.launch import NameService
from pynet.netlib.controller import Controller
from pynet.netlib.model import Naming
from pynet.netlib.naming import View
from pynet.plugins.testhost import Host, Lan, Namespace

from support.netlib import inside_of
from support.waiting import PATIENCE, until

SO_NETNS_COOKIE = 71  # socket(7), since 5.14
BIG = [f"203.0.113.{number}" for number in range(1, 121)]
"""More than fits into a datagram."""
VIEW = View("box")


def _dnsmasq(directory: Path, address: str) -> list[str]:
    names = {"www": ["192.0.2.80", "2001:db8::80"], "big": BIG}
    records = [f"--host-record={name}.example.org,{one}" for name, found in names.items() for one in found]
    return [
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"),
        *("--group=root", "--pid-file=", "--log-facility=-", "--bind-interfaces", f"--listen-address={address}"),
        *("--local=/example.org/", "--cname=alias.example.org,www.example.org", "--local-ttl=300", *records),
    ]


def _zone() -> str:
    return "\n".join(
        [
            "example.org. 300 IN SOA ns.example.org. root.example.org. 1 3600 600 86400 60",
            "example.org. 300 IN NS ns.example.org.",
            "ns.example.org. 300 IN A 192.0.2.2",
            "www.example.org. 300 IN A 192.0.2.80",
            "www.example.org. 300 IN AAAA 2001:db8::80",
            "alias.example.org. 300 IN CNAME www.example.org.",
            *(f"big.example.org. 300 IN A {one}" for one in BIG),
        ]
    )


def _unbound(directory: Path, address: str) -> list[str]:
    data = "\n".join(f"  local-data: '{line}'" for line in _zone().splitlines() if "NS ns" not in line)
    (directory / "unbound.conf").write_text(f"""
server:
  interface: {address}
  access-control: 0.0.0.0/0 allow
  access-control: ::/0 allow
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{directory}"
  pidfile: ""
  use-syslog: no
  module-config: "iterator"
  local-zone: "example.org." static
  local-zone: "other.test." static
  local-data: 'www.other.test. 300 IN A 192.0.2.81'
{data}
remote-control:
  control-enable: no
""")
    return ["unbound", "-d", "-c", str(directory / "unbound.conf")]


def _nsd(directory: Path, address: str) -> list[str]:
    (directory / "zone").write_text(_zone() + "\nchild.example.org. 300 IN NS ns.child.example.org.\n")
    (directory / "nsd.conf").write_text(f"""
server:
  ip-address: {address}
  server-count: 1
  username: ""
  zonesdir: "{directory}"
  database: ""
  pidfile: "{directory}/pid"
  xfrdfile: "{directory}/xfrd"
  xfrdir: "{directory}"
  zonelistfile: "{directory}/zones"
  logfile: "{directory}/log"
remote-control:
  control-enable: no
zone:
  name: example.org
  zonefile: zone
""")
    return ["nsd", "-d", "-c", str(directory / "nsd.conf")]


SERVERS: dict[str, Callable[[Path, str], list[str]]] = {"dnsmasq": _dnsmasq, "unbound": _unbound, "nsd": _nsd}
Start = Callable[[Namespace, str, str], subprocess.Popen[Any]]


@pytest.fixture
def start(tmp_path: Path) -> Generator[Start]:
    """Starts a server of that name in a namespace, at an address, and waits until it answers."""
    started: list[subprocess.Popen[Any]] = []

    def start(where: Namespace, name: str, address: str) -> subprocess.Popen[Any]:
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"{name} is not installed")
        directory = tmp_path / f"{name}{len(started)}"
        directory.mkdir()
        argv = SERVERS[name](directory, address)
        environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
        with (directory / "output").open("wb") as output:
            program = where.popen(argv, env=environment, stdout=output, stderr=output, start_new_session=True)
        started.append(program)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        query = dns.message.make_query("www.example.org", "A").to_wire()

        def answers() -> bool:
            assert program.poll() is None, (directory / "output").read_text()
            with where.socket(family, socket.SOCK_DGRAM) as sock:
                sock.settimeout(0.1)
                try:
                    sock.connect((address, 53))
                    sock.send(query)
                    return bool(sock.recv(512))
                except OSError:
                    return False

        until(answers, lambda: f"{name} does not answer: {(directory / 'output').read_text()}")
        return program

    yield start
    for program in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def question(name: str, type: str = "A", **options: Any) -> Question:
    parsed = message.parse(dns.message.make_query(name, type, **options).to_wire())
    assert isinstance(parsed, Question)
    return parsed


async def told(
    forwarder: Forwarder, name: str, type: str = "A", *, view: View = VIEW, tcp: bool = False, **options: Any
) -> tuple[dns.message.Message, Source]:
    data, source = await forwarder.answer("box", view, question(name, type, **options), tcp=tcp)
    return dns.message.from_wire(data), source


def addresses(response: dns.message.Message) -> list[str]:
    return sorted(str(rdata) for rrset in response.answer for rdata in rrset if rrset.rdtype != dns.rdatatype.CNAME)


def forwarding(work: Callable[[Forwarder], Coroutine[Any, Any, None]], servers: list[str], **options: Any) -> None:
    async def run() -> None:
        forwarder = Forwarder(servers, **options)
        try:
            async with asyncio.timeout(PATIENCE * 2):
                await work(forwarder)
        finally:
            forwarder.close()
            await asyncio.sleep(0)  # what was closed is closed in the loop's next turn

    asyncio.run(run())


@pytest.mark.parametrize("name", SERVERS)
def test_what_a_real_server_knows_is_told_and_kept(host: Host, lan: Lan, start: Start, name: str) -> None:
    start(lan, name, Lan.address)

    async def work(forwarder: Forwarder) -> None:
        response, source = await told(forwarder, "www.Example.org")
        assert addresses(response) == ["192.0.2.80"] and source.upstream == Lan.address
        assert addresses((await told(forwarder, "www.example.org", "AAAA"))[0]) == ["2001:db8::80"]
        response, source = await told(forwarder, "WWW.example.org")
        assert addresses(response) == ["192.0.2.80"] and source.kind == "cache"
        if name != "unbound":  # it follows no alias within what it was given as its own
            alias, _ = await told(forwarder, "alias.example.org")
            assert str(alias.answer[0].name) == "alias.example.org." and addresses(alias) == ["192.0.2.80"]
        for _ in range(2):
            response, source = await told(forwarder, "nobody.example.org")
            assert response.rcode() == dns.rcode.NXDOMAIN
        assert source.kind == ("upstream" if name == "dnsmasq" else "cache"), (
            "dnsmasq names no SOA for what it makes up"
        )
        nodata, _ = await told(forwarder, "www.example.org", "MX")
        assert nodata.rcode() == dns.rcode.NOERROR and not nodata.answer
        servers = forwarder.upstreams("box", VIEW)
        assert servers is not None and servers.servers[0].keeps_case and servers.servers[0].speaks_edns

    forwarding(work, [Lan.address])


@pytest.mark.parametrize("name", SERVERS)
def test_what_a_datagram_has_no_room_for_comes_over_tcp(host: Host, lan: Lan, start: Start, name: str) -> None:
    start(lan, name, Lan.address)

    async def work(forwarder: Forwarder) -> None:
        response, _ = await told(forwarder, "big.example.org")
        assert response.flags & dns.flags.TC and len(addresses(response)) > 20
        response, source = await told(forwarder, "big.example.org", tcp=True)
        assert addresses(response) == sorted(BIG) and source.kind == "cache"

    forwarding(work, [Lan.address])


def test_a_server_that_refers_to_others_has_no_answer(host: Host, lan: Lan, start: Start) -> None:
    start(lan, "nsd", Lan.address)

    async def work(forwarder: Forwarder) -> None:
        response, source = await told(forwarder, "www.child.example.org")
        assert response.rcode() == dns.rcode.SERVFAIL and "refers" in source.why
        response, _ = await told(forwarder, "www.elsewhere.test")
        assert response.rcode() == dns.rcode.REFUSED

    forwarding(work, [Lan.address])


def test_what_one_refuses_another_is_asked(host: Host, lan: Lan, start: Start) -> None:
    lan.rtnl.add_address(lan.call(socket.if_nametoindex, "eth0"), "192.0.2.3", 24)
    start(lan, "nsd", Lan.address)
    start(lan, "unbound", "192.0.2.3")

    async def work(forwarder: Forwarder) -> None:
        response, source = await told(forwarder, "www.other.test")
        assert addresses(response) == ["192.0.2.81"] and source.why == f"{Lan.address}: code 5"

    forwarding(work, [Lan.address, "192.0.2.3"])


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_when_one_is_silent_or_gone_the_other_answers(host: Host, lan: Lan, start: Start, how: signal.Signals) -> None:
    lan.rtnl.add_address(lan.call(socket.if_nametoindex, "eth0"), "192.0.2.3", 24)
    first = start(lan, "dnsmasq", Lan.address)
    start(lan, "unbound", "192.0.2.3")

    async def work(forwarder: Forwarder) -> None:
        for number in range(20):  # until both are known, and the first one is asked first
            await told(forwarder, f"n{number}.example.org")
        first.send_signal(how)
        if how == signal.SIGKILL:
            first.wait()
        for number in range(10):
            response, source = await told(forwarder, f"{number}.www.example.org")
            assert response.rcode() == dns.rcode.NXDOMAIN and source.upstream == "192.0.2.3"

    forwarding(work, [Lan.address, "192.0.2.3"])


def test_over_ipv6(host: Host, lan: Lan, start: Start) -> None:
    start(lan, "dnsmasq", Lan.address6)

    async def work(forwarder: Forwarder) -> None:
        assert addresses((await told(forwarder, "www.example.org"))[0]) == ["192.0.2.80"]

    forwarding(work, [Lan.address6])


def test_a_sandboxs_own_servers_are_asked_from_inside_and_the_hosts_from_here(
    host: Host, lan: Lan, start: Start
) -> None:
    """Both have 127.0.0.53: systemd-resolved's address, which means another server in each namespace."""
    start(host, "dnsmasq", "127.0.0.53")
    start(lan, "unbound", "127.0.0.53")

    def inside(sandbox: str, family: int, kind: int) -> socket.socket:
        return lan.socket(socket.AddressFamily(family), socket.SocketKind(kind))

    async def work(forwarder: Forwarder) -> None:
        response, _ = await told(forwarder, "nobody.example.org")
        assert not response.authority, "dnsmasq's"
        response, _ = await told(forwarder, "nobody.example.org", view=View("box", upstreams=("127.0.0.53",)))
        assert response.authority, "unbound's"
        response, _ = await told(forwarder, "big.example.org", view=View("box", upstreams=("127.0.0.53",)), tcp=True)
        assert len(addresses(response)) == len(BIG)

    forwarding(work, ["127.0.0.53"], inside=inside)


def test_the_hosts_servers_are_those_of_its_resolv_conf_from_the_moment_that_it_is_replaced(
    host: Host, lan: Lan, start: Start, tmp_path: Path
) -> None:
    """systemd-resolved's shape: a link to a file that another one is renamed onto."""
    start(host, "dnsmasq", "127.0.0.53")
    start(lan, "unbound", Lan.address)
    target = tmp_path / "run" / "stub-resolv.conf"
    target.parent.mkdir()
    target.write_text("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n")
    link = tmp_path / "resolv.conf"
    link.symlink_to("run/stub-resolv.conf")

    async def work(forwarder: Forwarder) -> None:
        changed = asyncio.Event()

        def use(conf: resolvconf.ResolvConf) -> None:
            forwarder.use(conf.servers)
            changed.set()

        watched = resolvconf.Watched(str(link), use)
        try:
            assert watched.now is not None
            forwarder.use(watched.now.servers)
            assert (await told(forwarder, "www.example.org"))[1].upstream == "127.0.0.53"
            target.with_name("new").write_text(f"nameserver {Lan.address}\n")
            target.with_name("new").rename(target)
            await changed.wait()
            response, source = await told(forwarder, "www.example.org")
            assert source.upstream == Lan.address and addresses(response) == ["192.0.2.80"]
        finally:
            watched.close()

    forwarding(work, [])


def test_containers_reach_the_hosts_servers_and_their_own_through_the_server(
    lan: Lan, start: Start, tmp_path: Path, start_controller: Callable[..., Controller]
) -> None:
    """The process, as pynetd has it: it gave up its rights, and makes sockets in a sandbox all the same."""
    start(lan, "unbound", Lan.address)
    conf = tmp_path / "resolv.conf"
    conf.write_text(f"nameserver {Lan.address}\n")
    names = NameService(tmp_path / "run", "--resolv-conf", str(conf))

    def exposition() -> str:
        return str(names.request([({"op": "exposition"}, [])])[0]["text"])

    try:
        controller = start_controller(names=names)
        network = controller.create_network("net", subnet="10.1.0.0/24")
        network.create_endpoint("dns").join(sandbox := controller.create_sandbox("dns"))
        with inside_of(controller, sandbox) as inside:
            start(inside, "dnsmasq", "10.1.0.2")
            for id, naming in (("plain", Naming()), ("own", Naming(servers=("10.1.0.2",)))):
                network.create_endpoint(id).join(controller.create_sandbox(id, naming=naming))
            hidden = controller.create_network("hidden", subnet="10.2.0.0/24", internal=True)
            hidden.create_endpoint("in").join(controller.create_sandbox("in"))
            query = presentation.query("nobody.example.org", "A")
            for id, server, authority in (("plain", Lan.address, 1), ("own", "10.1.0.2", 0)):
                found = names.query(id, query)
                assert found.reply is not None and found.source == f"upstream {server}"
                assert len(presentation.read(found.reply).authority) == authority, "unbound's or dnsmasq's"
            assert names.query("plain", query).source == "cache"
            found = names.query("in", query)
            assert found.reply is not None and presentation.code_name(found.reply) == "NXDOMAIN"
            assert names.stats()["in"]["forwarded"] == 0
            text = exposition()
            assert f'pynet_names_upstream_seconds{{upstream="{Lan.address}"}}' in text
            assert 'pynet_names_forwarded_total{answer="upstream"} 2' in text
            conf.with_name("new").write_text("nameserver 192.0.2.99\n")
            conf.with_name("new").rename(conf)
            until(lambda: f'upstream="{Lan.address}"' not in exposition(), "the host's servers are not read anew")
    finally:
        names.close()


def test_sockets_are_made_some_at_a_time_in_the_sandbox_and_closed_with_it(host: Host, lan: Lan) -> None:
    def namespace(sock: socket.socket) -> bytes:
        return sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)

    entrance = Entrance()
    spares = Spares(entrance)
    try:
        with lan.socket() as beside:
            made = [spares.socket("a", beside, socket.AF_INET, socket.SOCK_DGRAM) for _ in range(SPARE + 1)]
            made.append(spares.socket("a", beside, socket.AF_INET6, socket.SOCK_STREAM))
            assert {namespace(sock) for sock in made} == {namespace(beside)}
            spare = [sock for found in spares._spare["a"].values() for sock in found]
            assert len(spare) == SPARE - 1
            spares.forget("a")
            spares.forget("a")
            assert all(sock.fileno() == -1 for sock in spare) and all(sock.fileno() >= 0 for sock in made)
            for sock in made:
                sock.close()
    finally:
        entrance.close()
