"""Linux calls that only the runtime needs; those every room needs are in netlib/kernel/syscall.py, and its rules hold here.

``clone3`` is the one with a trap: it forks the interpreter behind libc's back.  It may be called from a
single-threaded process only (a thread that held a lock of malloc's does not exist in the child, which then waits for
ever), and between PyOS_BeforeFork and PyOS_AfterFork with the GIL kept (ctypes.PyDLL), as os.fork does it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from fcntl import ioctl

from ..netlib.kernel import syscall as k

FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6
FSCONFIG_VALUE_MAX = 255
"""Longest string value (fs/fsopen.c copies with strndup_user(..., 256))."""
_FS_CLOEXEC = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOUNT_ATTR_STRICTATIME = 0x20
SECCOMP_SET_MODE_FILTER = 1
PIDFD_GET_INFO = 0xC040FF0B
"""_IOWR(0xFF, 11, struct pidfd_info) with the 64-byte first version of the struct (linux/pidfd.h, 6.13)."""
_PIDFD_INFO_EXIT = 8
"""Mask bit for exit_code, 6.15 and later."""
_PIDFD_INFO = struct.Struct("<QQ11Ii")
TIOCSPTLCK, TIOCGPTPEER, TIOCSCTTY, TIOCSWINSZ, FIONREAD = 0x40045431, 0x5441, 0x540E, 0x5414, 0x541B
_NR_KEYCTL = 250 if os.uname().machine == "x86_64" else 219
_KEYCTL_JOIN_SESSION_KEYRING = 1
SIGCHLD = 17
CLONE_PARENT = 0x8000

_libc = ctypes.CDLL(None, use_errno=True)
_python = ctypes.PyDLL(None, use_errno=True)
_raw_syscall = _python.syscall
_raw_syscall.restype = ctypes.c_long
_tee = _libc.tee
_tee.restype = ctypes.c_ssize_t
_tee.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint]
_SPLICE_F_NONBLOCK = 2


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid",
            "set_tid_size", "cgroup",
        )
    ]  # fmt: skip


_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_child = ctypes.pythonapi.PyOS_AfterFork_Child
_after_fork_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
for _function in (_before_fork, _after_fork_child, _after_fork_parent):
    _function.restype = None
    _function.argtypes = []


def clone3(flags: int, cgroup: int = -1) -> tuple[int, int]:
    """Fork with namespace *flags* into the v2 *cgroup* (a descriptor, or -1): (pid, pidfd), (0, -1) in the child."""
    pidfd = ctypes.c_int(-1)
    signal = 0 if flags & CLONE_PARENT else SIGCHLD  # with CLONE_PARENT it is inherited (clone(2))
    arguments = _CloneArgs(flags=flags | k.CLONE_PIDFD, pidfd=ctypes.addressof(pidfd), exit_signal=signal)
    if cgroup >= 0:
        arguments.flags |= k.CLONE_INTO_CGROUP
        arguments.cgroup = cgroup
    _before_fork()
    result = _raw_syscall(
        ctypes.c_long(k.NR_CLONE3), ctypes.byref(arguments), ctypes.c_size_t(ctypes.sizeof(arguments))
    )
    if result == 0:
        _after_fork_child()
        return 0, -1
    number = ctypes.get_errno()
    _after_fork_parent()
    if result < 0:
        raise OSError(number, os.strerror(number), "clone3")
    return result, pidfd.value


# -- mounts ------------------------------------------------------------------------------------------------------


class FilesystemError(OSError):
    """fsconfig(2) failed; ``strerror`` ends with what the kernel logged about it."""


def _fsconfig(fd: int, command: int, key: str | None, value: str | None, what: str) -> None:
    raw_key = None if key is None else key.encode()
    raw_value = None if value is None else os.fsencode(value)
    try:
        k.syscall(k.NR_FSCONFIG, fd, command, raw_key, raw_value, 0, what=what)
    except OSError as error:
        said: list[str] = []
        try:
            while message := os.read(fd, 4096):
                said.append(message.decode(errors="replace").strip().removeprefix("e "))
        except OSError:
            pass  # ENODATA: the log is empty
        number = error.errno or 0
        raise FilesystemError(number, "; ".join([os.strerror(number), *said]), what) from None


def make_mount(kind: str, options: list[tuple[str, str | None]], attributes: int = 0) -> int:
    """A detached mount of a new filesystem (fsopen, fsconfig, fsmount): a descriptor; it goes with the last one.

    An option with the value None is a flag.
    """
    context = k.syscall(k.NR_FSOPEN, kind.encode(), _FS_CLOEXEC, what=kind)
    try:
        for key, value in options:
            command = FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING
            _fsconfig(context, command, key, value, f"{kind} {key}")
        _fsconfig(context, FSCONFIG_CMD_CREATE, None, None, kind)
        return k.syscall(k.NR_FSMOUNT, context, _FS_CLOEXEC, attributes, what=kind)
    finally:
        os.close(context)


def open_tree(dirfd: int, path: str, *, recursive: bool = False) -> int:
    """A detached copy of the mount that holds *path* ("" is *dirfd* itself), rooted there: a bind mount in the making."""
    flags = k.OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    if recursive:
        flags |= k.AT_RECURSIVE
    if not path:
        flags |= k.AT_EMPTY_PATH
    return k.syscall(k.NR_OPEN_TREE, dirfd, os.fsencode(path), flags, what=path or "open_tree")


def attach_mount(mount: int, target: int) -> None:
    """Put the detached *mount* over the directory or file *target*; both are descriptors (move_mount)."""
    flags = k.MOVE_MOUNT_F_EMPTY_PATH | k.MOVE_MOUNT_T_EMPTY_PATH
    k.syscall(k.NR_MOVE_MOUNT, mount, b"", target, b"", flags, what="move_mount")


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def mount_setattr(mount: int, *, set: int = 0, propagation: int = 0, recursive: bool = False) -> None:
    """Change attributes or propagation of the mount that the descriptor stands on."""
    attributes = _MountAttr(set=set, propagation=propagation)
    flags = k.AT_EMPTY_PATH | (k.AT_RECURSIVE if recursive else 0)
    k.syscall(
        k.NR_MOUNT_SETATTR, mount, b"", flags, ctypes.byref(attributes), ctypes.sizeof(attributes), what="mount_setattr"
    )


# -- privileges --------------------------------------------------------------------------------------------------


class _FilterProgram(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def load_seccomp(program: bytes) -> None:
    """Install a classic BPF program (struct sock_filter, 8 bytes each) for the calling thread (seccomp(2))."""
    buffer = ctypes.create_string_buffer(program, len(program))
    argument = _FilterProgram(len(program) // 8, ctypes.addressof(buffer))
    k.syscall(k.NR_SECCOMP, SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(argument), what="seccomp")


def join_session_keyring() -> None:
    """A new, empty session keyring in place of the inherited one (keyctl(2), KEYCTL_JOIN_SESSION_KEYRING)."""
    k.syscall(_NR_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, None, what="keyctl")


def set_no_new_privileges() -> None:
    k.prctl(k.PR_SET_NO_NEW_PRIVS, 1)


# -- processes ---------------------------------------------------------------------------------------------------


def send_signal(pidfd: int, number: int) -> None:
    """pidfd_send_signal(2)."""
    k.syscall(k.NR_PIDFD_SEND_SIGNAL, pidfd, number, None, 0, what="pidfd_send_signal")


def start_time(pid: int) -> int:
    """Start of *pid* in clock ticks since boot: with the pid, the identity of a process; -1 when there is none."""
    fields = _stat(pid)
    return int(fields[19]) if fields else -1


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the third on (the second, the name, may hold anything); [] without a process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def open_pidfd(pid: int, started: int) -> int:
    """A pidfd of the process *pid* that began at *started*; -1 when that process is gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    if start_time(pid) != started:  # asked after the open: the number can not change hands while we hold it
        os.close(fd)
        return -1
    return fd


def exit_status(pidfd: int, pid: int, started: int) -> int | None:
    """The wait status of an ended process that is not our child; None when the kernel does not tell.

    A zombie shows it in /proc/<pid>/stat (field 52, proc(5)), a reaped process through its pidfd since 6.15.  *started*
    tells it from another process that has its number by now.
    """
    fields = _stat(pid)
    if fields and fields[0] == "Z" and int(fields[19]) == started:
        return int(fields[49])
    info = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, 0, *([0] * 12)))
    try:
        ioctl(pidfd, PIDFD_GET_INFO, info)
    except OSError:
        return None  # ENOTTY: before 6.13; ESRCH: reaped, and a kernel before 6.15
    values = _PIDFD_INFO.unpack(bytes(info))
    return values[-1] if values[0] & _PIDFD_INFO_EXIT else None


def exit_code(status: int) -> int:
    """Docker's number for a wait status: the exit code, or 128 + signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def tee(source: int, target: int, size: int) -> int:
    """Copy up to *size* bytes between two pipes without taking them from *source* (tee(2)); BlockingIOError on none."""
    return k.call(_tee, source, target, size, _SPLICE_F_NONBLOCK, what="tee")


def check_null(fd: int) -> int:
    """*fd* when it is the null device (char 1:3, null(4)); OSError when it is anything else."""
    status = os.fstat(fd)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3):
        raise OSError(errno.ENODEV, "not the null device", "/dev/null")
    return fd


def filesystem_of(fd: int, pid: int) -> str:
    """The type of the filesystem that *fd* is on, a mount of process *pid*'s, "" when it is none; asks no file server."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        mount = next((line.split()[1] for line in file if line.startswith("mnt_id:")), "")
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.split(" ", 1)[0] == mount:
                return line.rpartition(" - ")[2].split(" ", 1)[0]
    return ""


def in_user_namespace() -> bool:
    """Whether this process has only the powers of a user namespace's root (user_namespaces(7))."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() != ["0", "0", "4294967295"]
