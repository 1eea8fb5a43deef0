"""The namespace of a living container whose pin was lost, found again through the processes that are in it.

A pin is a name for a namespace: somebody may unmount or unlink it while processes live on behind it.  To make a new, empty
namespace in its place and move the interface there would cut them off.  So before that, the network namespaces of all
processes are looked at for the other end of an interface that the sandbox has: the two ends of a veth pair name each other's
index (IFLA_LINK, rtnetlink(7)), and the inner one has the endpoint's name and MAC.  An interface without a host end (macvlan)
is known by its mark, its name and its MAC.  Either says which namespace its other end or its parent is in: another pynet's
containers, behind another host namespace on this machine, may be alike in all the rest.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator, Mapping

from .instance import veth_name
from .kernel.netns import NetnsThread, open_netns
from .kernel.rtnetlink import Rtnetlink
from .kernel.rtnl_links import LinkInfo
from .kernel.syscall import MS_BIND, mount
from .model import EndpointRecord


def pin_again(
    netns: NetnsThread,
    path: str,
    endpoints: Collection[EndpointRecord],
    links: Mapping[str, LinkInfo],
    *,
    home: int,
    group: int,
) -> bool:
    """Pin at *path* the namespace in which *endpoints* have interfaces, if a process is in one; whether it is pinned.

    *home* is a descriptor of the host's namespace, *links* are those in there, by name; *group* is the instance's link group.
    """
    ends = {
        (links[veth_name(e.id)].peer, links[veth_name(e.id)].index, e.ifname, e.mac)
        for e in endpoints
        if e.ifname and veth_name(e.id) in links
    }
    alone = {(group, e.ifname, e.mac) for e in endpoints if e.ifname and e.mac and veth_name(e.id) not in links}
    if not ends and not alone:
        return False
    for fd in _inhabited():
        try:
            with Rtnetlink(netns.socket(fd, socket.AF_NETLINK, socket.SOCK_RAW)) as inside:
                found = [
                    link.peer_netns
                    for link in inside.links()
                    if (link.index, link.peer, link.name, link.mac) in ends
                    or (link.group, link.name, link.mac) in alone
                ]
                if found and inside.netns_id(home) in found:
                    _pin(fd, path)
                    return True
        finally:
            os.close(fd)
    return False


def _inhabited() -> Iterator[int]:
    """A descriptor of each network namespace that a process is in, but for the calling thread's own; close them."""
    own = os.stat("/proc/thread-self/ns/net")
    seen = {own.st_ino}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            inode = os.stat(f"/proc/{pid}/ns/net").st_ino
            if inode in seen:
                continue
            fd = open_netns(f"/proc/{pid}/ns/net")
        except OSError:
            continue  # it ended meanwhile, or is on its way out
        seen.add(inode)
        yield fd


def _pin(fd: int, path: str) -> None:
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    mount(f"/proc/thread-self/fd/{fd}", path, None, MS_BIND)
