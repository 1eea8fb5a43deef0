"""Everything that is mounted below a container's root, done in the child before pivot_root.

No path of the container is ever followed as a string: a hostile image may have links anywhere.  The root is a
descriptor; every target is opened below it with openat2(RESOLVE_IN_ROOT), for which the root is "/" whatever links
say; every mount is made detached (fsopen, open_tree) and moved onto the target's descriptor.  /proc, /sys and /dev
must be real directories: a link there would let an image choose which of its files look like the kernel's.

In a user namespace some steps are forbidden to anybody and have a second way: device nodes are bound from the host
(mknod is refused, user_namespaces(7)), devpts goes without gid=5 (the group is not mapped), sysfs is bound from the
host when the network namespace belongs to somebody else.
"""

from __future__ import annotations

import errno
import os
import stat

from ...netlib.kernel import syscall as k
from .. import linux
from ..spec import DEVICES
from .devices import Node
from .order import Mount

_SAFE = k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC
_MAX_LINKS = 40
"""As many as the kernel follows (path_resolution(7))."""

LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
PROPAGATION = {
    "": (k.MS_PRIVATE, True),
    "private": (k.MS_PRIVATE, False),
    "rprivate": (k.MS_PRIVATE, True),
    "slave": (k.MS_SLAVE, False),
    "rslave": (k.MS_SLAVE, True),
    "shared": (k.MS_SHARED, False),
    "rshared": (k.MS_SHARED, True),
}
"""Flag for mount_setattr, and whether it goes for the mounts below too."""


def open_target(root: int, path: str, *, directory: bool, links: int = 0) -> int:
    """An O_PATH descriptor of *path* below *root*; what is missing is made, a directory or an empty file at its end.

    A dangling link is followed below the root, as Docker does (an image's /etc/resolv.conf often is one).
    """
    try:
        return k.openat2(root, path.lstrip("/") or ".", os.O_PATH)
    except FileNotFoundError:
        pass
    parts = [part for part in path.split("/") if part not in ("", ".")]
    current = os.dup(root)
    try:
        for index, part in enumerate(parts):
            prefix = "/".join(parts[: index + 1])
            last = index == len(parts) - 1
            try:
                following = k.openat2(root, prefix, os.O_PATH)
            except FileNotFoundError:
                try:
                    _make(current, part, directory=directory or not last)
                except FileExistsError:
                    return _follow(root, parts, index, current, directory=directory, links=links)
                following = k.openat2(root, prefix, os.O_PATH)
            os.close(current)
            current = following
        return os.dup(current)
    finally:
        os.close(current)


def _make(parent: int, name: str, *, directory: bool) -> None:
    if directory:
        os.mkdir(name, 0o755, dir_fd=parent)
    else:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o644, dir_fd=parent))


def _follow(root: int, parts: list[str], index: int, parent: int, *, directory: bool, links: int) -> int:
    if links >= _MAX_LINKS:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), "/" + "/".join(parts))
    goal = os.readlink(parts[index], dir_fd=parent)
    before = [] if goal.startswith("/") else parts[:index]
    path = "/".join([*before, goal, *parts[index + 1 :]])
    return open_target(root, path, directory=directory, links=links + 1)


def _system_directory(root: int, path: str) -> int:
    """*path* (relative) as a real directory, made when missing."""

    def found() -> int:
        return k.openat2(root, path, os.O_PATH | os.O_DIRECTORY, resolve=k.RESOLVE_IN_ROOT | k.RESOLVE_NO_SYMLINKS)

    try:
        return found()
    except FileNotFoundError:
        os.close(open_target(root, path, directory=True))
        return found()
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise OSError(error.errno, f"the image's /{path} is not a directory") from None
        raise


def _put(root: int, path: str, mount: int) -> None:
    """Attach the detached *mount* (closed here) at the system directory *path*."""
    target = _system_directory(root, path)
    try:
        linux.attach_mount(mount, target)
    finally:
        os.close(target)
        os.close(mount)


def mount_system(root: int, *, devpts: int, shm_size: int, privileged: bool, cgroup2: bool) -> int:
    """/proc, /dev and what is in it, /sys: the file systems that every container has.

    The answer is a descriptor (O_PATH) of the null device in the new /dev: what covers masked paths.  It is taken before
    anything of the user's is mounted, because afterwards /dev/null may be a link of a volume's (CVE-2025-31133).
    """
    _put(root, "proc", linux.make_mount("proc", [], _SAFE))
    dev = linux.make_mount(
        "tmpfs",
        [("mode", "755"), ("size", "65536k")],
        k.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_STRICTATIME,
    )
    _put(root, "dev", os.dup(dev))
    _put(root, "dev/pts", os.dup(devpts))
    size = str(shm_size or 64 << 20)
    _put(root, "dev/shm", linux.make_mount("tmpfs", [("mode", "1777"), ("size", size)], _SAFE))
    _put(root, "dev/mqueue", linux.make_mount("mqueue", [], _SAFE))
    for name, major, minor in DEVICES:
        make_node(dev, name, stat.S_IFCHR | 0o666, os.makedev(major, minor), f"/dev/{name}")
    for name, goal in LINKS:
        os.symlink(goal, name, dir_fd=dev)
    null = k.openat2(dev, "null", os.O_PATH, resolve=k.RESOLVE_BENEATH | k.RESOLVE_NO_SYMLINKS)
    os.close(dev)
    linux.check_null(null)
    read_only = 0 if privileged else k.MOUNT_ATTR_RDONLY
    try:
        sysfs = linux.make_mount("sysfs", [], _SAFE | read_only)
    except PermissionError:  # a network namespace of another user namespace
        sysfs = linux.open_tree(k.AT_FDCWD, "/sys", recursive=True)
        linux.mount_setattr(sysfs, set=read_only, recursive=True)
    _put(root, "sys", sysfs)
    if cgroup2:
        try:
            _put(root, "sys/fs/cgroup", linux.make_mount("cgroup2", [], _SAFE | read_only))
        except (PermissionError, FileNotFoundError):
            pass  # a user namespace without a cgroup tree of its own, or a kernel that has no such directory
    return null


def make_node(directory: int, name: str, mode: int, device: int, host: str) -> bool:
    """A device node in *directory*, or where that is forbidden the host's own node bound there; whether one was made."""
    try:
        os.mknod(name, mode, device, dir_fd=directory)
        return True
    except PermissionError:
        tree = linux.open_tree(k.AT_FDCWD, host)
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=directory))
        target = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        linux.attach_mount(tree, target)
        os.close(target)
        os.close(tree)
        return False


def add_device(root: int, node: Node) -> None:
    """Make *node* with the owner that it has on the host, replacing nothing: an existing one stays as it is."""
    parent_path, _, name = node.target.rstrip("/").rpartition("/")
    status = node.status
    parent = open_target(root, parent_path or "/", directory=True)
    try:
        if make_node(parent, name, status.st_mode, status.st_rdev, node.host):
            os.chown(name, status.st_uid, status.st_gid, dir_fd=parent, follow_symlinks=False)
    except FileExistsError:
        pass
    finally:
        os.close(parent)


def prepare(item: Mount) -> int:
    """The user's mount, detached.  The source is followed on the host as the user named it; a dead file server hangs us alone."""
    if not item.source:
        attributes = item.attributes | (k.MOUNT_ATTR_RDONLY if item.readonly else 0)
        return linux.make_mount("tmpfs", item.options, attributes)
    tree = linux.open_tree(k.AT_FDCWD, item.source, recursive=item.recursive)
    if item.readonly:
        linux.mount_setattr(tree, set=k.MOUNT_ATTR_RDONLY, recursive=item.recursive)
    return tree


def attach_user_mount(root: int, place: str, mount: int, item: Mount) -> None:
    """Attach what ``prepare`` made at its target.  *place* is where the root is mounted, to tell the kernel's own files."""
    target = item.target
    fd = open_target(root, target, directory=stat.S_ISDIR(os.fstat(mount).st_mode))
    try:
        where = os.readlink(f"/proc/self/fd/{fd}").removeprefix(place)
        if where in ("", "/"):
            raise OSError(errno.EINVAL, f"invalid mount: destination can't be '/': {target}")
        if where == "/proc" or where.startswith("/proc/"):
            # what runc refuses too: a lie told there would be believed by everything that reads /proc
            raise OSError(errno.EPERM, f'"{target}" cannot be mounted because it is inside /proc')
        linux.attach_mount(mount, fd)
    finally:
        os.close(fd)
    flag, recursive = PROPAGATION[item.propagation]
    linux.mount_setattr(mount, propagation=flag, recursive=recursive)
    os.close(mount)


def _existing(root: int, path: str) -> int:
    """*path* as it is, -1 when it does not exist."""
    try:
        return k.openat2(root, path.lstrip("/"), os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return -1


def make_read_only(root: int, path: str) -> None:
    """Bind *path* over itself without writing; nothing when it does not exist."""
    target = _existing(root, path)
    if target < 0:
        return
    tree = linux.open_tree(target, "", recursive=True)
    linux.mount_setattr(tree, set=k.MOUNT_ATTR_RDONLY, recursive=True)
    linux.attach_mount(tree, target)
    os.close(tree)
    os.close(target)


def mask(root: int, path: str, null: int) -> None:
    """Cover *path*: a file by the device *null*, a directory by an empty read-only tmpfs; nothing when it does not exist."""
    target = _existing(root, path)
    if target < 0:
        return
    if stat.S_ISDIR(os.fstat(target).st_mode):
        cover = linux.make_mount("tmpfs", [("size", "4k")], k.MOUNT_ATTR_RDONLY)
    else:
        cover = linux.open_tree(null, "")
    linux.attach_mount(cover, target)
    os.close(cover)
    os.close(target)
