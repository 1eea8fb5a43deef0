"""Unpack one layer into a directory, from an archive that may be hostile.

    for each entry:  parent = openat2(root, dirname, RESOLVE_IN_ROOT)   cached descriptors
                     leaf   = *at(parent, basename)                     O_EXCL | O_NOFOLLOW
    at the end:      modes and times of directories, innermost first

The layer's own symbolic links can lead nowhere but into the layer: the kernel resolves every parent with the layer as
its root (openat2(2)), and the last component is never followed, it is removed and made anew.  ``..`` in a name or in a
hard link's target is refused; absolute names are taken relative, as Docker does.  A directory stays 0700 until the
end, so that children can be made whatever its final mode.

Whiteouts (OCI image-spec, layer.md) become overlayfs's: ``.wh.x`` a character device 0:0 named x, ``.wh..wh..opq``
the attribute ``trusted.overlay.opaque`` - in a user namespace ``user.overlay.opaque``, which overlayfs reads when
mounted with ``userxattr``.  They hide only what lower layers hold: a whiteout beside a directory of the same layer
makes that directory opaque.  ``.wh.`` before "", "." or ".." is refused (it would remove the parent).

A parent that the archive does not mention takes its mode and owner from the lower layers, else is root's 0755; so does
the layer's root, which overlayfs shows as the container's "/".

*Rootless* (no root, or a user namespace that maps few ids): an owner that can not be set is left as it is, set-id bits
that would then belong to another user are dropped, device nodes are skipped; each with a warning.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...netlib.kernel.syscall import openat2
from ...netlib.kernel.tree import remove_tree
from .errors import InvalidArchive
from .inflate import Inflated
from .tarstream import Entry, TarReader

WHITEOUT, OPAQUE, AUFS = b".wh.", b".wh..wh..opq", b".wh..wh."
CACHED_DIRECTORIES = 512
MAX_WARNINGS = 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NODES = {"fifo": stat.S_IFIFO, "character": stat.S_IFCHR, "block": stat.S_IFBLK}
# what a hostile or broken archive can make the kernel say
_ARCHIVE_ERRNOS = {
    errno.ENAMETOOLONG: "a name is too long",
    errno.ELOOP: "too many symbolic links",
    errno.ENOTDIR: "a parent is not a directory",
    errno.EEXIST: "a parent is a dangling symbolic link",
    errno.ENOENT: "the target does not exist in this layer",
    errno.EISDIR: "a directory is in the way",
    errno.EINVAL: "a name or number is not valid here",
    errno.EMLINK: "too many links",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds against archives made to fill the disk."""

    entries: int = 2_000_000
    bytes: int = 64 << 30


@dataclass(slots=True)
class Unpacked:
    entries: int = 0
    size: int = 0
    """Sum of the files' sizes."""
    warnings: list[str] = field(default_factory=list[str])

    def warn(self, text: str) -> None:
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(text)


def is_rootless() -> bool:
    """True unless we are root with every uid: only then can owners and device nodes be made."""
    if os.geteuid() != 0:
        return True
    try:
        with open("/proc/self/uid_map") as uid_map:
            return int(uid_map.readline().split()[2]) < 65536
    except (OSError, IndexError, ValueError):
        return False


def unpack(
    stream: Inflated,
    destination: str,
    *,
    lower: Sequence[str] = (),
    limits: Limits | None = None,
    rootless: bool | None = None,
) -> Unpacked:
    """Unpack *stream* into the empty directory *destination*; *lower* are the layers below, topmost first.

    Reads the stream to its end.  On any error the destination holds a part of the layer; the caller removes it.
    """
    unpacker = _Unpacker(destination, lower, limits or Limits(), is_rootless() if rootless is None else rootless)
    try:
        reader = TarReader(stream)
        for entry in reader:
            try:
                unpacker.add(entry, reader)
            except OSError as error:
                reason = _ARCHIVE_ERRNOS.get(error.errno or 0)
                if reason is None:
                    raise
                raise InvalidArchive(f"can not unpack {entry.shown}: {reason}") from error
        unpacker.finish()
        stream.drain()
    finally:
        unpacker.close()
    return unpacker.result


class _Unpacker:
    def __init__(self, destination: str, lower: Sequence[str], limits: Limits, rootless: bool) -> None:
        self.result = Unpacked()
        self._limits, self._rootless = limits, rootless
        self._lower: list[int] = []
        self._directories: dict[bytes, int] = {b"": os.open(destination, _DIRECTORY)}
        self._late: dict[bytes, tuple[int, int]] = {}
        for path in lower:
            self._lower.append(os.open(path, _DIRECTORY))
        if self._lower:
            self._copy_from_lower(b"", self._directories[b""])
        else:
            os.fchmod(self._directories[b""], 0o755)

    def close(self) -> None:
        for fd in (*self._directories.values(), *self._lower):
            os.close(fd)
        self._directories.clear()
        self._lower.clear()

    # -- parents -------------------------------------------------------------------------------------------------

    def _directory(self, path: bytes) -> int:
        """A descriptor of the directory *path* (relative, no ``..``), made with its parents when missing."""
        fd = self._directories.get(path)
        if fd is None:
            fd = self._directories[path] = self._open_directory(path)
        return fd

    def _open_directory(self, path: bytes) -> int:
        root = self._directories[b""]
        missing: list[bytes] = []
        there, fd = path, -1
        while fd < 0:
            try:
                fd = openat2(root, there or b".", _DIRECTORY)
            except FileNotFoundError:
                there, _, base = there.rpartition(b"/")
                missing.append(base)
        try:
            for base in reversed(missing):
                os.mkdir(base, 0o755, dir_fd=fd)
                made = os.open(base, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = made
                there = there + b"/" + base if there else base
                self._copy_from_lower(there, fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _forget_directories(self, kept: int = -1) -> None:
        for path, fd in list(self._directories.items()):
            if path and fd != kept:
                os.close(self._directories.pop(path))

    def _copy_from_lower(self, path: bytes, fd: int) -> None:
        """overlayfs shows the topmost directory's owner and mode, so an unmentioned parent must have the lower's."""
        for lower in self._lower:
            try:
                found = openat2(lower, path or b".", _DIRECTORY)
            except OSError:
                continue  # not in this layer; whatever is wrong there is not this archive's fault
            try:
                status = os.fstat(found)
            finally:
                os.close(found)
            self._own(status.st_uid, status.st_gid, fd)
            self._late[path] = (stat.S_IMODE(status.st_mode), status.st_mtime_ns)
            return
        if path:
            os.fchmod(fd, 0o755)  # mkdir's was subject to the umask

    # -- entries -------------------------------------------------------------------------------------------------

    def add(self, entry: Entry, reader: TarReader) -> None:
        self.result.entries += 1
        if self.result.entries > self._limits.entries:
            raise InvalidArchive(f"the archive has more than {self._limits.entries} entries")
        parts = _parts(entry, entry.name)
        if not parts:
            if entry.kind != "directory":
                raise InvalidArchive(f"the archive's root is a {entry.kind}")
            self._finish_directory(entry, b"", self._directories[b""])
            return
        if len(self._directories) > CACHED_DIRECTORIES:  # only here: below, descriptors of the cache are in use
            self._forget_directories()
        *above, base = parts
        parent = self._directory(b"/".join(above))
        if base.startswith(WHITEOUT):
            self._whiteout(entry, parent, base)
            return
        match entry.kind:
            case "file":
                self._add_file(entry, parent, base, reader)
            case "directory":
                self._add_directory(entry, parent, parts)
            case "hardlink":
                self._add_hardlink(entry, parent, parts)
            case "symlink":
                self._add_symlink(entry, parent, base)
            case "fifo" | "character" | "block":
                self._add_node(entry, parent, base, _NODES[entry.kind])

    def _add_file(self, entry: Entry, parent: int, base: bytes, reader: TarReader) -> None:
        try:
            fd = os.open(base, _NEW_FILE, 0o600, dir_fd=parent)
        except FileExistsError:
            self._remove(parent, base)
            fd = os.open(base, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            for piece in reader.data():
                written = os.write(fd, piece)
                while written < len(piece):
                    written += os.write(fd, piece[written:])
            self.result.size += entry.size
            os.fchmod(fd, self._mode(entry, self._own(entry.uid, entry.gid, fd)))  # chown clears set-id bits
            self._xattrs(entry, fd)  # after chown, which removes security.capability
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _add_directory(self, entry: Entry, parent: int, parts: list[bytes]) -> None:
        base = parts[-1]
        opaque = False
        try:
            os.mkdir(base, 0o700, dir_fd=parent)
        except FileExistsError:
            status = os.stat(base, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                opaque = _is_whiteout(status)
                self._remove(parent, base)
                os.mkdir(base, 0o700, dir_fd=parent)
        path = b"/".join(parts)
        fd = self._directory(path)
        if opaque:
            self._make_opaque(fd)
        self._finish_directory(entry, path, fd)

    def _finish_directory(self, entry: Entry, path: bytes, fd: int) -> None:
        owned = self._own(entry.uid, entry.gid, fd)
        self._xattrs(entry, fd)
        self._late[path] = (self._mode(entry, owned), entry.mtime_ns)

    def _add_hardlink(self, entry: Entry, parent: int, parts: list[bytes]) -> None:
        target = _parts(entry, entry.link)
        if not target:
            raise InvalidArchive(f"{entry.shown}: hard link to the archive's root")
        if target == parts:
            return
        self._remove(parent, parts[-1])
        above = self._directory(b"/".join(target[:-1]))
        status = os.stat(target[-1], dir_fd=above, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            raise InvalidArchive(f"{entry.shown}: hard link to a directory")
        os.link(target[-1], parts[-1], src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)

    def _add_symlink(self, entry: Entry, parent: int, base: bytes) -> None:
        if b"\0" in entry.link:
            raise InvalidArchive(f"{entry.shown}: its target has a zero byte")
        self._remove(parent, base)
        os.symlink(entry.link, base, dir_fd=parent)
        self._own(entry.uid, entry.gid, base, parent)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _add_node(self, entry: Entry, parent: int, base: bytes, kind: int) -> None:
        self._remove(parent, base)
        if kind == stat.S_IFCHR and entry.device == (0, 0):
            raise InvalidArchive(f"{entry.shown}: character device 0:0, which overlayfs takes for a whiteout")
        try:
            os.mknod(base, kind | 0o600, os.makedev(*entry.device), dir_fd=parent)
        except PermissionError:
            self.result.warn(f"{entry.shown}: device node skipped: not permitted here")
            return
        except OverflowError as error:
            raise InvalidArchive(f"{entry.shown}: no such device number: {entry.device}") from error
        owned = self._own(entry.uid, entry.gid, base, parent)
        os.chmod(base, self._mode(entry, owned), dir_fd=parent)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    # -- whiteouts -----------------------------------------------------------------------------------------------

    def _whiteout(self, entry: Entry, parent: int, base: bytes) -> None:
        hidden = base[len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise InvalidArchive(f"{entry.shown}: whiteout of {hidden.decode() or 'nothing'!r}")
        if not self._lower:
            return  # nothing is below; a stray whiteout in the lowest layer would be seen as a device
        if base == OPAQUE:
            self._make_opaque(parent)
        elif base.startswith(AUFS):
            return  # metadata of aufs (.wh..wh.plnk, .wh..wh.orph), means nothing here
        else:
            try:
                status = os.stat(hidden, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent)  # 0:0 needs no privilege since Linux 5.8
                return
            if stat.S_ISDIR(status.st_mode):
                fd = os.open(hidden, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
                try:
                    self._make_opaque(fd)
                finally:
                    os.close(fd)

    def _make_opaque(self, fd: int) -> None:
        if not self._rootless:
            try:
                os.setxattr(fd, "trusted.overlay.opaque", b"y")
            except PermissionError:
                pass  # no CAP_SYS_ADMIN in the initial user namespace; the overlay is mounted with userxattr then
            else:
                return
        os.setxattr(fd, "user.overlay.opaque", b"y")

    # -- attributes ----------------------------------------------------------------------------------------------

    def _own(self, uid: int, gid: int, what: int | bytes, parent: int | None = None) -> bool:
        """Set the owner; False when that is not possible here (rootless only)."""
        if (uid, gid) == (0, 0) and os.geteuid() == 0:
            return True
        try:
            if isinstance(what, int):
                os.fchown(what, uid, gid)
            else:
                os.chown(what, uid, gid, dir_fd=parent, follow_symlinks=False)
        except OverflowError as error:
            raise InvalidArchive(f"owner {uid}:{gid} is out of range") from error
        except OSError as error:
            # EINVAL: the id has no mapping in this user namespace (user_namespaces(7)); EPERM: not root at all
            if not self._rootless or error.errno not in (errno.EINVAL, errno.EPERM):
                raise
            self.result.warn(f"owners other than {os.geteuid()} are not kept: only one user id is available")
            return False
        return True

    def _mode(self, entry: Entry, owned: bool) -> int:
        return entry.mode if owned else entry.mode & ~(stat.S_ISUID | stat.S_ISGID)

    def _xattrs(self, entry: Entry, fd: int) -> None:
        for name, value in entry.xattrs.items():
            allowed = name == "security.capability" or name.startswith("user.")
            if not allowed or name.startswith("user.overlay."):
                continue  # trusted.* and user.overlay.* would steer overlayfs; labels are the host's
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EINVAL):
                    raise
                self.result.warn(f"{entry.shown}: attribute {name} was not kept: {error.strerror}")

    def _remove(self, parent: int, base: bytes) -> None:
        """Make way for an entry: a later one of the same name replaces the earlier."""
        try:
            status = os.stat(base, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            remove_tree(base, dir_fd=parent)
        else:
            os.unlink(base, dir_fd=parent)
        if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
            self._forget_directories(kept=parent)  # cached paths may have led through what was removed

    def finish(self) -> None:
        """Modes and times of directories, innermost first: a parent's time changes with its children."""
        for path in sorted(self._late, key=lambda path: path.count(b"/"), reverse=True):
            mode, mtime_ns = self._late[path]
            if not path:
                continue
            try:
                fd = openat2(self._directories[b""], path, _DIRECTORY | os.O_NOFOLLOW)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
                continue  # a later entry replaced it
            try:
                os.fchmod(fd, mode)
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)
        if b"" in self._late:
            mode, mtime_ns = self._late[b""]
            os.fchmod(self._directories[b""], mode)
            os.utime(self._directories[b""], ns=(mtime_ns, mtime_ns))


def _parts(entry: Entry, name: bytes) -> list[bytes]:
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise InvalidArchive(f"{entry.shown}: the path leads out of the archive")
    if not name or b"\0" in name:
        raise InvalidArchive("an entry has an empty or invalid name")
    return parts


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
