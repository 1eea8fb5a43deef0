"""System calls that signals interrupt: the supervisor lives with SIGCHLD, and must not lose an exit to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pynet.runtime import linux


@pytest.fixture
def storm() -> Iterator[None]:
    """SIGALRM every 20 microseconds, with a handler: interrupted calls fail with EINTR."""

    def heard(_number: int, _frame: object) -> None:
        pass

    before = signal.signal(signal.SIGALRM, heard)
    signal.setitimer(signal.ITIMER_REAL, 0.00002, 0.00002)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_signal_does_not_interrupt_a_look_into_a_pipe(storm: None) -> None:
    """tee(2) of an empty pipe looks for signals before it says EAGAIN: an exit was lost to that, and its container hung."""
    empty, theirs = os.pipe()
    target = os.pipe()
    for _ in range(1000):
        with pytest.raises(BlockingIOError):
            linux.tee(empty, target[1], 65536)
    for fd in (empty, theirs, *target):
        os.close(fd)
