"""What a command of ``exec`` says and hears: its descriptors have one owner from the reply of the supervisor on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from ...runtime.client import ExecStarted
from ..container.execs import Exec
from ..container.logs import STDERR, STDOUT, frame
from .hijack import Stream
from .pipes import forward_input, pump, until_first


class ExecStreams:
    """The descriptors of a command, which we own: a terminal's master, or up to three pipes."""

    def __init__(self, made: Exec, started: ExecStarted) -> None:
        self._made = made
        for fd in started.fds:
            os.set_blocking(fd, False)
        self._input = started.master if made.tty else started.stdin
        self._outputs = [started.master] if made.tty else [started.stdout, started.stderr]
        self._over = asyncio.Event()
        loop = asyncio.get_running_loop()
        made.ended.add_done_callback(lambda _: loop.call_soon_threadsafe(self._over.set))

    async def carry(self, stream: Stream, keys: bytes) -> None:
        """Between the client and the command, until it has ended, or the client has left or detached."""
        made = self._made
        wanted = [made.stdout or made.stderr] if made.tty else [made.stdout, made.stderr]

        def sink(number: int, want: bool) -> Callable[[bytes], Awaitable[None]]:
            async def write(data: bytes) -> None:
                if want:
                    await stream.write(data if made.tty else frame(number, data))

            return write

        async def typed() -> bool:
            detached = await forward_input(stream, self._input, keys if made.tty else b"")
            self._close_input()
            return detached

        output = self._read([sink(number, want) for number, want in zip((STDOUT, STDERR), wanted)])
        try:
            if made.stdin:
                await until_first(output, typed())
            else:
                self._close_input()
                await output
        except* ConnectionError:
            pass  # the client is gone

    async def discard(self) -> None:
        """Read and drop the output until the command has ended, then close."""

        async def drop(data: bytes) -> None:
            pass

        try:
            self._close_input()
            await self._read([drop] * len(self._outputs))
        finally:
            self.close()

    async def _read(self, sinks: list[Callable[[bytes], Awaitable[None]]]) -> None:
        # of a group none goes on when one fails: whoever reads these descriptors next must be alone with them
        async with asyncio.TaskGroup() as group:
            for fd, sink in zip(self._outputs, sinks):
                group.create_task(pump(fd, sink, self._over))
        await self._over.wait()

    def _close_input(self) -> None:
        """End of input for a pipe; a terminal's end is its hang-up, which comes with ``close``."""
        if self._input >= 0 and not self._made.tty:
            os.close(self._input)
            self._input = -1

    def close(self) -> None:
        self._close_input()
        for fd in self._outputs:
            os.close(fd)
        self._outputs = []
