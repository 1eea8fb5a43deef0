"""Resource limits by name, as ``--ulimit`` and the API have them: ("nofile", soft, hard); -1 is no limit (getrlimit(2))."""

from __future__ import annotations

import resource

KINDS: dict[str, int] = {
    name.removeprefix("RLIMIT_").lower(): getattr(resource, name)
    for name in dir(resource)
    if name.startswith("RLIMIT_")
}
"""Name to the kernel's number, of what this kernel's headers have."""


def check(name: str, soft: int, hard: int) -> int:
    """The number of limit *name*; ValueError in Docker's words when there is none, or when soft is above hard."""
    kind = KINDS.get(name.lower())
    if kind is None:
        raise ValueError(f"invalid ulimit type: {name}")
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return kind
