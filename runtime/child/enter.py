"""Into the container: its first process makes what is in it, one that joins takes it as it is.

    new      devices (look, guard) -> cgroups -> netns, cgroup namespace, hostname, session
             -> root -> what is mounted below it -> pivot_root
    running  cgroups -> all namespaces at once, session

Paths are the host's until pivot_root or setns; a container's path is followed below the descriptor of its root only
(mounts.py).  Whoever returns from here stands in the container, at its root.  ``step`` is what an error is reported with.
"""

from __future__ import annotations

import os

from ...netlib.kernel import syscall as k
from .. import linux
from . import devices, mounts
from .order import Join, Launch, Process


def new(launch: Launch, step: list[str]) -> None:
    """Make the container around this process, its first."""
    step[0] = "device"
    nodes = devices.gather(launch)
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
    _mount_all(launch, nodes, step)
    step[0] = "pivot_root"
    k.pivot_root(".", ".")  # the new root's parent is stacked on it and goes with the lazy unmount (pivot_root(2))
    k.umount2(".", k.MNT_DETACH)
    os.chdir("/")


def running(join: Join, step: list[str]) -> None:
    """Join a container; this process was born in its pid namespace."""
    step[0] = "cgroup"
    _join_cgroups(join)
    step[0] = "namespaces"
    k.setns(
        join.target,
        k.CLONE_NEWNS | k.CLONE_NEWNET | k.CLONE_NEWUTS | k.CLONE_NEWIPC | k.CLONE_NEWCGROUP,
    )
    os.setsid()


def _join_cgroups(process: Process) -> None:
    # a thread that moves itself is spared the kernel's wait for a quiescent state: 0.2 ms for all, not 14
    for path in process.cgroup_tasks:
        _write(path, "0")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _mount_all(launch: Launch, nodes: list[devices.Node], step: list[str]) -> None:
    step[0] = "mount"
    # while "/" is still the host's peer: a shared bind passes on what is mounted in it (mount_namespaces(7))
    prepared = [mounts.prepare(item) for item in launch.mounts]
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
    for item, fd in zip(launch.mounts, prepared, strict=True):
        mounts.attach_user_mount(root, launch.place, fd, item)
    if launch.init >= 0:
        target = mounts.open_target(root, "/sbin/docker-init", directory=False)
        linux.attach_mount(launch.init, target)
    if launch.console:
        console = mounts.open_target(root, "/dev/console", directory=False)
        linux.attach_mount(linux.open_tree(0, ""), console)  # the terminal itself: a path below /dev may be a volume's
    step[0] = "device"
    for node in nodes:
        mounts.add_device(root, node)
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
