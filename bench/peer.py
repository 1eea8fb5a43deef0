"""What is measured, by one interface: a container engine in a bed of its own."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Self

from bed import Bed, CommandFailed, Process, Result


class Peer:
    """An engine: its command, its daemon, its processes.  Use as a context manager."""

    name = ""

    def __init__(self) -> None:
        self.bed = Bed(self.name)

    # -- what an engine says about itself ------------------------------------------------------------------------

    def command(self) -> list[str]:
        """The words that every command begins with."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def start(self) -> None:
        """Start the daemon, wait until it serves, make the image ``busybox``."""
        raise NotImplementedError

    def owns(self, process: Process) -> bool:
        """Whether a process of the bed is the engine's own (neither a container's nor the benchmark's)."""
        raise NotImplementedError

    def idle(self, process: Process) -> bool:
        """Whether it is there without any container."""
        raise NotImplementedError

    # -- the same for all ----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.bed.__enter__()
        try:
            self.start()
        except BaseException:
            self.show_log()
            self.bed.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.show_log()
        self.bed.__exit__(kind, error, trace)

    def show_log(self) -> None:
        try:
            with open(f"{self.bed.path}/log", errors="replace") as log:
                print(f"-- the end of {self.name}'s log", *log.readlines()[-15:], sep="\n", flush=True)
        except OSError:
            pass

    def run(self, *args: str, check: bool = True, timeout: float = 300) -> Result:
        return self.bed.run(*self.command(), *args, env=self.environment(), check=check, timeout=timeout)

    def wait_until(self, *args: str, seconds: float = 60) -> None:
        """Repeat a command until it succeeds."""
        end = time.monotonic() + seconds
        while True:
            result = self.run(*args, check=False)
            if not result.code:
                return
            if time.monotonic() > end:
                raise CommandFailed(f"{self.name} does not answer after {seconds} s: {result.err.strip()}")
            time.sleep(0.05)

    def memory(self, *, idle: bool = False) -> float:
        """MiB of PSS of the engine's own processes."""
        chosen = self.idle if idle else self.owns
        return sum(process.pss for process in self.bed.processes() if chosen(process)) / 1024

    def remove_all(self) -> None:
        ids = self.run("ps", "-aq").out.split()
        if ids:
            self.run("rm", "-f", *ids, timeout=600)


def is_program(process: Process, *names: str) -> bool:
    words = process.command.split()
    return bool(words) and os.path.basename(words[0]) in names
