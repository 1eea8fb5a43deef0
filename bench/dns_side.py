"""Servers without an engine; all but the first in a network namespace of their own.

    python bench/dns_side.py upstream              any name has an address, for ten minutes; in the namespace it is started in
    python bench/dns_side.py aardvark PROGRAM      Debian's aardvark-dns, with the same redirect in front of it
    python bench/dns_side.py thousand              1,000 sandboxes on one network of 5,000 names; a line read is a change

Prints the path of the namespace and the pid of the server, and ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from pynet.names import message
from pynet.names.forward import Forwarder
from pynet.names.message import Question
from pynet.names.server import Server
from pynet.names.zones import Zones
from pynet.netlib.firewall import redirect
from pynet.netlib.kernel.syscall import CLONE_NEWNET, unshare
from pynet.netlib.naming import ADDRESS, Names, View
from pynet.plugins.isolation import loopback_up
from pynet.proxy.dataplane.lane import Lane

SANDBOXES, NAMES, NETWORK = 1000, 5000, "n" * 64
PORT = 5300


def sockets() -> tuple[socket.socket, socket.socket]:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((ADDRESS, 0))
    return udp, socket.create_server((ADDRESS, 0), backlog=64)


def server() -> Server:
    lane = Lane()
    return Server(lane, asyncio.SelectorEventLoop(lane), Forwarder(), zones=Zones())  # whose upstreams are none


def say(*words: object) -> None:
    print(f"/proc/{os.getpid()}/ns/net", *words, flush=True)


def upstream() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 53))
        say(os.getpid())
        while True:
            data, sender = sock.recvfrom(4096)
            question = message.parse(data)
            if isinstance(question, Question):
                record = message.Record(message.A, 600, bytes((192, 0, 2, 1)))
                sock.sendto(message.reply(question, message.NOERROR, (record,)), sender)


def aardvark(program: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        lines = [ADDRESS, f"{'a' * 64} 127.0.0.1  me", f"{'b' * 64} 10.0.0.1  db", ""]
        (Path(directory) / "back").write_text("\n".join(lines))
        redirect.install("nftables", ADDRESS, PORT, PORT)
        # it goes to the background and says so by ending in front
        subprocess.run(
            [program, "--config", directory, "--port", str(PORT), "run"], check=True, stdout=subprocess.DEVNULL
        )
        pid = int((Path(directory) / "aardvark.pid").read_text())
        say(pid)
        sys.stdin.read()
        os.kill(pid, signal.SIGKILL)


def address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def names(number: int, at: int) -> Names:
    id = f"{number:064x}"
    return Names(id, NETWORK, "back", (f"container-{number}", id[:12], f"alias-{number % 7}"), (address(at),))


def thousand() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    ours = server()
    before = memory()
    made = [sockets() for _ in range(SANDBOXES)]
    for number, (udp, tcp) in enumerate(made):
        ours.serve(f"{number:064x}", udp, tcp)
    hosts = (("host.docker.internal", ("172.17.0.1",)),)
    ours.tell([View(f"{number:064x}", (NETWORK,), hosts) for number in range(SANDBOXES)])
    ours.tell(names=[names(number, 256 + number) for number in range(NAMES)])
    gc.collect()
    gc.freeze()  # as a process that serves does
    gc.set_threshold(50_000, 20, 100)
    changes = 0

    def change() -> None:
        nonlocal changes
        line = sys.stdin.readline()
        if not line:
            ours.loop.stop()
            return
        changes += 1
        ours.tell(names=[names(0, 100_000 + changes)])
        print(address(100_000 + changes), memory() - before, flush=True)

    ours.loop.add_reader(0, change)
    say(os.getpid(), *(udp.getsockname()[1] for udp, _ in made))
    ours.loop.run_forever()


def memory() -> int:
    """KiB that are this process's own."""
    return sum(
        int(line.split()[1])
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines()
        if line.startswith(("Private_Clean", "Private_Dirty"))
    )


def main() -> None:
    kind, *words = sys.argv[1:]
    if kind == "upstream":
        upstream()
    unshare(CLONE_NEWNET)
    loopback_up()
    {"aardvark": aardvark, "thousand": thousand}[kind](*words)


if __name__ == "__main__":
    main()
