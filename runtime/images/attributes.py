"""Owners, modes and extended attributes of what is unpacked: what an archive may set, and what can be set here.

*Rootless* (no root, or a user namespace that maps few ids): an owner that can not be set is left as it is, set-id bits that
would then belong to another user are dropped; each with a warning.
"""

from __future__ import annotations

import errno
import os
import stat

from .errors import InvalidArchive
from .tarstream import Entry

MAX_WARNINGS = 20


def is_rootless() -> bool:
    """True unless we are root with every uid: only then can owners and device nodes be made."""
    if os.geteuid() != 0:
        return True
    try:
        with open("/proc/self/uid_map") as uid_map:
            return int(uid_map.readline().split()[2]) < 65536
    except (OSError, IndexError, ValueError):
        return False


class Attributes:
    def __init__(self, rootless: bool) -> None:
        self._rootless = rootless
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        if len(self.warnings) < MAX_WARNINGS and text not in self.warnings:
            self.warnings.append(text)

    def make_opaque(self, fd: int) -> None:
        if not self._rootless:
            try:
                os.setxattr(fd, "trusted.overlay.opaque", b"y")
            except PermissionError:
                pass  # no CAP_SYS_ADMIN in the initial user namespace; the overlay is mounted with userxattr then
            else:
                return
        os.setxattr(fd, "user.overlay.opaque", b"y")

    def own(self, uid: int, gid: int, what: int | bytes, parent: int | None = None) -> bool:
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
            self.warn(f"owners other than {os.geteuid()} are not kept: only one user id is available")
            return False
        return True

    def mode(self, entry: Entry, owned: bool) -> int:
        return entry.mode if owned else entry.mode & ~(stat.S_ISUID | stat.S_ISGID)

    def set_xattrs(self, entry: Entry, fd: int) -> None:
        for name, value in entry.xattrs.items():
            allowed = name == "security.capability" or name.startswith("user.")
            if not allowed or name.startswith("user.overlay."):
                continue  # trusted.* and user.overlay.* would steer overlayfs; labels are the host's
            if "\0" in name:
                raise InvalidArchive(f"{entry.shown}: the name of an attribute has a zero byte")
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EINVAL):
                    raise
                self.warn(f"{entry.shown}: attribute {name} was not kept: {error.strerror}")
