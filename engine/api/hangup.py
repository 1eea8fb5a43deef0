"""Clients that close their half of the connection: do they wait for an answer, or are they gone?

A read ends the same way for both.  The kernel knows: POLLHUP is set on a Unix stream socket when both directions are shut, as
the peer's ``close`` does it, and not after its ``shutdown(SHUT_WR)`` (net/unix/af_unix.c, unix_poll).  The loop watches a
socket for data only, so after a half-close we look at it once a second.
"""

from __future__ import annotations

import asyncio
import select

LOOK_SECONDS = 1.0


class Hangup:
    """For one connection, in its loop."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None

    def half_closed(self) -> bool:
        """The client sent its last byte.  False when it is gone; else True, and a later hang-up ends the connection."""
        if self._gone():
            return False
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
        return True

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self._gone():
            self._transport.abort()
        else:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _gone(self) -> bool:
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(sock.fileno(), 0)  # POLLHUP and POLLERR are always told
        return bool(poll.poll(0))
