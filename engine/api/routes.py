"""All routes of the API, in one table."""

from __future__ import annotations

from . import routes_containers, routes_images, routes_objects, routes_streams, routes_system
from .server import Route

ROUTES: list[Route] = [
    *routes_system.ROUTES,
    *routes_containers.ROUTES,
    *routes_streams.ROUTES,
    *routes_objects.ROUTES,
    *routes_images.ROUTES,
]
