"""What is mounted into a container must be there: anonymous volumes are made, missing bind sources made or told."""

from __future__ import annotations

import os
from dataclasses import replace

from ...netlib.errors import InvalidArgument
from ..volumes import Volumes
from .mounts import MountPoint


def make_source(point: MountPoint, volumes: Volumes) -> MountPoint:
    """See that what is mounted exists; returns the point with the name of its volume."""
    if point.kind == "volume":
        return replace(point, name=volumes.create(point.name, point.labels)["name"])
    if point.kind == "bind" and not os.path.lexists(point.source):
        if not point.create:
            raise InvalidArgument(
                f'invalid mount config for type "bind": bind source path does not exist: {point.source}',
                hint="make it first, or use -v, which makes a directory",
            )
        try:
            os.makedirs(point.source, exist_ok=True)
        except OSError as error:
            raise InvalidArgument(f"error while creating mount source path '{point.source}': {error}") from error
    return point
