"""Linux calls that Python 3.11 does not offer, through ctypes; shared by every room that acts on the kernel.

Rules: one function a call, the man page's name, OSError with errno on failure, file descriptors are close-on-exec; a call
that a signal interrupted is made again (``call``), as Python's own are (PEP 475).
Nothing here decides anything.  Imports little, and nothing late: the supervisor's children rely on that.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]

# asm-generic numbers (shared by all architectures since 5.1), then those that differ
NR_OPEN_TREE, NR_MOVE_MOUNT, NR_FSOPEN, NR_FSCONFIG, NR_FSMOUNT = 428, 429, 430, 431, 432
NR_PIDFD_OPEN, NR_CLONE3, NR_CLOSE_RANGE, NR_OPENAT2, NR_PIDFD_GETFD, NR_MOUNT_SETATTR = 434, 435, 436, 437, 438, 442
NR_PIDFD_SEND_SIGNAL = 424
_X86_64 = os.uname().machine == "x86_64"
NR_PIVOT_ROOT = 155 if _X86_64 else 41
NR_SECCOMP = 317 if _X86_64 else 277
NR_CAPGET, NR_CAPSET = (125, 126) if _X86_64 else (90, 91)

# mount(2)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = 1, 2, 4, 8, 32, 4096, 8192, 16384
MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_RELATIME, MS_STRICTATIME = 1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 24
MNT_DETACH = 2
# clone(2), setns(2), unshare(2)
CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_PIDFD, CLONE_INTO_CGROUP = 0x1000, 0x200000000
# openat2(2)
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 1, 2, 4, 8, 16
RESOLVE_CACHED = 32
# open_tree(2), move_mount(2), mount_setattr(2)
OPEN_TREE_CLONE, AT_RECURSIVE, AT_EMPTY_PATH, AT_FDCWD = 1, 0x8000, 0x1000, -100
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 4, 0x40
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
# prctl(2)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NAME, PR_CAPBSET_DROP = 1, 4, 8, 15, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47

# inotify(7)
IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE = 0x2, 0x4, 0x8, 0x40, 0x80, 0x100
IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF, IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR = (
    0x200,
    0x400,
    0x800,
    0x4000,
    0x8000,
    1 << 24,
)
IN_CLOEXEC, IN_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK


def check(result: int, what: str = "") -> int:
    """Return *result*, or raise OSError(errno, text, *what*) when it is -1."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def call(function: Callable[..., int], *arguments: object, what: str = "") -> int:
    """A function of the C library's, made again while a signal interrupts it (EINTR, signal(7)); OSError otherwise."""
    while (result := function(*arguments)) == -1 and ctypes.get_errno() == errno.EINTR:
        pass  # Python's handlers have run by now
    return check(result, what)


def _bytes(text: str | bytes | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def syscall(number: int, *arguments: object, what: str = "") -> int:
    """syscall(2).  Integers are passed as C longs unless wrapped by ctypes."""
    wrapped = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return call(_syscall, ctypes.c_long(number), *wrapped, what=what)


def setns(fd: int, kind: int = 0) -> None:
    call(_libc.setns, fd, kind, what="setns")


def unshare(flags: int) -> None:
    call(_libc.unshare, flags, what="unshare")


def mount(source: str | None, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    call(_libc.mount, _bytes(source), _bytes(target), _bytes(kind), ctypes.c_ulong(flags), _bytes(data), what=target)


def umount2(target: str, flags: int = 0) -> None:
    call(_libc.umount2, _bytes(target), flags, what=target)


def prctl(option: int, *arguments: int) -> int:
    return call(_prctl, option, *arguments, *(0,) * (4 - len(arguments)), what="prctl")


_CAPABILITY_VERSION_3 = 0x20080522


def capget() -> tuple[int, int, int]:
    """capget(2) of the calling thread: masks of what is effective, permitted and inheritable."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    syscall(NR_CAPGET, ctypes.byref(header), ctypes.byref(data), what="capget")
    return data[0] | data[3] << 32, data[1] | data[4] << 32, data[2] | data[5] << 32


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) for the calling thread; each argument is a mask."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low = 0xFFFFFFFF
    data = (ctypes.c_uint32 * 6)(
        effective & low, permitted & low, inheritable & low, effective >> 32, permitted >> 32, inheritable >> 32
    )
    syscall(NR_CAPSET, ctypes.byref(header), ctypes.byref(data), what="capset")


def pivot_root(new: str, old: str) -> None:
    syscall(NR_PIVOT_ROOT, _bytes(new), _bytes(old), what="pivot_root")


def sethostname(name: str) -> None:
    raw = os.fsencode(name)
    call(_libc.sethostname, raw, len(raw), what="sethostname")


def inotify_init1(flags: int) -> int:
    return call(_libc.inotify_init1, flags, what="inotify_init1")


def inotify_add_watch(fd: int, path: str | bytes, mask: int) -> int:
    return call(_libc.inotify_add_watch, fd, _bytes(path), ctypes.c_uint32(mask), what=os.fsdecode(path))


def inotify_rm_watch(fd: int, watch: int) -> None:
    call(_libc.inotify_rm_watch, fd, watch, what="inotify_rm_watch")


def close_range(first: int, last: int, flags: int = 0) -> None:
    """close_range(2); flags 4 is CLOSE_RANGE_CLOEXEC."""
    syscall(NR_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(flags), what="close_range")


_OPENAT2_TRIES = 128
"""EAGAIN says that somebody on this machine mounted or renamed something while ``..`` was followed: ask again, as often as
runc does (openat2(2); libcontainer/utils)."""


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def openat2(
    dirfd: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
) -> int:
    """openat2(2): open *path* below *dirfd*, which is the root for every link and ``..`` met on the way."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    for tries_left in range(_OPENAT2_TRIES, 0, -1):
        try:
            return syscall(
                NR_OPENAT2, dirfd, _bytes(path), ctypes.byref(how), ctypes.sizeof(how), what=os.fsdecode(path)
            )
        except BlockingIOError:
            if tries_left == 1:
                raise
    raise AssertionError("not reached")
