"""A container's standard streams in the supervisor: its FIFOs or its terminal, the log of what it says, who may type.

``open`` for a start, ``resume`` for a supervisor that takes over, ``close`` after the exit.
"""

from __future__ import annotations

import os

from ..spec import ContainerSpec
from .context import Context
from .output import Output
from .records import Record
from .stdin import Stdin


class Streams:
    def __init__(self, context: Context, record: Record, spec: ContainerSpec) -> None:
        self._context, self._record, self._spec = context, record, spec
        self._stdin = Stdin(record, once=spec["stdin_once"])
        self._output: Output | None = None

    def open(self) -> list[int]:
        """The container's ends for 0, 1 and 2, which the caller closes; -1 is none.  Nothing with a terminal."""
        ends: list[int] = []
        try:
            if not self._spec["tty"]:
                ends.append(self._stdin.open() if self._spec["open_stdin"] else -1)
                for name in ("out", "err"):
                    ends.append(os.open(self._record.make_fifo(name), os.O_RDWR | os.O_CLOEXEC))
            self.resume()
        except OSError:
            for fd in ends:
                if fd >= 0:
                    os.close(fd)
            raise
        return ends

    def resume(self) -> None:
        """Read what the container says, or has said while nobody did."""
        self._output = Output(self._context.loop, self._context.peek, self._record, self._spec["log"])
        if not self._spec["tty"]:
            self._output.add_fifos()

    @property
    def master(self) -> int:
        """The terminal's, -1 without one."""
        return self._output.master if self._output is not None else -1

    def take_terminal(self, master: int) -> bool:
        """*master* is ours from now on; False (and it is not) when no terminal is missing, or OSError."""
        if self._output is None or not self._spec["tty"] or self.master >= 0:
            return False
        self._output.add_terminal(master)
        return True

    def attach(self) -> list[int]:
        """New descriptors for a client: the master, or a write end of stdin, or nothing."""
        if self._spec["tty"]:
            return [os.dup(self.master)] if self.master >= 0 else []
        return self._stdin.attach() if self._spec["open_stdin"] else []

    @property
    def descriptors(self) -> list[int]:
        """What keeps the output alive while no supervisor does: the terminal, or both FIFOs."""
        return self._output.descriptors if self._output is not None else []

    def drain(self) -> None:
        """Log what an ended container has left."""
        if self._output is not None:
            self._output.drain()

    def close(self) -> None:
        if self._output is not None:
            self._output.close()
            self._output = None
        self._stdin.close()
