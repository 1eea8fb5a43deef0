"""From a specification to a running process: the supervisor's side of the start path.

    prepare (check everything; open the namespace, layers, bind sources; all errors are exceptions here)
      -> clone3 -> the child works (runtime/child/process.py) -> the error pipe ends: the program runs, or it says why not

``Spawned`` does not wait: the supervisor's loop watches its error pipe, so that a start that hangs (a dead network
file system behind a bind mount) holds up nobody else.

An exec's child is born in the container's pid namespace: a first clone points its own pid_for_children there
(setns(2) with CLONE_NEWPID moves only children to come) and clones with CLONE_PARENT, so that the process is the
supervisor's child and its exit code is the supervisor's to collect.  The supervisor can not do it itself: in a user
namespace there is no way back into its own pid namespace.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from fcntl import ioctl
from typing import Any, NoReturn

from ...netlib.kernel import syscall as k
from .. import linux
from ..child import mounts, program
from ..child import process as child
from ..spec import ContainerSpec, Mount
from . import capabilities, rootfs, seccomp, sysctls

_INITS = (
    "/usr/bin/docker-init",
    "/sbin/docker-init",
    "/usr/bin/tini-static",
    "/usr/bin/catatonit",
    "/usr/libexec/catatonit/catatonit",
)
"""All are linked statically: they run in an image that has no libraries."""


class StartError(Exception):
    """A start failed; ``code`` is Docker's 125, 126 or 127."""

    def __init__(self, message: str, code: int = program.CANNOT_START) -> None:
        super().__init__(message)
        self.message, self.code = message, code


class Host:
    """What the supervisor found out about itself once, at its start."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.user_namespace = linux.in_user_namespace()
        self.bounding = capabilities.bounding()
        self.permitted = capabilities.permitted()
        self.files_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.cgroup2 = False
        """Only v2 is mounted: containers see their own at /sys/fs/cgroup."""
        self.devices_guarded = False
        """A devices controller stands between containers and the host's disks."""
        self.null = linux.check_null(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        """Standard input and output of what has none: no container's /dev/null is ever opened."""


class Spawned:
    """A child that waits for ``go``, and then is on its way to execve.  The owner closes ``pidfd`` and ``errors``."""

    def __init__(self, pid: int, pidfd: int, errors: int, gate: int) -> None:
        self.pid, self.pidfd, self.errors, self._gate = pid, pidfd, errors, gate
        self.start_time = linux.start_time(pid)

    def go(self) -> None:
        """Let it start: its pid is on record.  Should the supervisor die before, the child ends."""
        os.write(self._gate, b"g")
        os.close(self._gate)

    def cancel(self) -> None:
        """Instead of ``go``: it ends, and all its descriptors are closed."""
        for fd in (self._gate, self.errors, self.pidfd):
            os.close(fd)

    def outcome(self) -> StartError | None:
        """Read the error pipe (it is readable or at its end): None when the program runs."""
        said = b""
        while piece := os.read(self.errors, 4096):
            said += piece
        if not said:
            return None
        code, _, rest = said.decode(errors="replace").partition("\0")
        _, _, text = rest.partition("\0")
        return StartError(text, int(code))


class _Descriptors:
    """Opened for the child; the parent's copies are closed after the clone, whatever happened."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def add(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


def _capability_mask(host: Host, names: list[str], privileged: bool) -> int:
    if privileged:
        return host.bounding
    try:
        wanted = capabilities.mask(names)
    except ValueError as error:
        raise StartError(str(error)) from None
    if not host.devices_guarded:
        # nothing else would keep a container from making and opening a node of the host's disk
        wanted &= ~capabilities.mask(["MKNOD"])
    return wanted & host.bounding


def _rlimits(host: Host, wanted: list[tuple[str, int, int]], warnings: list[str]) -> list[tuple[int, int, int]]:
    result = {resource.RLIMIT_NOFILE: host.files_limit}
    for name, soft, hard in wanted:
        kind = getattr(resource, "RLIMIT_" + name.upper(), None)
        if kind is None:
            raise StartError(f"invalid ulimit type: {name}")
        if hard != -1 and (soft == -1 or soft > hard):
            raise StartError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
        ceiling = resource.getrlimit(kind)[1]
        may_raise = host.permitted & capabilities.mask(["SYS_RESOURCE"]) and not host.user_namespace
        if ceiling != resource.RLIM_INFINITY and not may_raise and (hard == -1 or hard > ceiling):
            warnings.append(f"ulimit {name.lower()}: {hard} is above this machine's hard limit, {ceiling} is used")
            hard, soft = ceiling, ceiling if soft == -1 else min(soft, ceiling)
        result[kind] = (soft, hard)
    return [(kind, soft, hard) for kind, (soft, hard) in result.items()]


def _fill_process(host: Host, process: child.Process, spec: ContainerSpec, privileged: bool) -> None:
    process.capabilities = _capability_mask(host, spec["capabilities"], privileged)
    process.permitted, process.null = host.permitted, host.null
    process.no_new_privileges = spec["no_new_privileges"]
    process.tolerant = host.user_namespace
    if not privileged and spec["seccomp"] != "unconfined":
        try:
            process.seccomp = seccomp.program(spec["seccomp"], process.capabilities)
        except (OSError, ValueError) as error:
            raise StartError(f"seccomp profile {spec['seccomp']}: {error}") from None


def _prepare_mount(item: Mount, keep: _Descriptors) -> child.Attachment:
    if item["propagation"] not in mounts.PROPAGATION:
        raise StartError(f"invalid mount propagation {item['propagation']!r}")
    if item["type"] == "tmpfs":
        options, attributes = mounts.tmpfs_options(item["options"])
        if item["readonly"]:
            attributes |= k.MOUNT_ATTR_RDONLY
        fd = keep.add(linux.make_mount("tmpfs", options, attributes))
        return child.Attachment(fd, item["target"], True, item["propagation"])
    if item["type"] != "bind":
        raise StartError(f"unknown mount type {item['type']!r}")
    directory = stat.S_ISDIR(os.stat(item["source"]).st_mode)
    fd = keep.add(linux.open_tree(k.AT_FDCWD, item["source"], recursive=item["recursive"]))
    if item["readonly"]:
        linux.mount_setattr(fd, set=k.MOUNT_ATTR_RDONLY, recursive=item["recursive"])
    return child.Attachment(fd, item["target"], directory, item["propagation"])


def _depth(item: Mount) -> int:
    return len([part for part in item["target"].split("/") if part])


def _devices(spec: ContainerSpec) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for text in spec["devices"]:
        source, _, rest = text.partition(":")
        target = rest.partition(":")[0]
        if not target.startswith("/"):
            target = source  # "host" and "host:rwm"
        pairs.append((source, target))
    if spec["privileged"]:
        pairs += [(path, path) for path in mounts.host_devices()]
    return pairs


def _find_init() -> str:
    for path in _INITS:
        if os.access(path, os.X_OK):
            return path
    raise StartError("--init: no init program on this machine (install catatonit or tini-static)")


def _prepare(host: Host, spec: ContainerSpec, keep: _Descriptors, warnings: list[str]) -> child.Launch:
    launch = child.Launch()
    if not spec["args"] or not spec["args"][0]:
        raise StartError("no command specified")
    launch.args = list(spec["args"])
    launch.env = program.environment(spec["env"], hostname=spec["hostname"], tty=spec["tty"])
    launch.cwd = spec["cwd"] or "/"
    if not launch.cwd.startswith("/"):
        raise StartError(f"the working directory '{launch.cwd}' is invalid, it needs to be an absolute path")
    launch.user, launch.groups = spec["user"], list(spec["groups"])
    launch.hostname, launch.place = spec["hostname"], host.place
    launch.privileged, launch.readonly = spec["privileged"], spec["rootfs"]["readonly"]
    launch.shm_size, launch.cgroup2 = spec["shm_size"], host.cgroup2
    launch.oom_score_adj = spec["oom_score_adj"] or None
    launch.rlimits = _rlimits(host, spec["rlimits"], warnings)
    _fill_process(host, launch, spec, spec["privileged"])
    for name, value in spec["sysctls"].items():
        launch.sysctls.append((sysctls.check(name, own_network=bool(spec["netns"])), value))
    if not spec["privileged"]:
        launch.masked, launch.read_only_paths = list(spec["masked_paths"]), list(spec["readonly_paths"])
    if spec["netns"]:
        launch.netns = keep.add(os.open(spec["netns"], os.O_RDONLY | os.O_CLOEXEC))
    launch.root = keep.add(rootfs.make_overlay(spec["rootfs"], user_namespace=host.user_namespace))
    for item in sorted(spec["mounts"], key=_depth):
        launch.mounts.append(_prepare_mount(item, keep))
    launch.devices = _devices(spec)
    if spec["init"]:
        launch.init = keep.add(linux.open_tree(k.AT_FDCWD, os.path.realpath(_find_init())))
        linux.mount_setattr(launch.init, set=k.MOUNT_ATTR_RDONLY)
        launch.args = ["/sbin/docker-init", "--", *launch.args]
    try:
        launch.devpts = keep.add(mounts.make_devpts(False))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        launch.devpts = keep.add(mounts.make_devpts(True))
    return launch


def open_terminal(ptmx: int) -> int:
    """The slave of an open pty master; no path is followed (TIOCGPTPEER, ioctl_tty(2))."""
    ioctl(ptmx, linux.TIOCSPTLCK, b"\0\0\0\0")
    return ioctl(ptmx, linux.TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def _child(process: child.Launch | child.Join, errors: int, gate: int) -> NoReturn:
    try:
        child.run(process, errors, gate)
    finally:
        os._exit(program.CANNOT_START)  # whatever happens, the child never returns into the supervisor's loop


def _clone(process: child.Launch | child.Join, cgroup: int) -> Spawned:
    errors, theirs = os.pipe()
    gate_theirs, gate = os.pipe()
    try:
        if isinstance(process, child.Join):
            pid, pidfd = _clone_into(process, cgroup, theirs, gate_theirs)
        else:
            pid, pidfd = linux.clone3(k.CLONE_NEWPID | k.CLONE_NEWNS | k.CLONE_NEWUTS | k.CLONE_NEWIPC, cgroup)
            if pid == 0:
                _child(process, theirs, gate_theirs)
    except BaseException:
        os.close(errors)
        os.close(gate)
        raise
    finally:
        os.close(theirs)
        os.close(gate_theirs)
    return Spawned(pid, pidfd, errors, gate)


def _clone_into(join: child.Join, cgroup: int, errors: int, gate: int) -> tuple[int, int]:
    """(pid, pidfd) of a child of ours in the pid namespace of the container."""
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


def _middle(join: child.Join, cgroup: int, pipes: tuple[int, int], answer: int) -> NoReturn:
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
    host: Host, spec: ContainerSpec, stdio: list[int], *, cgroup: int, cgroup_tasks: list[str], warnings: list[str]
) -> tuple[Spawned, int]:
    """Clone the first process of a container: (child, pty master or -1).  *stdio* is ignored with a tty."""
    keep = _Descriptors()
    master = -1
    try:
        launch = _prepare(host, spec, keep, warnings)
        launch.cgroup_tasks, launch.stdio = cgroup_tasks, stdio
        if spec["tty"]:
            master = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=launch.devpts)
            slave = keep.add(open_terminal(master))
            launch.stdio, launch.tty, launch.console = [slave] * 3, True, True
        return _clone(launch, cgroup), master
    except BaseException as error:
        if master >= 0:
            os.close(master)
        if isinstance(error, OSError):
            raise StartError(_describe(error)) from error
        if isinstance(error, ValueError):
            raise StartError(str(error)) from error
        raise
    finally:
        keep.close()


def _describe(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def container_terminal(target: int, pid: int) -> int:
    """A new pty master of the container's own devpts; *target* is a pidfd that proves who *pid* is."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        linux.send_signal(target, 0)  # still alive: so was the process whose root we opened
        found = k.openat2(root, "dev/pts/ptmx", os.O_PATH)
    finally:
        os.close(root)
    try:
        status = os.fstat(found)
        if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(5, 2):
            raise StartError("the container's /dev/pts/ptmx is not a terminal multiplexer")
        return os.open(f"/proc/self/fd/{found}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(found)


def join(
    host: Host,
    spec: ContainerSpec,
    process: dict[str, Any],
    stdio: list[int],
    *,
    target: int,
    cgroup: int,
    cgroup_tasks: list[str],
) -> Spawned:
    """Clone a process into the running container whose first process is behind the pidfd *target*."""
    order = child.Join()
    order.args = [str(word) for word in process["args"]]
    if not order.args or not order.args[0]:
        raise StartError("No exec command specified")
    privileged = bool(process.get("privileged"))
    tty = bool(process.get("tty"))
    env = [*spec["env"], *(process.get("env") or [])]
    order.env = program.environment(env, hostname=spec["hostname"], tty=tty)
    order.cwd = process.get("cwd") or spec["cwd"] or "/"
    order.user = process.get("user") or spec["user"]
    order.groups = list(spec["groups"])
    order.rlimits = _rlimits(host, spec["rlimits"], [])
    order.stdio, order.tty, order.target, order.cgroup_tasks = stdio, tty, target, cgroup_tasks
    _fill_process(host, order, spec, privileged or spec["privileged"])
    try:
        return _clone(order, cgroup)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.ENOMEM):  # no process, or a pid namespace whose init has ended
            raise StartError("container is not running") from error
        raise StartError(_describe(error)) from error
