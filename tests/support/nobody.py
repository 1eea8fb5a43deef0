"""What an ordinary user may do, in a process of root's."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pynet.plugins.isolation import maps_every_uid


@contextmanager
def as_nobody(*owned: Path) -> Generator[None, None, None]:
    """Without the privileges of root over files, which are taken from this thread (setfsuid(2)); *owned* are nobody's."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0:
        yield
        return
    if not maps_every_uid():
        pytest.skip("this user namespace has no other user")
    for path in owned:
        os.chown(path, 65534, 65534)
    libc.setfsuid(65534)
    try:
        yield
    finally:
        libc.setfsuid(0)
