"""The load: questions to a name server from inside a network namespace, a window of them under way.

    python bench/dns_load.py NETNS ADDRESS NAME WINDOW QUESTIONS      prints JSON: rate (1/s), p50, p99 (us), lost

One connected UDP socket, as a client of getaddrinfo has; a question goes out for each answer that comes, ids tell them apart.
What does not come within a second is asked again and counted as lost.  NAME ``*.example.org``: another name each time, so that
nobody can know it already.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
import sys
from time import perf_counter, time_ns

from pynet.names.message import wire_name
from pynet.netlib.kernel.syscall import CLONE_NEWNET, setns


def ask(address: str, name: str, window: int, questions: int) -> dict[str, float]:
    head = struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0)
    tail, fresh = head + wire_name(name) + b"\0\1\0\1", name.startswith("*")
    numbers = itertools.count(time_ns())
    ids = [n.to_bytes(2, "big") for n in range(window)]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((address, 53))
    sock.settimeout(1.0)
    send, receive = sock.send, sock.recv
    first = _once(sock, ids[0] + tail)
    if first[3] & 15 or not first[7]:
        raise SystemExit(f"no address of {name}: {first!r}")
    for _ in range(200):
        _once(sock, ids[0] + tail)
    begun = [0.0] * window
    took: list[float] = []
    lost = 0
    start = perf_counter()
    for number, id in enumerate(ids):
        begun[number] = perf_counter()
        send(id + tail)
    while len(took) < questions:
        try:
            reply = receive(4096)
        except TimeoutError:
            lost += window
            for id in ids:
                send(id + tail)
            continue
        now = perf_counter()
        number = reply[0] << 8 | reply[1]
        took.append(now - begun[number])
        begun[number] = now
        if fresh:
            tail = head + wire_name(f"{next(numbers):x}{name[1:]}") + b"\0\1\0\1"
        send(reply[:2] + tail)
    seconds = perf_counter() - start
    took.sort()
    return {
        "rate": questions / seconds,
        "p50": took[len(took) // 2] * 1e6,
        "p99": took[len(took) * 99 // 100] * 1e6,
        "lost": lost,
    }


def _once(sock: socket.socket, data: bytes) -> bytes:
    sock.send(data)
    return sock.recv(4096)


def main() -> None:
    path, address, name, window, questions = sys.argv[1:]
    fd = os.open(path, os.O_RDONLY)
    setns(fd, CLONE_NEWNET)
    os.close(fd)
    print(json.dumps(ask(address, name, int(window), int(questions))))


if __name__ == "__main__":
    main()
