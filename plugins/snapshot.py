"""What a host holds, as sorted lines by section, to be compared before and after.

    links  addresses  routes  rules     rtnetlink, the calling thread's namespace
    nftables  iptables                  the programs' own listings, if installed; counters and handles left out
    sockets                             listening ones and datagram ones of the namespace, unix ones that have a path
    mounts                              this process's mount table, pinned namespaces among them
    processes                           children, and whoever else is in the namespace
    threads                             this process's, by name
    fds                                 this process's descriptors, by what they are

iptables (the nft variant) leaves its empty tables and base chains behind when the last rule goes; those are not shown.
One is taken in two milliseconds where no firewall is: nft and iptables are asked only where the kernel has tables.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

from ..netlib.kernel.rtnetlink import Rtnetlink

_IPTABLES_TABLES = {"filter", "nat", "mangle", "raw", "security"}
_TCP_LISTEN, _UDP_UNCONNECTED = "0A", "07"  # tcp_states.h, as /proc/net has it
_SO_ACCEPTCON = 1 << 16  # include/linux/net.h: a listening unix socket, in the flags of /proc/net/unix
_NFT_MSG_GETTABLE = 10 << 8 | 1  # nfnetlink.h, nf_tables.h: subsystem and message
_NLM_F_DUMP = 0x301  # netlink(7): a request, for all there are
_NETLINK_NETFILTER = 12  # netlink.h
_NLMSG_DONE = 3


@dataclass(frozen=True)
class Snapshot:
    """Sections of lines; equal when nothing was left and nothing is missing."""

    sections: dict[str, tuple[str, ...]]

    @classmethod
    def take(cls) -> Self:
        """Of the calling thread's network namespace, and of this process."""
        with Rtnetlink() as rtnl:
            links = [f"{i.index} {i.name} {i.kind} master={i.master} mtu={i.mtu} up={i.up}" for i in rtnl.links()]
            addresses = [f"{a.index} {a.address}/{a.prefix}" for a in rtnl.addresses()]
            routes = [str(r) for version in (4, 6) for r in rtnl.routes(version, table=None)]
            rules = [rule for version in (4, 6) for rule in rtnl.rules(version)]
        sections = {
            "links": links,
            "addresses": addresses,
            "routes": routes,
            "rules": rules,
            "nftables": _nftables(),
            "iptables": [*_iptables("ip_tables_names", "iptables"), *_iptables("ip6_tables_names", "ip6tables")],
            "sockets": _sockets(),
            "mounts": _mounts(),
            "processes": _processes(),
            "threads": [thread.name for thread in threading.enumerate()],
            "fds": _descriptors(),
        }
        return cls({name: tuple(sorted(lines)) for name, lines in sections.items()})

    def differs_in(self, after: Snapshot) -> set[str]:
        """The names of the sections that are not the same in *after*."""
        return {name for name, lines in self.sections.items() if lines != after.sections[name]}

    def difference(self, after: Snapshot) -> str:
        """What *after* has more (+) and less (-), a line each."""
        shown: list[str] = []
        for name, lines in self.sections.items():
            was, now = Counter(lines), Counter(after.sections[name])
            shown += [f"+ {name}: {line}" for line in (now - was).elements()]
            shown += [f"- {name}: {line}" for line in (was - now).elements()]
        return "\n".join(shown)


def processes_inside(inode: int) -> list[int]:
    """The processes whose main thread is in the network namespace *inode*, as far as we may see."""
    return [pid for pid in _pids() if _inode(pid) == inode]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _inode(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:  # gone, or not ours to see
        return 0


def _processes() -> list[str]:
    own = os.getpid()
    inode = os.stat("/proc/thread-self/ns/net").st_ino
    found: list[str] = []
    for pid in _pids():
        if pid == own:
            continue
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                head, _, tail = file.read().rpartition(")")
        except OSError:
            continue
        if int(tail.split()[1]) == own or _inode(pid) == inode:
            found.append(f"{pid} {head.partition('(')[2]}")
    return found


def _descriptors() -> list[str]:
    found: list[str] = []
    with os.scandir("/proc/self/fd") as entries:
        for entry in entries:
            try:
                target = os.readlink(entry.path)
            except OSError:
                continue
            if target.startswith("socket:"):
                found.append(_socket(int(entry.name)))
            elif not re.fullmatch(r"/proc/\d+/fd", target):  # the one that reads this
                found.append(re.sub(r"\[\d+\]", "", target))
    return found


def _socket(fd: int) -> str:
    """A socket by its kind and its own address: "socket AF_INET SOCK_STREAM ('127.0.0.1', 80)"."""
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            family = getattr(sock.family, "name", str(sock.family))
            kind = getattr(sock.type, "name", str(sock.type))
            name = "" if sock.family == socket.AF_NETLINK else f" {sock.getsockname()!r}"
            return f"socket {family} {kind}{name}"
    except OSError:
        return "socket"


def _sockets() -> list[str]:
    """Sockets that somebody could reach.  /proc/net/tcp takes long to read, so it is asked whether there are any."""
    found: list[str] = []
    counts = " ".join([*_net("sockstat"), *_net("sockstat6")])
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        if f"{protocol.upper()}: inuse 0" in counts:
            continue  # TCP counts both families, see the kernel's sockstat_seq_show
        for line in _net(protocol)[1:]:
            fields = line.split()
            if fields[3] == (_UDP_UNCONNECTED if protocol.startswith("udp") else _TCP_LISTEN):
                found.append(f"{protocol} {_endpoint(fields[1])}")
    for line in _net("unix")[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and (int(fields[3], 16) & _SO_ACCEPTCON or int(fields[4], 16) == socket.SOCK_DGRAM):
            found.append(f"unix {fields[7]}")
    return found


def _net(name: str) -> list[str]:
    try:
        with open(f"/proc/thread-self/net/{name}", encoding="utf-8", errors="surrogateescape") as file:
            return [line.rstrip("\n") for line in file]
    except OSError:  # this kernel has no such protocol
        return []


def _endpoint(text: str) -> str:
    """ADDRESS:PORT of the kernel's hexadecimal words, each in the machine's order of bytes."""
    address, _, port = text.partition(":")
    words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    shown = socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)
    return f"{shown} {int(port, 16)}"


def _mounts() -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        lines = [line.split() for line in file]
    return [f"{fields[4]} {fields[fields.index('-') + 1]}" for fields in lines]


def _iptables(names: str, program: str) -> list[str]:
    """The legacy tables' rules and chains.  Asked only where such tables are: the question alone would make them."""
    try:
        with open(f"/proc/thread-self/net/{names}", encoding="ascii") as file:
            present = file.read().split()
    except OSError:
        present = []
    lines = _listing(f"{program}-legacy-save").splitlines() if present else []
    rules = (re.sub(r" \[\d+:\d+\]$", "", line) for line in lines)  # a policy's counters
    return [f"{program} {line}" for line in rules if re.match(r"-A|:\S+ (-|DROP)", line)]


def _listing(name: str, *arguments: str) -> str:
    """What a program prints; nothing if it is not installed, or this kernel has nothing that it could list."""
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if program is None:
        return ""
    result = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else ""


def _has_nftables() -> bool:
    """Whether the namespace has a table; True also where the kernel does not say.  The nft program takes 10 ms to start."""
    request = struct.pack("=IHHIIBBH", 20, _NFT_MSG_GETTABLE, _NLM_F_DUMP, 1, 0, 0, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
            sock.send(request)
            kind: int = struct.unpack_from("=IH", sock.recv(65536))[1]
    except OSError:
        return True
    return kind != _NLMSG_DONE


def _nftables() -> list[str]:
    answer = _listing("nft", "-j", "list", "ruleset") if _has_nftables() else ""
    entries: list[dict[str, Any]] = json.loads(answer)["nftables"] if answer.strip() else []
    return _without_husks([entry for entry in entries if "metainfo" not in entry])


def _without_husks(entries: list[dict[str, Any]]) -> list[str]:
    """The entries as lines, without the empty shells of iptables-nft."""
    filled: set[tuple[str, str]] = set()
    husks: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    for entry in entries:
        kind, body = next(iter(entry.items()))
        table = body["name"] if kind == "table" else body.get("table")
        iptables = body["family"] in ("ip", "ip6") and table in _IPTABLES_TABLES
        if iptables and (kind == "table" or (kind == "chain" and body.get("policy") == "accept")):
            husks.append(entry)
        else:
            rest.append(entry)
            filled.add((body["family"], str(table)))
    for entry in husks:
        kind, body = next(iter(entry.items()))
        if (body["family"], body["name"] if kind == "table" else body["table"]) in filled:
            rest.append(entry)
    return [json.dumps(_stable(entry), sort_keys=True) for entry in rest]


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stable(item) for key, item in value.items() if key not in ("handle", "packets", "bytes")}
    if isinstance(value, list):
        return [_stable(item) for item in value]
    return value
