"""One run of a container: its first process, and what lives as long as that does.

    clone (streams, cgroup, child at its gate) --> on record --> the caller lets it go
                                             ... drain (what it has said last) --> release

Made once a container and used again at each restart; container.py decides when, this knows how.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from ..spec import ContainerSpec
from . import spawn
from .confinement import Confinement
from .context import Context
from .errors import StartError, describe
from .group import Group
from .records import Record
from .streams import Streams
from .watched import Watched


class Run:
    """*ended* hears of the end of the first process, *oom* of each time that the kernel killed one for want of memory."""

    def __init__(
        self,
        context: Context,
        record: Record,
        spec: ContainerSpec,
        ended: Callable[[int | None], None],
        oom: Callable[[], None],
    ) -> None:
        self._context, self._record, self._spec = context, record, spec
        self.first = Watched(context, ended)
        self.streams = Streams(context, record, spec)
        self.confinement = Confinement(context.loop, context.cgroups, oom)

    @property
    def group(self) -> Group | None:
        return self.confinement.group

    def clone(self, warnings: list[str]) -> spawn.Spawned:
        """The first process at its gate; StartError.  What the machine can not give is added to *warnings*."""
        stdio: list[int] = []
        cgroup = begun = -1
        try:
            stdio = self.streams.open()
            group = self.confinement.make(self._spec)
            warnings += group.warnings
            cgroup, begun = group.open_v2(), self._record.open_begun()
            child, master = spawn.start(
                self._context.host, self._spec, stdio, cgroup=cgroup, group=group, begun=begun, warnings=warnings
            )
        except OSError as error:
            raise StartError(f"{error.filename or 'clone'}: {error.strerror}") from error
        finally:
            for fd in (*stdio, cgroup, begun):
                if fd >= 0:
                    os.close(fd)
        if master >= 0:
            try:
                self.streams.take_terminal(master)
            except OSError as error:
                os.close(master)
                child.cancel()
                raise StartError(describe(error)) from error
        return child

    def held(self) -> list[int]:
        """What a client keeps open for the case of our death: pidfd, then the terminal or both FIFOs.

        A FIFO that nobody has open loses what is in it.
        """
        return [self.first.pidfd, *self.streams.descriptors] if self.first.pidfd >= 0 else []

    def adopt(self, fds: list[int], inode: int | None) -> None:
        """A client gives back what it held, which is ours now; *inode* is that of this run's pidfd, None when unknown.

        What it has of an earlier run says nothing about this one: the inode of a pidfd is one process's for as long as the
        machine is up (pidfs, since 6.9; before, all have the same).
        """
        pidfd, master = [*fds, -1, -1][:2]
        try:
            if pidfd < 0 or inode not in (None, os.fstat(pidfd).st_ino):
                return
            if master >= 0 and self.streams.take_terminal(master):
                master = -1
            if self.first.pidfd < 0:
                self.first.told(pidfd)
        finally:
            for fd in (pidfd, master, *fds[2:]):
                if fd >= 0:
                    os.close(fd)

    def resume(self) -> None:
        """Read on what it says, for a supervisor that takes over."""
        try:
            self.streams.resume()
        except OSError as error:  # its log's directory is gone: that is no reason to lose the rest of it
            self._lost(error)

    def drain(self) -> None:
        """Log what an ended one has left."""
        try:
            self.streams.drain()
        except Exception as error:  # whatever is wrong with its output: an end that nobody hears of hangs everybody
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        print(f"output of container {self._spec['id']} is lost: {error!r}", file=sys.stderr, flush=True)

    def release(self) -> None:
        """Close what belongs to the ended process; its cgroup is removed when the caller says so."""
        self.streams.close()
        self.confinement.unwatch()
        self.first.close()
