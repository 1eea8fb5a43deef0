"""What endpoints let through, as their containers see it.

An endpoint with a pair is counted at the host's end, turned round: nobody in a container can reset it, and no sandbox is
entered.  One without (macvlan) is counted at its interface inside.  What a rate limit dropped counts as dropped in its direction:
the kernel counts that at the queue and not at the interface.

A ``Meter`` is one look: each dump is made once, when it is first needed, however many endpoints are asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from .kernel.traffic import HANDLE, LinkCounters, QueueInfo
from .kinds.resource import Resource
from .kinds.shaper import Shaper
from .kinds.veth import Veth
from .tools import Tools

NOTHING = LinkCounters()


class Meter:
    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {link.name: link.index for link in self._tools.rtnl.links()}

    @cached_property
    def _counters(self) -> dict[int, LinkCounters]:
        return self._tools.rtnl.all_statistics()

    @cached_property
    def _queues(self) -> dict[int, QueueInfo]:
        return self._tools.rtnl.queues()

    def of(self, plan: Sequence[Resource], path: str, ifname: str) -> LinkCounters:
        """What the endpoint with this *plan* counted; its interface is *ifname* in the sandbox at *path*.  All zero for one
        that has no interface, or none any more."""
        host = next((resource.host for resource in plan if isinstance(resource, Veth)), "")
        limits = [resource for resource in plan if isinstance(resource, Shaper)]
        if host:
            index = self._indices.get(host, 0)
            counted = self._counters.get(index, NOTHING).turned()
            if any(not limit.netns for limit in limits):
                dropped = counted.rx_dropped + _drops(self._queues, index)
                counted = replace(counted, rx_dropped=dropped)
            if not any(limit.netns for limit in limits):
                return counted
        elif path and ifname:
            counted = NOTHING
        else:
            return NOTHING
        try:
            with self._tools.inside(path) as inside:
                index = inside.rtnl.index(ifname)
                if index and not host:
                    counted = inside.rtnl.statistics(index) or NOTHING
                dropped = counted.tx_dropped + _drops(inside.rtnl.queues() if limits else {}, index)
                return replace(counted, tx_dropped=dropped)
        except FileNotFoundError:
            return counted  # the sandbox ended just now


def _drops(queues: dict[int, QueueInfo], index: int) -> int:
    queue = queues.get(index)
    return queue.drops if queue is not None and queue.handle == HANDLE else 0
