"""What a resource is: a frozen value that says everything that is needed to make one thing in the kernel.

Its ``key`` does not depend on its other fields, so that a plan can be compared with the kernel and with another plan.  How each
class of values is made, unmade and looked at is its kind's business (kind.py).
"""

from __future__ import annotations

from dataclasses import dataclass

Key = tuple[str, ...]


@dataclass(frozen=True)
class Resource:
    """A thing that must exist.  ``title`` names it in errors, ``str()`` is its line when a plan is shown."""

    @property
    def key(self) -> Key:
        """What it is, whatever its other fields say; the first word is the sort of thing ("link", "netns", ...)."""
        raise NotImplementedError

    @property
    def holds(self) -> tuple[Key, ...]:
        """All that ends with it: itself, and the other end of a pair."""
        return (self.key,)

    @property
    def goes_with(self) -> tuple[Key, ...]:
        """What takes it along when it ends: a namespace its interfaces, an interface its routes."""
        return ()

    @property
    def exclusive(self) -> bool:
        """Whether it can be part of one network alone; a parameter of the whole host may be wanted by many."""
        return True

    @property
    def shared(self) -> bool:
        """Whether several networks may have it, none of them for itself, and the last one that has it takes it along."""
        return False

    @property
    def title(self) -> str:
        raise NotImplementedError

    @property
    def details(self) -> str:
        return ""

    def __str__(self) -> str:
        return f"{self.title}: {self.details}" if self.details else self.title


def joined(address: str, port: int) -> str:
    """ "10.1.0.2:80", "[fd00::2]:80" (RFC 3986 3.2.2)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
