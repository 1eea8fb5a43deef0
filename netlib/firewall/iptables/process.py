"""The two processes that edit legacy iptables (iptables_helper.py), as seen from the back end.

Each is started on first use inside the namespace of the thread that made ``LegacyTables``, started again once when it
is found dead or silent, and ended with its socket.  Not thread-safe: the back end has the lock.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from ...errors import NotSupported, Unavailable
from ...ipc import Channel, Message, ProtocolError
from ...kernel.netns import NetnsThread, open_netns
from .helper import legacy_program
from .render import Dump, Rule

ANSWER_TIMEOUT = 60.0
"""Seconds; more than the helper waits for the xtables lock."""


class IptablesError(OSError):
    """A change that iptables refused."""


@dataclass
class _Process:
    popen: subprocess.Popen[bytes]
    channel: Channel

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
        raise NotSupported("python-iptables is not installed", hint="pip install 'pynet[iptables]'")
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
        for last in (False, True):
            process = self._processes.get(version) or self._start(version)
            try:
                process.channel.send(message)
                frame = process.channel.receive()
            except (OSError, ProtocolError):
                frame = None
            if frame is not None:
                break
            process.popen.kill()
            process.end()
            del self._processes[version]
            if last:
                raise Unavailable("the process that edits iptables died twice", hint="see its last words on stderr")
        else:  # pragma: no cover (the loop breaks or raises)
            raise AssertionError
        answer = frame[0]
        if "error" in answer:
            number = int(answer.get("errno") or errno.EINVAL)
            if number == errno.EOPNOTSUPP:
                raise NotSupported(
                    f"legacy iptables do not work here: {answer['error']}",
                    hint="the kernel needs ip_tables with its nat, filter and raw tables; or use nftables",
                )
            raise IptablesError(number, f"iptables: {answer['error']}")
        return answer

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
