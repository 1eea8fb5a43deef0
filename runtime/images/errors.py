"""Errors of the image store: what is wrong with a name, an archive or the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager

from ...netlib.errors import Conflict, InternalError, InvalidArgument, NotFound


class InvalidReference(InvalidArgument):
    """A name that is no image reference (wording of the distribution/reference package)."""

    hint = "a reference is [registry/]name[:tag|@digest], the name in lower case"

    def __init__(self, message: str = "invalid reference format") -> None:
        super().__init__(message)


class InvalidArchive(InvalidArgument):
    """An archive is truncated, corrupt, hostile or of a form that is not understood."""

    hint = "nothing of it was kept; make the archive again and check how it was transferred"


class NoSuchImage(NotFound):
    """No image answers to this name or id (clients match on the text)."""

    hint = "`pynet image ls` shows what there is; `pynet image bootstrap` makes busybox:latest"

    def __init__(self, reference: str) -> None:
        super().__init__(f"No such image: {reference}")
        self.reference = reference


class ImageConflict(Conflict):
    """An image is still needed by a name or a container."""


class StoreFull(InternalError):
    """The disk, a quota or a limit of the store is used up."""

    def __init__(self, path: str, reason: str = "no space left on device") -> None:
        super().__init__(
            f"can not store the image below {path}: {reason}", hint=f"free space on the filesystem of {path}"
        )
        self.path = path


@contextmanager
def disk_errors(path: str) -> Generator[None, None, None]:
    """Turn a full disk into one clear error; every other OSError goes on as it is."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(path, os.strerror(error.errno)) from error
        raise
