"""What a host holds, as sorted lines by section, to be compared before and after.

    links  addresses  routes  rules     rtnetlink, the calling thread's namespace
    nftables  iptables                  the programs' own listings, if installed; counters and handles left out
    mounts                              this process's mount table
    processes                           children, and whoever else is in the namespace
    fds                                 this process's descriptors, by what they are

iptables (the nft variant) leaves its empty tables and base chains behind when the last rule goes; those are not shown.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

from ..netlib.kernel.rtnetlink import Rtnetlink

_IPTABLES_TABLES = {"filter", "nat", "mangle", "raw", "security"}


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
            "mounts": _mounts(),
            "processes": _processes(),
            "fds": _descriptors(),
        }
        return cls({name: tuple(sorted(lines)) for name, lines in sections.items()})

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
            if not re.fullmatch(r"/proc/\d+/fd", target):  # the one that reads this
                found.append(re.sub(r"\[\d+\]", "", target))
    return found


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


def _nftables() -> list[str]:
    answer = _listing("nft", "-j", "list", "ruleset")
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
