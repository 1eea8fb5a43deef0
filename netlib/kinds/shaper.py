"""Rate limits: a token bucket filter (tc-tbf(8)) as the root queue of an interface limits what leaves by it.

Ours bear a mark, the queue's handle (kernel/traffic.py); another queue that somebody put there is replaced when a limit is made,
and stays when it ends.  One in a sandbox holds against all but who has CAP_NET_ADMIN in there, which containers have not unless
they are given it; ``check`` sees what such a one did.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import NotSupported
from ..kernel.netlink import NetlinkError
from ..kernel.rtnetlink import Rtnetlink
from ..kernel.rtnl_links import LinkInfo
from ..kernel.traffic import HANDLE, Bucket, QueueInfo, same
from ..tools import Tools
from .kind import Kind, register
from .namespace import Netns
from .resource import Key, Resource
from .sight import Sight

TBF = "tbf"


@dataclass(frozen=True)
class Shaper(Resource):
    netns: str
    """Path of the sandbox's pin; "" for the host's namespace."""
    ifname: str
    bucket: Bucket

    @property
    def key(self) -> Key:
        return ("qdisc", self.netns, self.ifname)

    @property
    def goes_with(self) -> tuple[Key, ...]:
        if self.netns:
            return (("netns", self.netns), ("interface", self.netns, self.ifname))
        return (("link", self.ifname),)

    @property
    def title(self) -> str:
        return f"rate limit of {self.ifname}" + (f" in {self.netns}" if self.netns else "")

    @property
    def details(self) -> str:
        return f"{self.bucket.rate * 8 / 1000:g}kbit, burst {self.bucket.burst} bytes"


class ShaperKind(Kind[Shaper]):
    noun = "qdisc"

    def make(self, tools: Tools, resource: Shaper) -> None:
        if resource.netns:
            with tools.inside(resource.netns) as inside:
                _limit(inside.rtnl, resource)
        else:
            _limit(tools.rtnl, resource)

    def alter(self, tools: Tools, old: Shaper, new: Shaper) -> None:
        self.make(tools, new)  # the kernel changes ours where it stands

    def unmake(self, tools: Tools, resource: Shaper) -> None:
        if not resource.netns:
            _end(tools.rtnl, resource.ifname)
            return
        try:
            with tools.inside(resource.netns) as inside:
                _end(inside.rtnl, resource.ifname)
        except FileNotFoundError:
            pass  # the sandbox is gone, and its interfaces with it

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[Shaper]) -> Iterable[tuple[str, Shaper]]:
        for shaper in wanted:
            links, queues = _seen(sight, shaper.netns)
            link = links.get(shaper.ifname)
            queue = queues.get(link.index) if link is not None else None
            if queue is None or queue.handle != HANDLE or not same(shaper.bucket, queue.bucket):
                yield _named(shaper.netns, shaper.ifname), shaper

    def strays(self, tools: Tools, sight: Sight) -> Iterable[str]:
        """Limits that ended while nobody could take them away; on the host, those of our own interfaces."""
        return [_named(netns, ifname) for netns, ifname in _strays(tools, sight)]

    def remove(self, tools: Tools, sight: Sight, names: Sequence[str]) -> None:
        for netns, ifname in _strays(tools, sight):
            if _named(netns, ifname) not in names:
                continue
            if netns:
                with tools.inside(netns) as inside:
                    _end(inside.rtnl, ifname)
            else:
                _end(tools.rtnl, ifname)


def _limit(rtnl: Rtnetlink, shaper: Shaper) -> None:
    index = rtnl.index(shaper.ifname)
    if not index:
        raise NetlinkError(errno.ENODEV, f"find interface {shaper.ifname}")
    try:
        rtnl.set_bucket(index, shaper.bucket)
    except NetlinkError as error:
        if error.errno == errno.ENOENT:  # the kernel's "Specified qdisc kind is unknown"
            raise NotSupported(
                "this kernel has no token bucket filter (sch_tbf): rates can not be limited",
                hint="load it (modprobe sch_tbf), or leave rate_in and rate_out out",
            ) from error
        raise


def _end(rtnl: Rtnetlink, ifname: str) -> None:
    index = rtnl.index(ifname)
    if index:
        rtnl.delete_bucket(index)


def _seen(sight: Sight, netns: str) -> tuple[Mapping[str, LinkInfo], Mapping[int, QueueInfo]]:
    """Links by name and queues by index; queues are asked for only where a link has a bucket."""
    if not netns:
        return sight.links, sight.queues("") if _any_bucket(sight.links) else {}
    interior = sight.inside(netns)
    if interior is None:
        return {}, {}
    return interior.links, sight.queues(netns) if _any_bucket(interior.links) else {}


def _any_bucket(links: Mapping[str, LinkInfo]) -> bool:
    return any(link.qdisc == TBF for link in links.values())


def _strays(tools: Tools, sight: Sight) -> Iterable[tuple[str, str]]:
    for netns in ("", *(one.path for one in sight.wanted(Netns))):
        links, queues = _seen(sight, netns)
        for name, link in sorted(links.items()):
            queue = queues.get(link.index)
            ours = bool(netns) or link.group == tools.instance.link_group
            if ours and queue is not None and queue.handle == HANDLE and ("qdisc", netns, name) not in sight.keys:
                yield netns, name


def _named(netns: str, ifname: str) -> str:
    return f"{ifname} in {netns}" if netns else ifname


register(Shaper, ShaperKind())
