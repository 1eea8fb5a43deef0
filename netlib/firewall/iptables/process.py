"""The two processes that edit legacy iptables (helper.py), as seen from the back end.

Each is started on first use inside the namespace of the thread that made ``LegacyTables``, started again when it
is found dead or silent, and ended with its socket.  Not thread-safe: the back end has the lock.

A request that the process can not have read is sent again to the next one, and so is a ``save``, which changes nothing.
Any other that stays without an answer may have been carried out or not: that is ``Unanswered``, and who asked has to look.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from ...errors import NotSupported, Unavailable
from ...ipc import Channel, Message, ProtocolError
from ...kernel.netns import NetnsThread, open_netns
from .programs import legacy_program
from .render import Dump, Rule

ANSWER_TIMEOUT = 60.0
"""Seconds; more than the helper waits for the xtables lock."""


class IptablesError(OSError):
    """A change that iptables refused."""


class Unanswered(Unavailable):
    """The process ended, or said nothing for ANSWER_TIMEOUT, while it had a change in hand."""


@dataclass
class _Process:
    popen: subprocess.Popen[bytes]
    channel: Channel

    def kill(self) -> None:
        """With the program that it may be waiting for: a later commit of that one would come as a surprise."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.end()

    def end(self) -> None:
        self.channel.close()
        try:
            self.popen.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


def check_installed() -> None:
    """NotSupported unless python-iptables, the legacy programs and the kernel's tables are there.  Nothing is changed."""
    found = importlib.util.find_spec("iptc")
    if found is None or found.origin is None:  # or an empty directory of that name
        raise NotSupported("python-iptables is not installed", hint="pip install 'pynet-containers[iptables]'")
    for verb in ("restore", "save"):
        if legacy_program(4, verb) is None:
            raise NotSupported(f"iptables-legacy-{verb} is not installed", hint="install iptables")


class LegacyTables:
    """Legacy iptables of both families in one network namespace."""

    def __init__(self, lock: str = "") -> None:
        self._lock = lock
        self._netns = open_netns("/proc/thread-self/ns/net")
        self._processes: dict[int, _Process] = {}

    def close(self) -> None:
        """End the processes; twice is fine."""
        for process in self._processes.values():
            process.end()
        self._processes.clear()
        if self._netns >= 0:
            os.close(self._netns)
            self._netns = -1

    def running(self, version: int) -> bool:
        """Whether the process of this family has been needed yet."""
        return version in self._processes

    def save(self, version: int) -> Dump:
        return Dump(str(self._ask(version, {"op": "save"})["text"]))

    def restore(self, version: int, text: str) -> None:
        if text:
            self._ask(version, {"op": "restore", "text": text})

    def apply(
        self, version: int, *, add: Iterable[Rule] = (), delete: Iterable[Rule] = (), require: Iterable[Rule] = ()
    ) -> None:
        """Change single rules; FileNotFoundError-like ENOENT if a rule or chain that must be there is not."""
        message: Message = {
            "op": "apply",
            "require": [rule.body() for rule in require],
            "delete": [rule.body() for rule in delete],
            "add": [rule.body() for rule in add],
        }
        if message["add"] or message["delete"]:
            self._ask(version, message)

    def _ask(self, version: int, message: Message) -> Message:
        answer = self._exchange(version, message)
        if answer is None:
            answer = self._exchange(version, message)
        if answer is None:
            raise Unavailable("the process that edits iptables died twice", hint="see its last words on stderr")
        if "error" in answer:
            number = int(answer.get("errno") or errno.EINVAL)
            if number == errno.EOPNOTSUPP:
                raise NotSupported(
                    f"legacy iptables do not work here: {answer['error']}",
                    hint="the kernel needs ip_tables with its nat, filter and raw tables; or use nftables",
                )
            raise IptablesError(number, f"iptables: {answer['error']}")
        return answer

    def _exchange(self, version: int, message: Message) -> Message | None:
        """The answer; None, and no process, if there is none and the request may be sent again."""
        process = self._processes.get(version) or self._start(version)
        sent = False
        try:
            process.channel.send(message)
            sent = True
            frame = process.channel.receive()
        except (OSError, ProtocolError):
            frame = None
        if frame is not None:
            return frame[0]
        process.kill()
        del self._processes[version]
        if sent and message["op"] != "save":
            raise Unanswered(
                "the process that edits iptables ended in the middle of a change", hint="see its last words on stderr"
            )
        return None

    def _start(self, version: int) -> _Process:
        if self._netns < 0:
            raise OSError(errno.EBADF, "this iptables back end is closed")
        ours, theirs = socket.socketpair()
        with ours, theirs, NetnsThread() as thread:
            command = [
                *(sys.executable, "-I", "-m", "pynet.netlib.firewall.iptables.helper"),
                *("--family", str(version), "--fd", str(theirs.fileno())),
                *(("--lock", self._lock) if self._lock else ()),
            ]
            # a child is born into the namespace of the thread that starts it
            popen = thread.call(
                self._netns,
                lambda: subprocess.Popen(
                    command,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # a ^C at our terminal must not end it in the middle of a change
                ),
            )
            kept = socket.socket(fileno=ours.detach())
        kept.settimeout(ANSWER_TIMEOUT)
        process = self._processes[version] = _Process(popen, Channel(kept))
        return process
