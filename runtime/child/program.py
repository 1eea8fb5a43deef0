"""Which program a container runs: the search that names Docker's errors.

The codes are Docker's: 127 for what does not exist, 126 for what exists and can not be executed, 125 for the rest.
"""

from __future__ import annotations

import errno
import os
import stat

CANNOT_START, CANNOT_EXECUTE, NOT_FOUND = 125, 126, 127


class ExecError(Exception):
    """The program can not be executed: ``str`` is Docker's text, ``code`` the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def add_home(env: dict[str, str], home: str) -> None:
    """HOME from the container's passwd file unless the environment has one that is not empty."""
    if not env.get("HOME"):
        env["HOME"] = home


def find(name: str, path: str) -> str:
    """The file to execute for *name*, found as Go's exec.LookPath and runc do; ExecError says why there is none."""
    if "/" in name:
        try:
            status = os.stat(name)
        except OSError as error:
            raise _stat_error(name, error) from None
        if stat.S_ISDIR(status.st_mode):
            raise ExecError(f'exec: "{name}": is a directory', CANNOT_EXECUTE)
        if not os.access(name, os.X_OK, effective_ids=True):
            raise ExecError(f'exec: "{name}": permission denied', CANNOT_EXECUTE)
        return name
    for directory in path.split(":"):
        candidate = os.path.join(directory or ".", name)
        try:
            status = os.stat(candidate)
        except OSError:
            continue  # a missing or closed directory: the next may have it
        if not stat.S_ISDIR(status.st_mode) and os.access(candidate, os.X_OK, effective_ids=True):
            return candidate
    raise ExecError(f'exec: "{name}": executable file not found in $PATH', NOT_FOUND)


def _stat_error(name: str, error: OSError) -> ExecError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        text = "no such file or directory" if error.errno == errno.ENOENT else "not a directory"
        return ExecError(f'exec: "{name}": stat {name}: {text}', NOT_FOUND)
    text = "permission denied" if error.errno == errno.EACCES else os.strerror(error.errno or 0).lower()
    return ExecError(f'exec: "{name}": {text}', CANNOT_EXECUTE)


def execve_error(name: str, error: OSError) -> ExecError:
    """What a failed execve(2) of an existing, executable file means: a wrong format, or its interpreter is missing."""
    texts = {errno.ENOEXEC: "exec format error", errno.ENOENT: "no such file or directory"}
    text = texts.get(error.errno or 0) or os.strerror(error.errno or 0).lower()
    return ExecError(f"exec {name}: {text}", NOT_FOUND if error.errno == errno.ENOENT else CANNOT_EXECUTE)
