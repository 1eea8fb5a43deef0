"""pynet: container networking as a library, and the small engine that stands on it.

``from pynet import Controller`` is where an embedding program starts (docs/library.md).  Names are loaded on first
use, so importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .netlib.version import __version__

if TYPE_CHECKING:
    from .netlib.controller import Controller

__all__ = ["Controller", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Controller":
        from .netlib.controller import Controller

        return Controller
    raise AttributeError(f"module 'pynet' has no attribute {name!r}")
