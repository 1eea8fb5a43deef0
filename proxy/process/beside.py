"""What another process of the run directory has for the metrics page: asked when the page is, and left out where it is not there.

RUN/names.sock <- {"op": "exposition"} <- here        its families, whole, in the text format
"""

from __future__ import annotations

import asyncio
import socket

from ...netlib.control.questions import result
from ...netlib.errors import PynetError
from .peer import Peer

PATIENCE = 2.0
"""Seconds that a process has to answer: the page is not to wait for one that hangs."""


async def exposition(path: str) -> str:
    """What the process at *path* tells; "" when nobody is there, or it does not answer."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, path)
    except OSError:
        sock.close()
        return ""
    peer = Peer(loop, sock)
    try:
        answer, _ = result(await asyncio.wait_for(peer.request({"op": "exposition"}), PATIENCE))
        return str(answer["text"])
    except (PynetError, TimeoutError, KeyError):
        return ""
    finally:
        peer.close()
