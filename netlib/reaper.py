"""Dying links: out of the way at once, out of the kernel a little later, many at a time.

    put_away   down, off its bridge, into a group of the dying, and under another name       0.4 to 6 ms
    reap       delete that whole group in one request                                        20 to 50 ms, for one or a hundred
               bridges one after the other, with as long a pause after each                  16 to 22 ms each

Deleting a link makes the kernel wait for a grace period of RCU while it holds its one lock over all links, so nobody who
waits for an answer should wait for it, and the next change should not either.  For a bridge it waits again, for all that was
ever to be freed (rcu_barrier in br_multicast_dev_del), and for many at once as often; so these go when nothing was put away
for a while, and others get in between.  What was put away carries no packet, and its name and addresses are free: a network
or an endpoint that is made again at once meets nothing of it.

The groups are derived from the instance as the group of its living links is (instance.py), so what a killed process put away is
found, and removed, by the next one's ``repair``.  A link that its namespace takes along meanwhile is gone, which is fine.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Iterable

from .instance import Instance
from .kernel.netlink import NetlinkError
from .kernel.rtnetlink import Rtnetlink

REAP_AFTER = 0.5
"""Seconds without another link that is put away, after which those that were are deleted."""
REAP_LATEST = 5.0
"""Seconds from the first of them at most."""
_GONE = (errno.ENODEV,)


def dying_name(index: int) -> str:
    """A name that no other link of the namespace can have: indices are unique while the link is there."""
    return f"pd{index}"


def put_away(rtnl: Rtnetlink, index: int, group: int | None = None) -> bool:
    """Take a link out of the way; False when there was none.  For an end inside a sandbox, without a *group*."""
    try:
        rtnl.set_link(index, up=False, master=0 if group is not None else None, group=group)
        rtnl.set_link(index, name=dying_name(index))  # needs it to be down before Linux 6.2
    except NetlinkError as error:
        if error.errno not in _GONE:
            raise
        return False
    return True


class Reaper:
    """A thread that starts with the first dying link and ends with ``close``.

    *deleting* is the socket that deletions go over: who shares one with them waits for each.
    """

    def __init__(self, rtnl: Rtnetlink, instance: Instance, deleting: Rtnetlink | None = None) -> None:
        self._rtnl = rtnl
        self._deleter = deleting or rtnl
        self._group, self._bridge_group = instance.dying_group, instance.dying_bridges_group
        self._changed = threading.Condition()  # over the five below
        self._any = False
        self._bridges: deque[int] = deque()
        self._put_away = 0
        self._closing = False
        self._thread: threading.Thread | None = None
        self._deleting = threading.Lock()

    def put_away(self, index: int) -> None:
        """Take a host's link out of the way, and have it deleted; nothing happens when it is gone."""
        if put_away(self._rtnl, index, self._group):
            with self._changed:
                self._any = True
                self._expect()

    def put_bridge_away(self, index: int) -> None:
        if put_away(self._rtnl, index, self._bridge_group):
            with self._changed:
                self._bridges.append(index)
                self._expect()

    def delete(self, indices: Iterable[int]) -> None:
        """Delete these now, many at the price of one."""
        found = [index for index in indices if put_away(self._rtnl, index, self._group)]
        if found:
            self._delete_group()

    def settle(self) -> None:
        """Return when nothing that was put away is left."""
        with self._changed:
            due, self._any = self._any, False
        if due:
            self._delete_group()
        while self._delete_bridge():
            pass
        with self._deleting:
            pass  # the thread may be at the last one

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _expect(self) -> None:
        self._put_away += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pynet-reaper", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._any or self._bridges or self._closing)
            closing = self._wait_for_quiet()
            try:
                if closing:
                    self.settle()
                else:
                    self._reap()
            except OSError:
                pass  # nobody is there to be told; ``repair`` removes what stays
            if closing:
                return

    def _wait_for_quiet(self) -> bool:
        """Whether it is closing."""
        latest = time.monotonic() + REAP_LATEST
        with self._changed:
            while not self._closing and (left := latest - time.monotonic()) > 0:
                if not self._wait_for_more(self._put_away, min(REAP_AFTER, left)):
                    break
            return self._closing

    def _wait_for_more(self, seen: int, timeout: float) -> bool:
        """Whether something was put away within *timeout* seconds, or it is closing."""
        return self._changed.wait_for(lambda: self._closing or self._put_away != seen, timeout)

    def _reap(self) -> None:
        """All of the group, and bridges until there are no more, or something else is put away."""
        with self._changed:
            due, self._any, seen = self._any, False, self._put_away
        if due:
            self._delete_group()
        while True:
            began = time.monotonic()
            if not self._delete_bridge():
                return
            took = time.monotonic() - began
            with self._changed:
                if self._wait_for_more(seen, took):
                    return

    def _delete_group(self) -> None:
        with self._deleting:
            self._deleter.delete_group(self._group)

    def _delete_bridge(self) -> bool:
        """One of those that were put away; False when there is none."""
        with self._deleting:
            with self._changed:
                if not self._bridges:
                    return False
                index = self._bridges.popleft()
            try:
                self._deleter.delete_link(index)
            except NetlinkError as error:
                if error.errno not in _GONE:
                    raise
        return True
