"""Starting the forwarder of a run directory, and putting another in its place."""

from __future__ import annotations

import os
import socket
import subprocess

from ...netlib import errors
from ...netlib.control.asker import TIMEOUT
from .. import start
from .client import ForwarderClient

_MODULE = "pynet.proxy.process.forwarder"


def command(run: str, *extra: str) -> list[str]:
    """The command line of the forwarder of *run*."""
    return start.command(_MODULE, "--run", run, *extra)


def spawn(run: str, *extra: str, timeout: float = TIMEOUT, log: str | None = None) -> subprocess.Popen[bytes] | None:
    """Start the forwarder of *run* in a session of its own and wait until it serves.

    None when another one serves already (the lock decides).  Unavailable, with its last words, when none does.
    *log*: a file for its messages; default RUN/forwarder.log.  The caller owns the process object: wait for it one day.
    """
    os.makedirs(run, mode=0o711, exist_ok=True)
    with open(log or os.path.join(run, "forwarder.log"), "ab") as output:
        process, words = start.start_ready(command(run, *extra), timeout, log=output.fileno())
    if words is None:
        return process
    process.kill()
    process.wait()
    client = ForwarderClient(os.path.join(run, "forwarder.sock"))
    try:
        client.ping()
    except errors.Unavailable:
        words = words or "it did not say why"
        raise errors.Unavailable(f"the forwarder of {run} did not start: {words}") from None
    finally:
        client.close()
    return None


def _rehearse(run: str, *extra: str, timeout: float) -> None:
    """Start one beside the one that serves, and end it again: Unavailable, with its last words, when it does not come up."""
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.path.join(run, "forwarder.log"), "ab") as output:
        argv = start.command(_MODULE, "--control-fd", str(theirs.fileno()), *extra)
        process, words = start.start_ready(argv, timeout, fds=[theirs.fileno()], log=output.fileno())
        if words is not None:
            process.kill()
    process.wait()
    if words is not None:
        raise errors.Unavailable(
            f"the forwarder of {run} is not replaced: another one did not start: {words or 'it did not say why'}",
            hint=f"{run}/forwarder.log may say why",
        )


def replace(run: str, *extra: str, drain: float = 60.0, timeout: float = TIMEOUT) -> subprocess.Popen[bytes] | None:
    """Put a new forwarder in the place of the one of *run*; no connection is lost, live ones have *drain* seconds.

    Between the two, clients wait in the queues of the listening sockets.  UDP clients are new to the new one.  Who uses
    ``watch`` or ``metrics`` says so again.  Unavailable when a new one can not be started: the old one goes on then.
    """
    _rehearse(run, *extra, timeout=timeout)
    client = ForwarderClient(os.path.join(run, "forwarder.sock"), timeout)
    try:
        held = client.fetch()
        try:
            client.shutdown(drain)
            process = spawn(run, *extra, timeout=timeout)
            client.listen(held)
        finally:
            for port in held:
                port.close()
    finally:
        client.close()
    return process
