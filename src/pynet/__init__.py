"""pynet: container networking as a library, and the small engine that stands on it.

``from pynet import Controller, IpamConfig`` is where an embedding program starts (docs/library.md).  Names are loaded on
first use, so importing the package costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would cost more than all the rest of a short command
if TYPE_CHECKING:
    from .names.process.launch import NameService
    from .names.resolver import Resolver
    from .netlib.controller import Controller
    from .netlib.driver import Driver
    from .netlib.errors import PynetError
    from .netlib.handles import Endpoint, Network, Sandbox
    from .netlib.model import IpamConfig, Naming, PublishedPort
    from .netlib.ports.portspec import PortBinding, parse_publish
    from .netlib.version import __version__
    from .proxy.api import Forwarder

__all__ = [
    "Controller",
    "Driver",
    "Endpoint",
    "Forwarder",
    "IpamConfig",
    "NameService",
    "Naming",
    "Network",
    "PortBinding",
    "PublishedPort",
    "PynetError",
    "Resolver",
    "Sandbox",
    "__version__",
    "parse_publish",
]

_WHERE = {
    "Controller": ".netlib.controller",
    "Driver": ".netlib.driver",
    "Endpoint": ".netlib.handles",
    "Forwarder": ".proxy.api",
    "IpamConfig": ".netlib.model",
    "NameService": ".names.process.launch",
    "Naming": ".netlib.model",
    "Network": ".netlib.handles",
    "PortBinding": ".netlib.ports.portspec",
    "PublishedPort": ".netlib.model",
    "PynetError": ".netlib.errors",
    "Resolver": ".names.resolver",
    "Sandbox": ".netlib.handles",
    "__version__": ".netlib.version",
    "parse_publish": ".netlib.ports.portspec",
}


def __getattr__(name: str) -> object:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'pynet' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(where, __name__), name)
    globals()[name] = value
    return value
