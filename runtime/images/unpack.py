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

A parent that the archive does not mention takes its mode and owner from the lower layers, else is root's 0755.  The
layer's root, the container's "/", is root's 0755 whatever its entry says: archives of a directory that mktemp(1) made say
0700, and nobody but root could enter (moby, pkg/archive: an entry "." is passed over).

*Rootless* (no root, or a user namespace that maps few ids): an owner that can not be set is left as it is, set-id bits
that would then belong to another user are dropped, device nodes are skipped; each with a warning.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from ...netlib.kernel.tree import remove_tree
from .attributes import Attributes, is_rootless
from .directories import DIRECTORY, Directories
from .errors import InvalidArchive
from .inflate import Inflated
from .limits import Budget, Limits
from .tarstream import Entry, TarReader

WHITEOUT, OPAQUE, AUFS = b".wh.", b".wh..wh..opq", b".wh..wh."
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
    errno.E2BIG: "an extended attribute is too large",
    errno.ERANGE: "the name of an extended attribute is too long",
}


@dataclass(frozen=True, slots=True)
class Unpacked:
    entries: int
    size: int
    """Sum of the files' sizes."""
    warnings: list[str]
    """What could not be kept here: one line each, the first few."""


def unpack(
    stream: Inflated,
    destination: str,
    *,
    lower: Sequence[str] = (),
    budget: Budget | None = None,
    rootless: bool | None = None,
) -> Unpacked:
    """Unpack *stream* into the empty directory *destination*; *lower* are the layers below, topmost first.

    Reads the stream to its end.  On any error the destination holds a part of the layer; the caller removes it.
    """
    budget = budget or Budget(Limits())
    attributes = Attributes(is_rootless() if rootless is None else rootless)
    directories = Directories(destination, lower, attributes, budget)
    try:
        unpacker = _Unpacker(directories, attributes, budget)
        reader = TarReader(stream)
        for entry in reader:
            try:
                unpacker.add(entry, reader)
            except OSError as error:
                reason = _ARCHIVE_ERRNOS.get(error.errno or 0)
                if reason is None:
                    raise
                raise InvalidArchive(f"can not unpack {entry.shown}: {reason}") from error
        directories.finish()
        stream.drain()
    finally:
        directories.close()
    return Unpacked(unpacker.entries, unpacker.size, attributes.warnings)


class _Unpacker:
    def __init__(self, directories: Directories, attributes: Attributes, budget: Budget) -> None:
        self._directories, self._attributes, self._budget = directories, attributes, budget
        self.entries = self.size = 0

    # -- entries -------------------------------------------------------------------------------------------------

    def add(self, entry: Entry, reader: TarReader) -> None:
        self.entries += 1
        self._budget.spend_entry()
        parts = _parts(entry, entry.name)
        if not parts:
            if entry.kind != "directory":
                raise InvalidArchive(f"the archive's root is a {entry.kind}")
            return
        self._directories.trim()
        *above, base = parts
        parent = self._directories.open(b"/".join(above))
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
            self.size += entry.size
            os.fchmod(
                fd, self._attributes.mode(entry, self._attributes.own(entry.uid, entry.gid, fd))
            )  # chown clears set-id bits
            self._attributes.set_xattrs(entry, fd)  # after chown, which removes security.capability
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
        fd = self._directories.open(path)
        if opaque:
            self._attributes.make_opaque(fd)
        self._finish_directory(entry, path, fd)

    def _finish_directory(self, entry: Entry, path: bytes, fd: int) -> None:
        owned = self._attributes.own(entry.uid, entry.gid, fd)
        self._attributes.set_xattrs(entry, fd)
        self._directories.finish_later(path, self._attributes.mode(entry, owned), entry.mtime_ns)

    def _add_hardlink(self, entry: Entry, parent: int, parts: list[bytes]) -> None:
        target = _parts(entry, entry.link)
        if not target:
            raise InvalidArchive(f"{entry.shown}: hard link to the archive's root")
        if target == parts:
            return
        self._remove(parent, parts[-1])
        above = self._directories.open(b"/".join(target[:-1]))
        status = os.stat(target[-1], dir_fd=above, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            raise InvalidArchive(f"{entry.shown}: hard link to a directory")
        os.link(target[-1], parts[-1], src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)

    def _add_symlink(self, entry: Entry, parent: int, base: bytes) -> None:
        if b"\0" in entry.link:
            raise InvalidArchive(f"{entry.shown}: its target has a zero byte")
        self._remove(parent, base)
        os.symlink(entry.link, base, dir_fd=parent)
        self._attributes.own(entry.uid, entry.gid, base, parent)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _add_node(self, entry: Entry, parent: int, base: bytes, kind: int) -> None:
        self._remove(parent, base)
        if kind == stat.S_IFCHR and entry.device == (0, 0):
            raise InvalidArchive(f"{entry.shown}: character device 0:0, which overlayfs takes for a whiteout")
        try:
            os.mknod(base, kind | 0o600, os.makedev(*entry.device), dir_fd=parent)
        except PermissionError:
            self._attributes.warn(f"{entry.shown}: device node skipped: not permitted here")
            return
        except OverflowError as error:
            raise InvalidArchive(f"{entry.shown}: no such device number: {entry.device}") from error
        owned = self._attributes.own(entry.uid, entry.gid, base, parent)
        os.chmod(base, self._attributes.mode(entry, owned), dir_fd=parent)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    # -- whiteouts -----------------------------------------------------------------------------------------------

    def _whiteout(self, entry: Entry, parent: int, base: bytes) -> None:
        hidden = base[len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise InvalidArchive(f"{entry.shown}: whiteout of {hidden.decode() or 'nothing'!r}")
        if not self._directories.has_lower:
            return  # nothing is below; a stray whiteout in the lowest layer would be seen as a device
        if base == OPAQUE:
            self._attributes.make_opaque(parent)
        elif base.startswith(AUFS):
            return  # metadata of aufs (.wh..wh.plnk, .wh..wh.orph), means nothing here
        else:
            try:
                status = os.stat(hidden, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent)  # 0:0 needs no privilege since Linux 5.8
                return
            if stat.S_ISDIR(status.st_mode):
                fd = os.open(hidden, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
                try:
                    self._attributes.make_opaque(fd)
                finally:
                    os.close(fd)

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
            self._directories.forget(but=parent)  # cached paths may have led through what was removed


def _parts(entry: Entry, name: bytes) -> list[bytes]:
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise InvalidArchive(f"{entry.shown}: the path leads out of the archive")
    if not name or b"\0" in name:
        raise InvalidArchive("an entry has an empty or invalid name")
    return parts


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
