"""Directory trees that others filled: removing one, measuring one.

    here   = openat2(above, name, NO_SYMLINKS | NO_XDEV)      down: one component, no link, no mount
    above  = openat2(here, "..")                              up: must be the directory we came from
    leaf   = unlinkat(here, name)

A container, an image or a volume's user decides how deep and how wide a tree is, and may have left links and mounts in
it.  So nothing here recurses, no path is ever built of what is found (100,000 directories in one another have a path that
no call takes), two descriptors are open at a time, and of each level on the way only the names of the directories still
to be seen are kept, packed.  A directory that is moved elsewhere while we are in it is noticed when we go up: the walk ends.

Why not shutil.rmtree: it recurses until Python 3.13, and RecursionError is no OSError, so ``ignore_errors`` does not help;
it holds a descriptor a level; it crosses mounts.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .syscall import RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

ERRORS_KEPT = 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
_SEPARATOR = b"/"  # in no file name

Failed = Callable[[OSError], object]


class Found(NamedTuple):
    """Something in a tree; ``above`` is open until the next one is asked for."""

    above: int
    """A descriptor of the directory that it is in."""
    name: bytes
    is_directory: bool


def remove_tree(
    path: str | bytes | os.PathLike[str], *, dir_fd: int | None = None, errors: list[OSError] | None = None
) -> None:
    """Remove *path* (below *dir_fd*) and all that is in it: a directory, a file, or a link, which is not followed.

    What is gone already is fine.  As much as possible is removed whatever fails; then the failures, ERRORS_KEPT at most, are
    in *errors*, or without that the first is raised.  A mount is left alone (EXDEV), and so is what it stands in.
    Directories that their owner may not enter or change are opened up first.
    """
    found: list[OSError] = []

    def failed(error: OSError) -> None:
        if len(found) < ERRORS_KEPT:
            found.append(error)

    try:
        _remove(os.path.normpath(os.fsencode(path)), dir_fd, failed)
    except OSError as error:
        failed(error)
    if errors is not None:
        errors += found
    elif found:
        raise found[0]


def discard_tree(path: str | os.PathLike[str], tell: Callable[[str], object]) -> None:
    """``remove_tree`` for what nobody waits for: a failure is told in one line (``log.warning``), and never raised."""
    errors: list[OSError] = []
    remove_tree(path, errors=errors)
    if errors:
        tell(f"{os.fspath(path)} could not be removed wholly: {errors[0]}")


def tree_size(path: str | os.PathLike[str]) -> int:
    """The bytes of the regular files below *path*, each once whatever links it has; 0 when there is no such directory.

    What comes and goes meanwhile, or can not be entered, is not counted; nor are mounts.
    """
    size = 0
    linked: set[tuple[int, int]] = set()
    try:
        top = os.open(path, _DIRECTORY)
    except OSError:
        return 0
    try:
        for found in _below(top, lambda _: None):
            if found.is_directory:
                continue
            try:
                status = os.stat(found.name, dir_fd=found.above, follow_symlinks=False)
            except OSError:
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            if status.st_nlink > 1:
                if _identity(status) in linked:
                    continue
                linked.add(_identity(status))
            size += status.st_size
    except OSError:
        pass  # the tree was moved while it was measured; an estimate is all that this can be
    finally:
        os.close(top)
    return size


def _remove(path: bytes, dir_fd: int | None, failed: Failed) -> None:
    directory, name = os.path.split(path)
    if name in (b"", b".", b".."):
        raise ValueError(f"{path!r} names no entry of a directory")
    if not _is_directory(path, dir_fd):
        _gone(os.unlink, path, dir_fd, failed)
        return
    above = os.open(directory or b".", _DIRECTORY & ~os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        top = _enter(above, name, writable=True)
        try:
            for found in _below(top, failed, writable=True):
                _gone(os.rmdir if found.is_directory else os.unlink, found.name, found.above, failed)
        finally:
            os.close(top)
        _gone(os.rmdir, name, above, failed)
    except FileNotFoundError:
        pass
    finally:
        os.close(above)


def _is_directory(path: bytes, dir_fd: int | None) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _gone(call: Callable[..., None], name: bytes, dir_fd: int | None, failed: Failed) -> None:
    """unlink(2) or rmdir(2): it is fine when somebody else was first."""
    while True:
        try:
            call(name, dir_fd=dir_fd)
        except InterruptedError:
            continue  # signal(7): of filesystems that wait for a server; Python tries only some calls again
        except FileNotFoundError:
            pass
        except OSError as error:
            failed(error)
        return


# -- the walk --------------------------------------------------------------------------------------------------------


class _Level:
    """A directory on the way from the top to where we are."""

    __slots__ = ("identity", "name", "waiting")

    def __init__(self, name: bytes, fd: int) -> None:
        self.name = name
        self.identity = _identity(os.fstat(fd))
        self.waiting = bytearray()
        """Names of the directories in it that were not entered yet, each with a separator behind it."""

    def push(self, name: bytes) -> None:
        self.waiting += name + _SEPARATOR

    def pop(self) -> bytes:
        start = self.waiting.rfind(_SEPARATOR, 0, -1) + 1
        name = bytes(self.waiting[start:-1])
        del self.waiting[start:]
        return name


def _below(top: int, failed: Failed, *, writable: bool = False) -> Iterator[Found]:
    """All that is below the directory *top*, a directory after what is in it.  OSError when the way back is lost."""
    levels = [_Level(b"", top)]
    here = top
    try:
        yield from _files(here, levels[-1], failed)
        while True:
            if levels[-1].waiting:
                name = levels[-1].pop()
                try:
                    below = _enter(here, name, writable=writable)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    failed(error)
                    continue
                if here != top:
                    os.close(here)
                here = below
                levels.append(_Level(name, here))
                yield from _files(here, levels[-1], failed)
            elif len(levels) > 1:
                left = levels.pop()
                above = top if len(levels) == 1 else _leave(here, levels[-1].identity)
                os.close(here)
                here = above
                yield Found(here, left.name, True)
            else:
                return
    finally:
        if here != top:
            os.close(here)


def _files(here: int, level: _Level, failed: Failed) -> Iterator[Found]:
    """What is in a directory and none itself; the directories are left waiting."""
    try:
        with os.scandir(here) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    level.push(name)
                else:
                    yield Found(here, name, False)
    except OSError as error:
        failed(error)


def _enter(above: int, name: bytes, *, writable: bool) -> int:
    """A descriptor of the directory *name*; *writable* opens it up for its owner where that is needed."""
    try:
        fd = _open(above, name)
    except PermissionError:
        if not writable:
            raise
        _open_up(above, name)
        fd = _open(above, name)
    if writable and os.fstat(fd).st_mode & 0o700 != 0o700:
        try:
            os.fchmod(fd, 0o700)
        except OSError:
            pass  # another's; whoever may override modes (capabilities(7), CAP_DAC_OVERRIDE) does not need it
    return fd


def _open_up(above: int, name: bytes) -> None:
    fd = openat2(above, name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, resolve=_RESOLVE)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)  # fchmod(2) takes no O_PATH descriptor
    finally:
        os.close(fd)


def _leave(here: int, expected: tuple[int, int]) -> int:
    above = _open(here, b"..")
    if _identity(os.fstat(above)) != expected:
        os.close(above)
        raise OSError(errno.ESTALE, "a directory was moved while its tree was walked")
    return above


def _open(above: int, name: bytes) -> int:
    while True:
        try:
            return openat2(above, name, _DIRECTORY, resolve=_RESOLVE)
        except InterruptedError:
            continue


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
