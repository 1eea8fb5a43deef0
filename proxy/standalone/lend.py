"""Lending a socket to the forwarder that all pynet-proxy processes of a network namespace share.

    connect --- nobody there ---> start one (its lock decides), again
       `--- {"op": "lend", ...} + socket ---> {"ok": true}: served until the connection ends

What a process costs in this state is paid a thousand times by dockerd, one after the other, before a container with as
many ports runs; so nothing is imported that is not needed: no socket, json, argparse, subprocess or typing.  The frame
is that of netlib/ipc.py.

The run directory is PYNET_PROXY_RUN, or /run/pynet-proxy for root, or pynet-proxy in XDG_RUNTIME_DIR; below it is one
directory for each network namespace, since a forwarder dials from where it lives.  A namespace's number can not be
used again while a forwarder lives in it.
"""

from __future__ import annotations

import _socket
import os
import sys
import time

from ...netlib import errors

LINGER = 3.0
"""Seconds that a forwarder without a port waits for the next."""
_START = 12.0
"""Seconds until a start counts as failed: dockerd gives a proxy 16."""
_CRASHED = "it ended without a word"
_ANSWER = 10
"""Seconds until an answer counts as missing."""


def run_directory() -> str:
    """The run directory of this network namespace, which exists now and belongs to this user."""
    top = os.environ.get("PYNET_PROXY_RUN")
    if not top:
        top = "/run/pynet-proxy" if os.geteuid() == 0 else f"{os.environ.get('XDG_RUNTIME_DIR', '')}/pynet-proxy"
    run = f"{top}/{os.stat('/proc/self/ns/net').st_ino}"
    try:
        os.makedirs(run, mode=0o700, exist_ok=True)
        owner = os.stat(run).st_uid
    except OSError as error:
        raise errors.NotSupported(
            f"the run directory {run} can not be used: {error.strerror}", hint="name another with PYNET_PROXY_RUN"
        ) from error
    if owner != os.geteuid():
        raise errors.Forbidden(f"the run directory {run} belongs to user {owner}", hint="name another")
    return run


def _literal(text: str) -> str:
    """*text* in a JSON string, which needs no escapes when it is what it should be."""
    if not text.isascii() or not text.isprintable() or '"' in text or "\\" in text:
        raise errors.InvalidArgument(f"{text[:80]!r} is not an IP address")
    return text


def _request(connection: _socket.socket, payload: bytes, fd: int) -> bytes:
    """One frame with a descriptor out, one without back; b"" when the other end has gone."""
    frame = len(payload).to_bytes(4, "big") + (1).to_bytes(4, "big") + payload
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
    if connection.sendmsg([frame], rights) != len(frame):
        return b""
    data, wanted = b"", 8
    while len(data) < wanted:
        more = connection.recv(65536)
        if not more:
            return b""
        data += more
        if len(data) >= 8:
            wanted = 8 + int.from_bytes(data[:4], "big")
    return data[8:wanted]


def lend(run: str, proto: str, name: str, *, target: tuple[str, int], fd: int, drain: float) -> int:
    """Have the bound socket *fd* served.  The connection's descriptor: the port is withdrawn when it ends."""
    payload = (
        f'{{"op":"lend","ports":[{{"id":"{_literal(name)}","proto":"{_literal(proto)}",'
        f'"target":["{_literal(target[0])}",{target[1]}],"drain":{drain}}}]}}'
    ).encode()
    end, crashes = time.monotonic() + _START, 0
    while True:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        # not settimeout: the descriptor goes on to a program that reads and must wait
        connection.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, _ANSWER.to_bytes(8, sys.byteorder) + bytes(8))
        try:
            connection.connect(f"{run}/forwarder.sock")
            answer = _request(connection, payload, fd)
        except BlockingIOError as error:
            raise errors.Unavailable(f"the forwarder of {run} does not answer") from error
        except (ConnectionError, FileNotFoundError):
            answer = b""
        if answer:
            break
        connection.close()
        words = start(run)
        crashes += words == _CRASHED
        if time.monotonic() > end or crashes > 1:
            raise errors.Unavailable(f"the forwarder of {run} did not start: {words}", hint=f"see {run}/forwarder.log")
        if words:
            time.sleep(0.02)  # another one is starting, or ending: its lock says so, and nothing tells us when
    if not answer.startswith(b'{"ok":true'):
        raise _refusal(answer)
    return connection.detach()


def _refusal(answer: bytes) -> errors.PynetError:
    import json

    said = json.loads(answer)
    kind = {"InvalidArgument": errors.InvalidArgument}.get(str(said.get("class")), errors.InternalError)
    return kind(str(said.get("error")), hint=str(said.get("hint") or ""))


def start(run: str) -> str:
    """Start the forwarder of *run* as a child of nobody; when it serves, "", else why it does not."""
    from .. import start as starting
    from . import sleeper

    sleeper.install(run)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        # a child of this one, which ends now: not of the process that becomes a sleeper and waits for nothing
        try:
            log = os.open(f"{run}/forwarder.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            words = starting.command("pynet.proxy.standalone.shared", "--run", run, "--ready-fd", str(write))
            starting.start(words, [write], log=log)
            os._exit(0)
        finally:
            os._exit(127)
    os.close(write)
    os.waitpid(child, 0)
    said = b""
    with os.fdopen(read, "rb") as ready:
        said = ready.read()  # it ends when the process says so or dies
    return "" if said.startswith(b"0\n") else said.partition(b"\n")[2].decode(errors="replace").strip() or _CRASHED
