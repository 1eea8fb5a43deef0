"""A process that edits the legacy iptables of one family, for the iptables back end and for nobody else.

python-iptables needs a process of its own: it crashes when several threads use it, mixes up IPv4 and IPv6 NAT when
both are used in one process, and its tables belong to the network namespace in which they were first opened.  So
there is one of these a family, single-threaded, started in the right namespace, and started again when it dies::

    python -I -m pynet.netlib.firewall.iptables.helper --family 4 --fd 3 [--lock PATH]

It answers frames (netlib/ipc.py) on the inherited socket, one after the other, and ends with it::

    {"op": "apply", "require": [rule...], "delete": [rule...], "add": [rule...]}   python-iptables, one commit a table
    {"op": "restore", "text": str}                                   iptables-restore --noflush: a commit a table, for
    bulk {"op": "save"}                                -> {"text": str}   tables that exist; none is made by looking
    any other answer: {} or {"error": str, "errno": int}

Rules are ipt_render.Rule as a JSON object.  Legacy tables are read, changed and written back as a whole, so whoever
changes them holds ``flock`` on xtables.lock (iptables(8)); python-iptables does not, we do.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from ...ipc import Channel, Message, ProtocolError
from .programs import legacy_program

LOCK = "/run/xtables.lock"
LOCK_TIMEOUT = 10.0
"""Seconds to wait for others to finish."""
_NO_LOCK_FILE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR)

_FAILED = re.compile(r"line:? (\d+)")
"""'line 3 failed'; and of what it can not even parse, a target chain that is not there, 'Error occurred at line: 3'."""
_GONE = ("No chain/target/match", "Bad rule", "does not exist")
"""What iptables-restore and libiptc say when a rule or chain is not there."""


def _import_iptc() -> Any:
    """python-iptables, spared two detours that make 320 of the 360 ms of its import.

    It looks for its own C part with the help of gcc, unless told where libraries are, and asks distutils (on new
    Pythons: setuptools) for one path that sysconfig tells it just as well.
    """
    found = importlib.util.find_spec("iptc")
    told = os.environ.get("IPTABLES_LIBDIR")
    if told is None and found is not None and found.origin is not None:
        os.environ["IPTABLES_LIBDIR"] = os.path.dirname(os.path.dirname(found.origin))
    sys.modules.setdefault("distutils", None)  # type: ignore[arg-type]
    try:
        import iptc  # pyright: ignore[reportMissingImports]  (an extra)
    finally:
        if told is None:  # libxtables would look for its extensions there
            os.environ.pop("IPTABLES_LIBDIR", None)
    return iptc


class Refused(Exception):
    """What can not be done, with an errno."""

    def __init__(self, text: str, number: int = errno.EINVAL) -> None:
        super().__init__(text)
        self.errno = number


class Legacy:
    """The tables of one family."""

    def __init__(self, family: int, lock: str) -> None:
        self._family = family
        self._stem = "ip6" if family == 6 else "ip"
        try:
            self._lock = os.open(lock, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600)
            self._lock_path = lock
        except OSError as error:
            if error.errno not in _NO_LOCK_FILE:
                raise
            # In a user namespace /run is not ours to write: nobody else can change these tables either, but for
            # iptables-restore, which needs a file to lock.
            self._lock = os.memfd_create("xtables.lock")
            self._lock_path = f"/proc/self/fd/{self._lock}"

    @contextmanager
    def _locked(self) -> Generator[None]:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Refused(f"another program holds {self._lock_path}", errno.EAGAIN) from None
                time.sleep(0.01)  # flock(2) has no time limit of its own
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    # -- python-iptables ----------------------------------------------------------------------------------------

    def apply(self, message: Message) -> Message:
        iptc = _import_iptc()
        kind = iptc.Table6 if self._family == 6 else iptc.Table
        tables: dict[str, Any] = {}

        def chain(body: dict[str, Any]) -> Any:
            name = body["table"]
            if name not in tables:
                try:
                    table = kind(name)
                    table.autocommit = False
                    table.refresh()
                except iptc.IPTCError as error:
                    raise Refused(f"table {name}: {error}", errno.EOPNOTSUPP) from error
                tables[name] = table
            found = iptc.Chain(tables[name], body["chain"])
            if not tables[name].is_chain(found):
                raise Refused(f"chain {body['chain']} is not there", errno.ENOENT)
            return found

        with self._locked():
            try:
                for body in message.get("require", ()):
                    if self._rule(iptc, body) not in chain(body).rules:
                        raise Refused(f"a rule in {body['chain']} is not there", errno.ENOENT)
                for body in message.get("delete", ()):
                    self._edit(iptc, chain(body).delete_rule, body)
                for body in message.get("add", ()):
                    target = chain(body)
                    self._edit(iptc, target.insert_rule if body["first"] else target.append_rule, body)
                for name in sorted(tables, key=("raw", "nat", "filter").index):
                    tables[name].commit()
            except iptc.IPTCError as error:
                raise Refused(str(error)) from error
            finally:
                # forget what was not committed, or the next change would carry it in
                for table in tables.values():
                    table.refresh()
        return {}

    def _edit(self, iptc: Any, verb: Any, body: dict[str, Any]) -> None:
        try:
            verb(self._rule(iptc, body))
        except iptc.IPTCError as error:
            text = str(error)
            number = errno.ENOENT if any(gone in text for gone in _GONE) else errno.EINVAL
            raise Refused(f"{body['chain']}: {text}", number) from error

    def _rule(self, iptc: Any, body: dict[str, Any]) -> Any:
        """The rule with its matches in the order in which iptables-restore has them, or neither finds the other's."""
        rule = iptc.Rule6() if self._family == 6 else iptc.Rule()
        for attribute, key in (("src", "src"), ("dst", "dst"), ("in_interface", "iface"), ("out_interface", "out")):
            if body[key]:
                setattr(rule, attribute, body[key])
        if body["proto"]:
            rule.protocol = body["proto"]
        if body["dport"]:
            rule.create_match(body["proto"]).dport = str(body["dport"])
        for match, option, key in (
            ("conntrack", "ctstate", "ctstate"),
            ("addrtype", "dst_type", "dst_type"),
            ("comment", "comment", "comment"),
        ):
            if body[key]:
                setattr(rule.create_match(match), option, body[key])
        try:
            target = rule.create_target(body["target"])
        except iptc.XTablesError as error:  # a chain that is not there is looked for among the extensions
            raise Refused(str(error), errno.ENOENT) from error
        if body["to"]:
            setattr(target, "to_destination" if body["target"] == "DNAT" else "to_source", body["to"])
        return rule

    # -- iptables-restore, iptables-save ------------------------------------------------------------------------

    def restore(self, message: Message) -> Message:
        self._run("restore", ["--noflush", "--wait", str(int(LOCK_TIMEOUT))], str(message["text"]))
        return {}

    def save(self, message: Message) -> Message:
        try:
            with open(f"/proc/self/net/{self._stem}_tables_names") as names:
                tables = [name for name in names.read().split() if name in {"raw", "nat", "filter"}]
        except FileNotFoundError:
            tables = []
        return {"text": "".join(self._run("save", ["-t", table]) for table in tables)}

    def _run(self, verb: str, arguments: list[str], text: str | None = None) -> str:
        program = legacy_program(self._family, verb)
        if program is None:
            raise Refused(f"{self._stem}tables-legacy-{verb} is not installed", errno.EOPNOTSUPP)
        done = subprocess.run(
            [program, *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            pass_fds=[self._lock],
            env={**os.environ, "XTABLES_LOCKFILE": self._lock_path, "LC_ALL": "C"},
        )
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if line.strip()), f"status {done.returncode}")
            gone = any(text in done.stderr for text in _GONE) or _looked_in_vain(text or "", done.stderr)
            raise Refused(f"{os.path.basename(program)}: {reason}", errno.ENOENT if gone else errno.EINVAL)
        return done.stdout


def _looked_in_vain(text: str, errors: str) -> bool:
    """Whether the line that iptables-restore failed at deletes a rule or checks for one: it says no more than its number."""
    failed = _FAILED.search(errors)
    if failed is None:
        return False
    lines = text.splitlines()[int(failed[1]) - 1 :]
    return bool(lines) and lines[0].startswith(("-C ", "-D "))


def serve(channel: Channel, legacy: Legacy) -> None:
    """Answer until the other end closes."""
    verbs = {"apply": legacy.apply, "restore": legacy.restore, "save": legacy.save}
    while True:
        try:
            frame = channel.receive()
        except (ProtocolError, OSError):
            return
        if frame is None:
            return
        message, fds = frame
        for fd in fds:
            os.close(fd)
        verb = verbs.get(str(message.get("op")))
        try:
            answer = {"error": "unknown op", "errno": errno.EINVAL} if verb is None else verb(message)
        except Refused as error:
            answer = {"error": str(error), "errno": error.errno}
        except Exception as error:
            # python-iptables raises whatever comes; the back end must hear of it
            number = getattr(error, "errno", None) or errno.EINVAL
            answer = {"error": f"{type(error).__name__}: {error}", "errno": number}
        channel.send(answer)


def main() -> None:
    parser = argparse.ArgumentParser(prog="pynet-iptables")
    parser.add_argument("--family", type=int, choices=(4, 6), required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--lock", default=os.environ.get("XTABLES_LOCKFILE") or LOCK)
    options = parser.parse_args()
    os.set_inheritable(options.fd, False)
    channel = Channel(socket.socket(fileno=options.fd))
    serve(channel, Legacy(options.family, options.lock))
    channel.close()


if __name__ == "__main__":
    main()
