"""Versions of the Engine API that are spoken."""

from __future__ import annotations

Version = tuple[int, int]

API_VERSION: Version = (1, 51)
"""Newest version: the last that has the top-level addresses of NetworkSettings, which clients still read."""
MIN_API_VERSION: Version = (1, 24)


def version_text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
