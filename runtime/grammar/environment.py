"""The environment that a program finds when nobody says otherwise: Docker's defaults, in one place.  Pure."""

from __future__ import annotations

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""moby, pkg/system/path_unix.go."""
TERM = "xterm"
"""With a terminal."""


def environment(env: list[str], *, hostname: str, tty: bool) -> dict[str, str]:
    """Docker's defaults (PATH, HOSTNAME, TERM with a terminal) under what *env* says; a later entry wins.

    An entry without "=" takes the variable away.
    """
    result = {"PATH": DEFAULT_PATH}
    if hostname:
        result["HOSTNAME"] = hostname
    if tty:
        result["TERM"] = TERM
    for entry in env:
        key, equals, value = entry.partition("=")
        if equals and key:
            result[key] = value
        elif not equals:
            result.pop(key, None)
    return result
