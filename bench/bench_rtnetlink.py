"""One endpoint: hand-made netlink messages beside pyroute2, and where the time of a whole join goes.

    python bench/bench_rtnetlink.py [--rounds N] [--links N]

Runs in namespaces of its own (root, or a user namespace).  An endpoint is a veth on a bridge, lo and eth0 up, an IPv4 and
an IPv6 address and two default routes in a namespace that is there already; the survey is what check and repair read of
links, addresses and routes, on a host with so many links; the two ways take turns, and a ratio is one of neighbours.  The
loading is what a process that has netlib/kernel/ already pays for ``import pyroute2`` and a first socket, in time and in
memory of its own (PSS).  The join is all of it, from making the namespace until the link is in operation, with IPv4 only,
and its parts.  Milliseconds: min, median, max.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from pynet.netlib.kernel.netns import NetnsThread
from pynet.netlib.kernel.rtnetlink import RouteInfo, Rtnetlink
from pynet.plugins.isolation import isolate

NETLINK = (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
MAC = "02:42:0a:00:00:02"


def by_hand(rtnl: Rtnetlink, thread: NetnsThread, bridge: int, fd: int, name: str) -> int:
    index, peer = rtnl.add_veth(name, "eth0", netns_fd=fd, mac=MAC, master=bridge)
    with Rtnetlink(thread.socket(fd, *NETLINK)) as inside:
        inside.configure(
            peer,
            addresses=[("10.0.0.2", 16), ("fd00::2", 64)],
            routes=[RouteInfo(gateway="10.0.0.1"), RouteInfo(gateway="fd00::1")],
        )
    return index


def by_pyroute2(ipr: object, thread: NetnsThread, bridge: int, fd: int, name: str) -> int:
    from pyroute2 import IPRoute

    end = {"ifname": "eth0", "address": MAC, "net_ns_fd": fd}
    ipr.link("add", ifname=name, kind="veth", master=bridge, state="up", peer=end)  # type: ignore[attr-defined]
    datagrams = thread.socket(fd, socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)  # asyncio wants it so
    with IPRoute(use_socket=datagrams) as inside:
        (peer,) = inside.link_lookup(ifname="eth0")
        inside.link("set", index=1, state="up")
        inside.addr("add", index=peer, address="10.0.0.2", prefixlen=16)
        inside.addr("add", index=peer, address="fd00::2", prefixlen=64, flags=2)
        inside.link("set", index=peer, state="up")
        inside.route("add", dst="default", gateway="10.0.0.1", oif=peer)
        inside.route("add", dst="default", gateway="fd00::1", oif=peer, family=socket.AF_INET6)
    return socket.if_nametoindex(name)


def compare(rounds: int, rtnl: Rtnetlink, thread: NetnsThread, bridge: int, directory: str) -> None:
    from pyroute2 import IPRoute

    times: dict[str, list[float]] = {"by hand": [], "pyroute2": []}
    with IPRoute() as ipr:
        ways: dict[str, Callable[[int, str], int]] = {
            "by hand": lambda fd, name: by_hand(rtnl, thread, bridge, fd, name),
            "pyroute2": lambda fd, name: by_pyroute2(ipr, thread, bridge, fd, name),
        }
        for number in range(-3, rounds):  # three to warm up
            for way, run in ways.items():
                pin = os.path.join(directory, "pin")
                fd = thread.create(pin)
                start = time.perf_counter()
                index = run(fd, f"v{max(number, 0)}")
                if number >= 0:
                    times[way].append(time.perf_counter() - start)
                rtnl.delete_link(index)
                os.close(fd)
                thread.delete(pin)
    show(times)
    show_ratios(times)


def survey(rounds: int, rtnl: Rtnetlink, links: int) -> None:
    from pyroute2 import IPRoute

    made = [rtnl.add_bridge(f"s{number}", up=False) for number in range(links)]
    times: dict[str, list[float]] = {"by hand": [], "pyroute2": []}
    with IPRoute() as ipr:
        ways: dict[str, Callable[[], object]] = {
            "by hand": lambda: (rtnl.links(), rtnl.addresses(), rtnl.routes(4), rtnl.routes(6)),
            "pyroute2": lambda: (
                *(list(found) for found in (ipr.get_links(), ipr.get_addr())),
                *(list(ipr.get_routes(family=family)) for family in (socket.AF_INET, socket.AF_INET6)),
            ),
        }
        for number in range(-1, rounds):
            for way, run in ways.items():
                start = time.perf_counter()
                run()
                if number >= 0:
                    times[way].append(time.perf_counter() - start)
    rtnl.delete_links(made)
    show(times)
    show_ratios(times)


LOADING = """
import time
import pynet.netlib.kernel.host
def pss():
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
before, start = pss(), time.perf_counter()
from pyroute2 import IPRoute
with IPRoute() as ipr:
    list(ipr.get_links())
print((time.perf_counter() - start) * 1e3, (pss() - before) / 1024)
"""


def loading(rounds: int) -> None:
    found = [
        [float(word) for word in subprocess.check_output([sys.executable, "-c", LOADING], text=True).split()]
        for _ in range(rounds)
    ]
    show({"loading": [took / 1e3 for took, _ in found]})
    print(f"{'  MiB':<16}" + "".join(f"{pick([m for _, m in found]):8.1f}" for pick in (min, statistics.median, max)))


def join(rounds: int, rtnl: Rtnetlink, thread: NetnsThread, bridge: int, directory: str) -> None:
    times: dict[str, list[float]] = {"namespace": [], "veth": [], "inside": [], "wait until up": [], "join": []}
    indices: list[int] = []
    for number in range(rounds):
        marks = [time.perf_counter()]
        fd = thread.create(os.path.join(directory, f"n{number}"), sysctls={"net.ipv6.conf.all.disable_ipv6": 1})
        marks.append(time.perf_counter())
        index, peer = rtnl.add_veth(f"v{number}", "eth0", netns_fd=fd, mac=MAC, master=bridge)
        marks.append(time.perf_counter())
        with Rtnetlink(thread.socket(fd, *NETLINK)) as inside:
            address = f"10.0.{(number + 2) >> 8}.{(number + 2) & 255}"
            inside.configure(peer, addresses=[(address, 16)], routes=[RouteInfo(gateway="10.0.0.1")])
        os.close(fd)
        marks.append(time.perf_counter())
        rtnl.wait_up(index)
        marks.append(time.perf_counter())
        indices.append(index)
        for part, start, end in zip(list(times)[:4], marks, marks[1:], strict=False):
            times[part].append(end - start)
        times["join"].append(marks[-1] - marks[0])
    start = time.perf_counter()
    rtnl.delete_links(indices)
    for number in range(rounds):
        thread.delete(os.path.join(directory, f"n{number}"))
    removed = time.perf_counter() - start
    show(times)
    print(f"all {rounds} removed in {removed * 1e3:.1f}")


def show(times: dict[str, list[float]]) -> None:
    for name, values in times.items():
        low, middle, high = (1e3 * pick(values) for pick in (min, statistics.median, max))
        print(f"{name:<16}{low:8.3f}{middle:8.3f}{high:8.3f}")


def show_ratios(times: dict[str, list[float]]) -> None:
    ratios = [mine / other for mine, other in zip(*times.values(), strict=True)]
    print(f"{'  ratio':<16}" + "".join(f"{pick(ratios):8.3f}" for pick in (min, statistics.median, max)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--links", type=int, default=300)
    options = parser.parse_args()
    rounds: int = options.rounds
    reason = isolate()
    if reason:
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory(dir="/run") as directory, Rtnetlink() as rtnl, NetnsThread() as thread:
        bridge = rtnl.add_bridge("br0", mac="02:42:00:00:00:01")
        rtnl.add_address(bridge, "10.0.0.1", 16)
        print(f"{'one endpoint':<16}{'min':>8}{'median':>8}{'max':>8}")
        compare(rounds, rtnl, thread, bridge, directory)
        print(f"\n{f'survey of {options.links}':<16}{'min':>8}{'median':>8}{'max':>8}")
        survey(max(5, rounds // 5), rtnl, options.links)
        print(f"\n{'pyroute2':<16}{'min':>8}{'median':>8}{'max':>8}")
        loading(max(3, rounds // 10))
        print()
        print(f"{'a whole join':<16}{'min':>8}{'median':>8}{'max':>8}")
        join(rounds, rtnl, thread, bridge, directory)


if __name__ == "__main__":
    main()
