"""Dying links: out of the way at once, out of the kernel a little later, many at a time.

    put_away   down, off its bridge, into the group of the dying, and under another name     0.4 to 6 ms
    reap       delete that whole group in one request                                        20 to 50 ms, for one or a hundred

Deleting a link makes the kernel wait for a grace period of RCU while it holds its one lock over all links, so nobody who
waits for an answer should wait for it, and the next change should not either.  What was put away carries no packet, and its
name and addresses are free: a network or an endpoint that is made again at once meets nothing of it.

The group is derived from the instance as the group of its living links is (instance.py), so what a killed process put away is
found, and removed, by the next one's ``repair``.  A link that its namespace takes along meanwhile is gone, which is fine.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable

from .instance import Instance
from .kernel.netlink import NetlinkError
from .kernel.rtnetlink import Rtnetlink

REAP_AFTER = 0.5
"""Seconds from the first link that was put away to the deletion of all."""
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
    """A thread that starts with the first dying link and ends with ``close``."""

    def __init__(self, rtnl: Rtnetlink, instance: Instance) -> None:
        self._rtnl = rtnl
        self._group = instance.dying_group
        self._changed = threading.Condition()  # over the three below
        self._any = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._deleting = threading.Lock()

    def put_away(self, index: int) -> None:
        """Take a host's link out of the way, and have it deleted; nothing happens when it is gone."""
        if put_away(self._rtnl, index, self._group):
            self._expect()

    def delete(self, indices: Iterable[int]) -> None:
        """Delete these now, many at the price of one."""
        found = [index for index in indices if put_away(self._rtnl, index, self._group)]
        if found:
            self._delete()

    def settle(self) -> None:
        """Return when nothing that was put away is left."""
        with self._changed:
            due, self._any = self._any, False
        if due:
            self._delete()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _expect(self) -> None:
        with self._changed:
            self._any = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pynet-reaper", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._any or self._closing)
                if not self._closing:
                    self._changed.wait_for(lambda: self._closing, timeout=REAP_AFTER)
                closing = self._closing
            try:
                self.settle()
            except OSError:
                pass  # nobody is there to be told; ``repair`` removes what stays
            if closing:
                return

    def _delete(self) -> None:
        with self._deleting:
            self._rtnl.delete_group(self._group)
