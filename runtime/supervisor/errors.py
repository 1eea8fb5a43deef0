"""Why a container or an exec does not start, with Docker's exit code; everything else is of netlib/errors.py's tree."""

from __future__ import annotations

from ..child.program import CANNOT_START


class StartError(Exception):
    """A start failed; ``code`` is Docker's 125, 126 or 127."""

    def __init__(self, message: str, code: int = CANNOT_START) -> None:
        super().__init__(message)
        self.message, self.code = message, code


def describe(error: OSError) -> str:
    """One line: the file that it is about, if any, and what the kernel says."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
