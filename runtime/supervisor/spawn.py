"""A child on its way: clone3, the error pipe and the gate, terminals.  compose.py has made what it is told.

    compose (check, open) -> clone3 -> the child works (runtime/child/process.py) -> the error pipe ends: the program runs,
                                                                                      or it says why not

``Spawned`` does not wait: the supervisor's loop watches its error pipe, so that a start that hangs (a dead network
file system behind a bind mount) holds up nobody else.

An exec's child is born in the container's pid namespace: the supervisor points its own pid_for_children there for the time
of one clone (setns(2) with CLONE_NEWPID moves only children to come).  In a user namespace there is no way back into its own
pid namespace, which belongs to somebody else: there a first clone does it, and clones with CLONE_PARENT, so that the process is
the supervisor's child all the same and its exit code is the supervisor's to collect; it costs a second copy of the process.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import struct
import sys
from fcntl import ioctl
from typing import NoReturn

from ...netlib.errors import InvalidArgument
from ...netlib.kernel import syscall as k
from .. import linux
from ..child import order, process
from ..child.program import CANNOT_START
from ..spec import ContainerSpec, ExecSpec
from . import compose
from .errors import StartError, describe
from .group import Group
from .host import Host


class Spawned:
    """A child that waits for ``go``, and then is on its way to execve.  The owner closes ``pidfd`` and ``errors``.

    One that joins a container is a process of the container's too, whose root may stop or kill it at any point: nothing
    here waits for it, and nothing fails because it is gone.
    """

    def __init__(self, pid: int, pidfd: int, errors: int, gate: int) -> None:
        self.pid, self.pidfd, self.errors, self._gate = pid, pidfd, errors, gate
        self.start_time = linux.start_time(pid)

    def go(self) -> None:
        """Let it start: its pid is on record.  Should the supervisor die before, the child ends."""
        try:
            os.write(self._gate, b"g")
        except BrokenPipeError:
            pass  # killed meanwhile: its end is on the way, as that of any other
        finally:
            os.close(self._gate)

    def cancel(self) -> None:
        """Instead of ``go``: it ends, and all its descriptors are closed."""
        for fd in (self._gate, self.errors, self.pidfd):
            os.close(fd)

    def outcome(self) -> StartError | None:
        """Read the error pipe (it is readable or at its end): None when the program runs.

        One read: what the child says is one write of less than PIPE_BUF (pipe(7)), and to wait for the end behind it would
        be to wait for a process that somebody else may have stopped.
        """
        said = os.read(self.errors, select.PIPE_BUF)
        if not said:
            return None
        code, _, rest = said.decode(errors="replace").partition("\0")
        _, _, text = rest.partition("\0")
        return StartError(text, int(code))


def open_terminal(ptmx: int) -> int:
    """The slave of an open pty master; no path is followed (TIOCGPTPEER, ioctl_tty(2))."""
    ioctl(ptmx, linux.TIOCSPTLCK, b"\0\0\0\0")
    return ioctl(ptmx, linux.TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def _child(told: order.Launch | order.Join, errors: int, gate: int) -> NoReturn:
    try:
        process.run(told, errors, gate)
    finally:
        os._exit(CANNOT_START)  # whatever happens, the child never returns into the supervisor's loop


def _clone(told: order.Launch | order.Join, cgroup: int) -> Spawned:
    errors, theirs = os.pipe()
    try:
        gate_theirs, gate = os.pipe()
    except OSError:
        os.close(errors)
        os.close(theirs)
        raise
    try:
        if isinstance(told, order.Join):
            into = _clone_through_another if told.tolerant else _clone_into
            pid, pidfd = into(told, cgroup, theirs, gate_theirs)
        else:
            pid, pidfd = linux.clone3(k.CLONE_NEWPID | k.CLONE_NEWNS | k.CLONE_NEWUTS | k.CLONE_NEWIPC, cgroup)
            if pid == 0:
                _child(told, theirs, gate_theirs)
    except BaseException:
        os.close(errors)
        os.close(gate)
        raise
    finally:
        os.close(theirs)
        os.close(gate_theirs)
    try:
        return Spawned(pid, pidfd, errors, gate)
    except OSError:  # no descriptor is left to look at it: it ends at its gate
        for fd in (errors, gate, pidfd):
            os.close(fd)
        raise


def _clone_into(join: order.Join, cgroup: int, errors: int, gate: int) -> tuple[int, int]:
    """(pid, pidfd) of a child of ours in the pid namespace of the container."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        k.setns(join.target, k.CLONE_NEWPID)
        try:
            pid, pidfd = linux.clone3(0, cgroup)
            if pid == 0:
                _child(join, errors, gate)
        finally:
            _return_to(own)
    finally:
        os.close(own)
    return pid, pidfd


def _return_to(pid_namespace: int) -> None:
    try:
        k.setns(pid_namespace, k.CLONE_NEWPID)
    except OSError as error:
        # what it starts from now on would be born in that container: its successor takes over everything instead
        print(f"no way back from a container's pid namespace: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _clone_through_another(join: order.Join, cgroup: int, errors: int, gate: int) -> tuple[int, int]:
    """As ``_clone_into``, where a user namespace allows no way back."""
    answer, theirs = os.pipe()
    try:
        middle, middle_fd = linux.clone3(0)
        if middle == 0:
            _middle(join, cgroup, (errors, gate), theirs)
        os.close(theirs)
        theirs = -1
        said = os.read(answer, 64).decode()
        os.waitid(os.P_PIDFD, middle_fd, os.WEXITED)
        os.close(middle_fd)
    finally:
        os.close(answer)
        if theirs >= 0:
            os.close(theirs)
    number = int(said or -errno.ESRCH)
    if number < 0:
        raise OSError(-number, os.strerror(-number), "joining the container")
    return number, os.pidfd_open(number)


def _middle(join: order.Join, cgroup: int, pipes: tuple[int, int], answer: int) -> NoReturn:
    try:
        k.setns(join.target, k.CLONE_NEWPID)
        pid, _ = linux.clone3(linux.CLONE_PARENT, cgroup)
        if pid == 0:
            _child(join, *pipes)
        os.write(answer, str(pid).encode())
    except OSError as error:
        os.write(answer, str(-(error.errno or errno.EIO)).encode())
    finally:
        os._exit(0)


def start(
    host: Host,
    spec: ContainerSpec,
    stdio: list[int],
    *,
    cgroup: int,
    group: Group,
    begun: int,
    warnings: list[str],
) -> tuple[Spawned, int]:
    """Clone the first process of a container: (child, pty master or -1).  *stdio* is ignored with a tty."""
    keep = compose.Descriptors()
    master = -1
    try:
        launch = compose.launch(host, spec, keep, warnings)
        launch.cgroup_tasks, launch.stdio, launch.begun = group.tasks, stdio, begun
        if not spec["privileged"]:
            launch.device_group, launch.device_group2 = (
                group.v1.get("devices", ""),
                group.v2 if group.filters_devices else "",
            )
        if spec["tty"]:
            master = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=launch.devpts)
            slave = keep.add(open_terminal(master))
            launch.stdio, launch.tty, launch.console = [slave] * 3, True, True
        return _clone(launch, cgroup), master
    except BaseException as error:
        if master >= 0:
            os.close(master)
        if isinstance(error, OSError):
            raise StartError(describe(error)) from error
        if isinstance(error, ValueError):
            raise StartError(str(error)) from error
        raise
    finally:
        keep.close()


def _open_cached(root: int, path: str) -> int:
    resolve = k.RESOLVE_IN_ROOT | k.RESOLVE_NO_MAGICLINKS
    try:
        return k.openat2(root, path, os.O_PATH, resolve=resolve | k.RESOLVE_CACHED)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return k.openat2(root, path, os.O_PATH, resolve=resolve)  # Linux before 5.12


_NO_TERMINALS = "the container's /dev/pts/ptmx is not a terminal multiplexer"


def container_terminal(target: int, pid: int) -> int:
    """A new pty master of the container's own devpts; *target* is a pidfd that proves who *pid* is.

    A container that may mount (--cap-add SYS_ADMIN) may have put a file server there that never answers, and this process
    must not wait for it: only what the kernel has in memory is looked up (RESOLVE_CACHED), and before the node is asked what
    it is, the mount that it is on must be a devpts.
    """
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        linux.send_signal(target, 0)  # still alive: so was the process whose root we opened
        found = _open_cached(root, "dev/pts/ptmx")
    except BlockingIOError:
        raise StartError(_NO_TERMINALS) from None
    finally:
        os.close(root)
    try:
        if linux.filesystem_of(found, pid) != "devpts":
            raise StartError(_NO_TERMINALS)
        status = os.fstat(found)
        if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(5, 2):
            raise StartError(_NO_TERMINALS)
        return os.open(f"/proc/self/fd/{found}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(found)


def resize(master: int, height: int, width: int) -> None:
    """Tell a terminal its size in lines and columns; who runs in it gets SIGWINCH."""
    if not (0 <= height < 1 << 16 and 0 <= width < 1 << 16):
        raise InvalidArgument(f"invalid size of a terminal: {height} lines of {width}")
    ioctl(master, linux.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def join(
    host: Host,
    spec: ContainerSpec,
    wanted: ExecSpec,
    stdio: list[int],
    *,
    target: int,
    cgroup: int,
    cgroup_tasks: list[str],
) -> Spawned:
    """Clone a process into the running container whose first process is behind the pidfd *target*."""
    told = compose.join(host, spec, wanted)
    told.stdio, told.target, told.cgroup_tasks = stdio, target, cgroup_tasks
    try:
        return _clone(told, cgroup)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.ENOMEM):  # no process, or a pid namespace whose init has ended
            raise StartError("container is not running") from error
        raise StartError(describe(error)) from error
