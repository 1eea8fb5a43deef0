"""pynet: container networking as a library, and the small engine that stands on it.

``from pynet import Controller`` is where an embedding program starts (docs/library.md).  Names are loaded on first
use, so importing the package costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would cost more than all the rest of a short command
if TYPE_CHECKING:
    from typing import Any

    from .netlib.controller import Controller
    from .netlib.version import __version__

__all__ = ["Controller", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from .netlib.version import __version__

        return __version__
    if name == "Controller":
        from .netlib.controller import Controller

        return Controller
    raise AttributeError(f"module 'pynet' has no attribute {name!r}")
