"""What happens in a container's first process, and in one that joins a container, between clone3 and execve.

    stdio in place, all else closed -> (gate) -> into the container (enter.py) -> user -> rlimits -> cwd
    -> seccomp, capabilities -> signals -> execve

Rules of this room, each of which has been broken by some runtime and has a CVE or a deadlock to show for it:

* Nothing is imported once the child exists: after pivot_root modules would come from the image.
* No traceback, no print: the child's only voice is the error pipe, "code NUL step NUL text", and its silence at
  execve (the pipe is close-on-exec) says that the program runs.
* The process is not dumpable (the supervisor is not, and it is inherited): nobody in the container's pid namespace
  can reach our memory or /proc/<pid>/exe (CVE-2019-5736).
* The first thing that the child does is to let go of every descriptor that is not on its list (order.py), the
  supervisor's own 0, 1 and 2 among them; once it is in the container it has stdio and the error pipe and no more.  Only
  then is a path of the container followed, always with openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS) below a
  descriptor of its root: no /proc/self/fd/N leads out (CVE-2024-21626).  What it needs of the host, the null device
  too, comes as a descriptor.
* The seccomp filter is loaded before the capabilities that its loading needs are dropped, and last when
  no_new_privs is set (seccomp(2)): then it need not allow what the steps before it do.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
from typing import NoReturn

from ...netlib.kernel import syscall as k
from .. import linux
from ..grammar.environment import DEFAULT_PATH
from . import enter, program, users
from .order import Join, Launch, Process

_FILE_LIMIT = 4 << 20
"""Most bytes read of the container's passwd and group files."""
_ALL_CAPABILITIES = 64
_SIGNALS = sorted(
    {n for n in signal.valid_signals() if signal.getsignal(n) not in (signal.SIG_DFL, None)} | {signal.SIGCHLD}
)
"""What is not as a program expects it: CPython ignores SIGPIPE and SIGXFSZ, whoever started the supervisor may have ignored
more (nohup(1)), and both survive execve; the supervisor's loop handles SIGCHLD."""


def run(process: Launch | Join, errors: int, gate: int) -> NoReturn:
    """The child's life: either execve, or a message to *errors* and the end.  It begins with a byte from *gate*."""
    step = ["start"]
    try:
        _wire_stdio(process)
        _hold_only(errors, gate, *process.descriptors())
        if not os.read(gate, 1):
            os._exit(program.CANNOT_START)  # the supervisor died before it had put us on record
        if isinstance(process, Launch):
            os.ftruncate(process.begun, 1)
            os.close(process.begun)
            enter.new(process, step)
        else:
            enter.running(process, step)
        _become(process, errors, step)
    except program.ExecError as error:
        _fail(errors, error.code, step[0], str(error))
    except OSError as error:
        what = f" {error.filename}" if error.filename is not None else ""
        _fail(errors, program.CANNOT_START, step[0], f"{step[0]}{what}: {error.strerror}")
    except ValueError as error:
        _fail(errors, program.CANNOT_START, step[0], str(error))
    except BaseException as error:
        _fail(errors, program.CANNOT_START, step[0], f"{step[0]}: {type(error).__name__}: {error}")


def _fail(errors: int, code: int, step: str, text: str) -> NoReturn:
    try:
        os.write(errors, f"{code}\0{step}\0{text}".encode(errors="replace")[:4000])
    finally:
        os._exit(code)


def _hold_only(*kept: int) -> None:
    """Close every descriptor but 0, 1, 2 and *kept* (-1 is none)."""
    first = 3
    for fd in sorted({fd for fd in kept if fd >= first}):
        if fd > first:
            k.close_range(first, fd - 1)
        first = fd + 1
    k.close_range(first, 0xFFFFFFFF)


def _wire_stdio(process: Process) -> None:
    sources = [process.null if fd == -1 else fd for fd in process.stdio]
    # out of the way first: a source may be one of 0, 1, 2 itself
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in sources]
    for number, fd in enumerate(moved):
        os.dup2(fd, number)


def _read_file(root: int, path: str) -> str:
    """A file of the container, "" when it is missing or not a plain file (a FIFO would block for ever)."""
    try:
        fd = k.openat2(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        data = b""
        while len(data) < _FILE_LIMIT and (piece := os.read(fd, 65536)):
            data += piece
        return data.decode(errors="replace")
    finally:
        os.close(fd)


def _identify(process: Process) -> users.Identity:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        passwd, group = _read_file(root, "etc/passwd"), _read_file(root, "etc/group")
    finally:
        os.close(root)
    return users.identify(process.user, process.groups, passwd, group)


def _own_stdio(process: Process, uid: int) -> None:
    for number, source in enumerate(process.stdio):
        if source != -1:  # the null device is the host's
            try:
                os.fchown(number, uid, -1)  # so that /dev/stdout can be opened again by the container's user
            except OSError:
                pass  # an id that is not mapped, or a file that is not ours: only the re-opening is lost
    if process.tty:
        fcntl.ioctl(0, linux.TIOCSCTTY, 0)


def _become(process: Process, errors: int, step: list[str]) -> NoReturn:
    _hold_only(errors)  # from here on the container's paths are followed
    step[0] = "user"
    who = _identify(process)
    program.add_home(process.env, who.home)
    step[0] = "stdio"
    _own_stdio(process, who.uid)
    _finish(process, who, step)


def _leave_keyring(process: Process) -> None:
    """A session keyring of its own: no namespace parts them, and the supervisor's is whose login has started the daemon."""
    try:
        linux.join_session_keyring()
    except OSError as error:
        if error.errno != errno.ENOSYS and not process.tolerant:  # a user's quota of keys is small (keyrings(7))
            raise


def _finish(process: Process, who: users.Identity, step: list[str]) -> NoReturn:
    step[0] = "rlimit"
    for kind, soft, hard in process.rlimits:
        resource.setrlimit(kind, (soft, hard))
    step[0] = "working directory"
    os.umask(0o022)
    os.chdir("/")
    cwd = k.openat2(k.AT_FDCWD, process.cwd.lstrip("/") or ".", os.O_PATH | os.O_DIRECTORY)
    os.fchdir(cwd)
    os.close(cwd)
    step[0] = "keyring"
    _leave_keyring(process)
    step[0] = "privileges"
    kept = process.capabilities
    for number in range(_ALL_CAPABILITIES):
        if not kept >> number & 1:
            try:
                k.prctl(k.PR_CAPBSET_DROP, number)
            except OSError:
                break  # EINVAL: this kernel's last capability is passed
    k.prctl(k.PR_SET_KEEPCAPS, 1)
    try:
        os.setgroups(who.groups)
    except OSError:
        if not process.tolerant:
            raise  # a user namespace may deny it (user_namespaces(7), /proc/pid/setgroups), or not map the groups
    try:
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)
    except OSError as error:
        if not process.tolerant or error.errno != errno.EINVAL:
            raise
        raise ValueError(
            f"user {who.uid}:{who.gid} is not mapped in this user namespace: run the daemon as root to use it"
        ) from None
    k.prctl(k.PR_SET_KEEPCAPS, 0)
    if process.seccomp and not process.no_new_privileges:
        # a change of uid from 0 emptied the effective set; seccomp(2) wants CAP_SYS_ADMIN in it
        k.capset(process.permitted, process.permitted, 0)
        linux.load_seccomp(process.seccomp)
    given = kept if who.uid == 0 else 0
    k.capset(given, given, 0)
    if process.no_new_privileges:
        linux.set_no_new_privileges()
        if process.seccomp:
            linux.load_seccomp(process.seccomp)
    step[0] = "signals"
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    step[0] = "exec"
    name = process.args[0]
    path = program.find(name, process.env.get("PATH", DEFAULT_PATH))
    try:
        os.execve(path, process.args, process.env)
    except OSError as error:
        raise program.execve_error(path, error) from None
