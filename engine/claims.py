"""What a pynetd has to itself before it is one: the lock of its run directory, the socket, and a root whose store is not lost."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import Any

from ..netlib.errors import InternalError, InvalidArgument, RootBusy, Unavailable
from .container.record import RUNNING

SOCKET_GROUPS = ("pynet", "docker")
"""The first of these groups that exists may use the socket."""
SUN_PATH_MAX = 107
"""unix(7): 108 bytes with the final NUL."""


def take_lock(run: Path, *, again: bool = False) -> int:
    """The lock, with our process id in its file; RootBusy while another pynetd has it.

    An orderly end leaves the file empty (``leave_lock``), a kill does not.  Both that watch start a dead one *again*: when the
    one that won is ended in order before the other has got here, that one must not take its place (Unavailable).
    """
    fd = os.open(run / "pynetd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
        os.close(fd)
        raise RootBusy(str(run), f"process {holder}" if holder else "") from None
    if again and not os.fstat(fd).st_size:
        os.close(fd)
        raise Unavailable("pynetd was ended while it was being started again", hint="`pynet daemon start` starts it")
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    (run / "pynetd.pid").write_text(f"{os.getpid()}\n")
    return fd


def leave_lock(fd: int) -> None:
    """At an orderly end."""
    os.ftruncate(fd, 0)
    os.close(fd)


def socket_path(host: str | None, run: Path) -> str:
    if not host:
        path = str(run / "pynet.sock")
    elif host.startswith("unix://"):
        path = host.removeprefix("unix://")
    else:
        raise InvalidArgument(f"can not listen on {host}: only unix:// sockets are served")
    if len(os.fsencode(path)) > SUN_PATH_MAX:
        raise InvalidArgument(
            f"the socket's path is longer than {SUN_PATH_MAX} bytes: {path}", hint="choose a shorter --run or --host"
        )
    return path


def bind(path: str) -> socket.socket:
    """Listen at *path* for the owner and the socket's group.  The lock says that what stands there is stale."""
    import grp

    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        Path(path).unlink(missing_ok=True)
        old = os.umask(0o117)
        try:
            sock.bind(path)
        finally:
            os.umask(old)
        for name in SOCKET_GROUPS:
            try:
                os.chown(path, -1, grp.getgrnam(name).gr_gid)
            except KeyError:
                continue
            except OSError as error:
                # an ordinary user's engine is that user's alone; EINVAL: the group is not in our user namespace
                if error.errno not in (errno.EPERM, errno.EINVAL):
                    raise
            break
        sock.listen(1024)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        text = os.strerror(error.errno or errno.EIO)
        raise InternalError(f"can not listen on {path}: {text}") from error
    except BaseException:
        sock.close()
        raise
    return sock


def is_new(root: Path) -> bool:
    """Whether there is no store yet, or nothing in it."""
    try:
        return (root / "pynet.db").stat().st_size == 0
    except FileNotFoundError:
        return True


def refuse_orphans(root: Path, supervised: list[dict[str, Any]]) -> None:
    """Without a store every container is a stranger, which would be ended and thrown away: so it must not be lost already."""
    running = sum(state["status"] in RUNNING for state in supervised)
    try:
        made = len(os.listdir(root / "containers"))
    except FileNotFoundError:
        made = 0
    if running or made:
        raise InternalError(
            f"the store {root}/pynet.db is gone, but {made} containers are there and {running} run",
            hint=f"put it back from a copy; to begin anew, end what runs and move {root}/containers away",
        )
