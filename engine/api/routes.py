"""All routes of the API, in one table."""

from __future__ import annotations

from . import (
    routes_capture,
    routes_containers,
    routes_images,
    routes_names,
    routes_networks,
    routes_ports,
    routes_streams,
    routes_system,
    routes_unsupported,
    routes_volumes,
)
from .server import Route

ROUTES: list[Route] = [
    *routes_system.ROUTES,
    *routes_containers.ROUTES,
    *routes_streams.ROUTES,
    *routes_networks.ROUTES,
    *routes_ports.ROUTES,
    *routes_capture.ROUTES,
    *routes_names.ROUTES,
    *routes_volumes.ROUTES,
    *routes_unsupported.ROUTES,
    *routes_images.ROUTES,
]
