"""What happens in a container's first process, and in one that joins a container, between clone3 and execve.

    join cgroups -> enter netns -> cgroup namespace -> hostname, session -> root and all mounts -> pivot_root
    -> (an exec starts here, after setns)  stdio -> rlimits -> user -> cwd -> seccomp, capabilities -> signals -> execve

Rules of this file, each of which has been broken by some runtime and has a CVE or a deadlock to show for it:

* Nothing is imported once the child exists: after pivot_root modules would come from the image.
* No traceback, no print: the child's only voice is the error pipe, "code NUL step NUL text", and its silence at
  execve (the pipe is close-on-exec) says that the program runs.
* The process is not dumpable (the supervisor is not, and it is inherited): nobody in the container's pid namespace
  can reach our memory or /proc/<pid>/exe (CVE-2019-5736).
* The first thing that the child does is to let go of every descriptor that is not on its list (``descriptors``), the
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
from . import mounts, program, users

_FILE_LIMIT = 4 << 20
"""Most bytes read of the container's passwd and group files."""
_ALL_CAPABILITIES = 64
_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


class Attachment:
    """A bind or tmpfs mount that the supervisor has prepared, detached."""

    __slots__ = ("directory", "fd", "propagation", "target")

    def __init__(self, fd: int, target: str, directory: bool, propagation: str) -> None:
        self.fd, self.target, self.directory, self.propagation = fd, target, directory, propagation


class Process:
    """What is alike for a container's first process and an exec: checked, and ready to be applied."""

    def __init__(self) -> None:
        self.args: list[str] = []
        self.env: dict[str, str] = {}
        self.cwd = "/"
        self.user = ""
        self.groups: list[str] = []
        self.capabilities = 0
        self.permitted = 0
        """What the supervisor itself has."""
        self.no_new_privileges = False
        self.seccomp = b""
        self.rlimits: list[tuple[int, int, int]] = []
        self.oom_score_adj: int | None = None
        self.stdio: list[int] = []
        """Descriptors for 0, 1, 2; -1 is the null device."""
        self.null = -1
        """The null device, opened by the supervisor: the container's may be a link to anywhere."""
        self.tty = False
        self.cgroup_tasks: list[str] = []
        """Files of v1 hierarchies into which "0" is written."""
        self.tolerant = False
        """In a user namespace: a forbidden chown or setgroups is no error."""

    def descriptors(self) -> list[int]:
        """All that the child needs on its way into the container, besides stdio and its two pipes; -1 is none."""
        return []


class Launch(Process):
    """A container's first process."""

    def __init__(self) -> None:
        super().__init__()
        self.hostname = ""
        self.netns = -1
        self.root = -1
        """The detached overlay."""
        self.place = ""
        """An empty directory on which the child mounts it, in its own mount namespace."""
        self.devpts = -1
        self.console = False
        self.shm_size = 0
        self.privileged = False
        self.readonly = False
        self.cgroup2 = False
        self.mounts: list[Attachment] = []
        self.devices: list[tuple[str, str]] = []
        self.init = -1
        """A detached bind of the init program, for /sbin/docker-init."""
        self.sysctls: list[tuple[str, str]] = []
        """Path below /proc/sys and value."""
        self.masked: list[str] = []
        self.read_only_paths: list[str] = []

    def descriptors(self) -> list[int]:
        return [self.netns, self.root, self.devpts, self.init, *(item.fd for item in self.mounts)]


class Join(Process):
    """A process that joins a running container; the child is born in its pid namespace."""

    def __init__(self) -> None:
        super().__init__()
        self.target = -1
        """pidfd of the container's first process."""

    def descriptors(self) -> list[int]:
        return [self.target]


def run(process: Launch | Join, errors: int, gate: int) -> NoReturn:
    """The child's life: either execve, or a message to *errors* and the end.  It begins with a byte from *gate*."""
    step = ["start"]
    try:
        _wire_stdio(process)
        _hold_only(errors, gate, *process.descriptors())
        if not os.read(gate, 1):
            os._exit(program.CANNOT_START)  # the supervisor died before it had put us on record
        if isinstance(process, Launch):
            _enter_new(process, step)
        else:
            _join(process, step)
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


def _join_cgroups(process: Process) -> None:
    # a thread that moves itself is spared the kernel's wait for a quiescent state: 0.2 ms for all, not 14
    for path in process.cgroup_tasks:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, b"0")
        os.close(fd)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


# -- a new container -----------------------------------------------------------------------------------------------


def _enter_new(launch: Launch, step: list[str]) -> None:
    step[0] = "cgroup"
    _join_cgroups(launch)
    if launch.oom_score_adj is not None:
        try:
            _write("/proc/self/oom_score_adj", str(launch.oom_score_adj))
        except PermissionError:
            if not launch.tolerant:
                raise  # lowering needs CAP_SYS_RESOURCE of the initial user namespace (proc(5))
    step[0] = "namespaces"
    if launch.netns >= 0:
        k.setns(launch.netns, k.CLONE_NEWNET)
    k.unshare(k.CLONE_NEWCGROUP)  # after joining: its root is where we are now (cgroup_namespaces(7))
    k.sethostname(launch.hostname)
    os.setsid()
    step[0] = "rootfs"
    os.umask(0)
    k.mount(None, "/", None, k.MS_REC | k.MS_SLAVE)  # not private: that would pin what the host unmounts later
    place = os.open(launch.place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    linux.attach_mount(launch.root, place)
    root = launch.root
    os.fchdir(root)
    step[0] = "mount"
    null = mounts.mount_system(
        root, devpts=launch.devpts, shm_size=launch.shm_size, privileged=launch.privileged, cgroup2=launch.cgroup2
    )
    step[0] = "sysctl"
    for path, value in launch.sysctls:
        fd = k.openat2(root, f"proc/sys/{path}", os.O_WRONLY)
        os.write(fd, value.encode())
        os.close(fd)
    step[0] = "mount"
    for item in launch.mounts:
        mounts.attach_user_mount(
            root, launch.place, item.fd, item.target, directory=item.directory, propagation=item.propagation
        )
    if launch.init >= 0:
        target = mounts.open_target(root, "/sbin/docker-init", directory=False)
        linux.attach_mount(launch.init, target)
    if launch.console:
        console = mounts.open_target(root, "/dev/console", directory=False)
        linux.attach_mount(linux.open_tree(0, ""), console)  # the terminal itself: a path below /dev may be a volume's
    step[0] = "device"
    for host, target_path in launch.devices:
        mounts.add_device(root, host, target_path)
    if launch.cwd != "/":
        step[0] = "working directory"
        os.close(mounts.open_target(root, launch.cwd, directory=True))
    step[0] = "mount"
    for path in launch.read_only_paths:
        mounts.make_read_only(root, path)
    for path in launch.masked:
        mounts.mask(root, path, null)
    if launch.readonly:
        linux.mount_setattr(root, set=k.MOUNT_ATTR_RDONLY)
    step[0] = "pivot_root"
    k.pivot_root(".", ".")  # the new root's parent is stacked on it and goes with the lazy unmount (pivot_root(2))
    k.umount2(".", k.MNT_DETACH)
    os.chdir("/")


def _join(join: Join, step: list[str]) -> None:
    step[0] = "cgroup"
    _join_cgroups(join)
    step[0] = "namespaces"
    k.setns(
        join.target,
        k.CLONE_NEWNS | k.CLONE_NEWNET | k.CLONE_NEWUTS | k.CLONE_NEWIPC | k.CLONE_NEWCGROUP,
    )
    os.setsid()


# -- both ------------------------------------------------------------------------------------------------------------


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
        linux.capset(process.permitted, process.permitted, 0)
        linux.load_seccomp(process.seccomp)
    given = kept if who.uid == 0 else 0
    linux.capset(given, given, 0)
    if process.no_new_privileges:
        linux.set_no_new_privileges()
        if process.seccomp:
            linux.load_seccomp(process.seccomp)
    step[0] = "signals"
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)  # CPython ignores SIGPIPE and SIGXFSZ, nohup(1) more; it survives execve
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    step[0] = "exec"
    name = process.args[0]
    path = program.find(name, process.env.get("PATH", program.DEFAULT_PATH))
    try:
        os.execve(path, process.args, process.env)
    except OSError as error:
        raise program.execve_error(path, error) from None
