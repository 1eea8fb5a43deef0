"""Load for the proxies' benchmark: each function is a process of its own, ``python proxy_load.py NAME [NUMBER ...]``.

Back ends print their port and serve until they are killed; clients print what they measured.  They are built to cost
little beside what they measure: bare descriptors in place of socket objects, a source that sends from one large buffer, a
sink that discards in the kernel (MSG_TRUNC, tcp(7)), datagrams by sendmmsg and recvmmsg, and no garbage collector.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable

from pynet.proxy.dataplane import mmsg

HOST = "127.0.0.1"
FLOWS = 16
"""Sockets that one-way UDP comes from."""


def _listen() -> socket.socket:
    server = socket.create_server((HOST, 0), backlog=4096)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
    print(server.getsockname()[1], flush=True)
    return server


def _accept(server: socket.socket) -> int:
    fd: int = server._accept()[0]
    return fd


def _connected(port: int) -> socket.socket:
    sock = socket.create_connection((HOST, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


# -- TCP -------------------------------------------------------------------------------------------------------------


def sink() -> None:
    """Accept and discard."""
    server = _listen()
    server.setblocking(False)
    poll = select.epoll()
    poll.register(server, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    buffer = bytearray(1 << 20)
    while True:
        for fd, _ in poll.poll():
            if fd == server.fileno():
                with contextlib.suppress(BlockingIOError):
                    sock, _ = server.accept()
                    sock.setblocking(False)
                    connections[sock.fileno()] = sock
                    poll.register(sock, select.EPOLLIN)
                continue
            try:
                if connections[fd].recv_into(buffer, len(buffer), socket.MSG_TRUNC):
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass
            connections.pop(fd).close()


def source(port: int, streams: int, seconds: float) -> None:
    """Send on *streams* connections for *seconds*; print bytes a second."""
    data = memoryview(bytes(1 << 20))
    poll = select.epoll()
    connections: dict[int, socket.socket] = {}
    for _ in range(streams):
        sock = socket.create_connection((HOST, port))
        sock.setblocking(False)
        connections[sock.fileno()] = sock
        poll.register(sock, select.EPOLLOUT)
    sent = 0
    start = time.perf_counter()
    end = start + seconds
    while (now := time.perf_counter()) < end:
        for fd, _ in poll.poll(0.1):
            with contextlib.suppress(BlockingIOError):
                sent += connections[fd].send(data)
    print(sent / (now - start), flush=True)
    for sock in connections.values():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


def greet() -> None:
    """One byte to each connection, and its end."""
    server = _listen()
    while True:
        fd = _accept(server)
        with contextlib.suppress(OSError):
            os.write(fd, b"x")
        os.close(fd)


def connect(port: int, clients: int, seconds: float) -> None:
    """Connect *clients* at a time, each until its byte; print connections a second, p50 and p99 in us."""
    clock, times = time.perf_counter_ns, []
    begin = clock()
    end = begin + int(seconds * 1e9)
    if clients == 1:
        address = (HOST, port)
        while (start := clock()) < end:
            sock = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM)
            sock.connect(address)
            sock.recv(1)
            times.append(clock() - start)
            sock.close()
    else:
        _connect_many(port, clients, end, times)
    whole = clock() - begin
    times.sort()
    print(len(times) / whole * 1e9, times[len(times) // 2] / 1e3, times[len(times) * 99 // 100] / 1e3, flush=True)


def _connect_many(port: int, clients: int, end: int, times: list[int]) -> None:
    clock, poll, address = time.perf_counter_ns, select.epoll(), (HOST, port)
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    live: dict[int, tuple[socket.SocketType, int]] = {}

    def begin() -> None:
        start = clock()
        sock = socket.SocketType(socket.AF_INET, kind)
        sock.connect_ex(address)
        fd = sock.fileno()
        live[fd] = (sock, start)
        poll.register(fd, select.EPOLLIN)

    for _ in range(clients):
        begin()
    while clock() < end:
        for fd, _ in poll.poll(1):
            sock, start = live.pop(fd)
            with contextlib.suppress(OSError):
                if sock.recv(1):
                    times.append(clock() - start)
            sock.close()
            begin()


def echo() -> None:
    """Each connection has a process: one that sends single bytes gets them back, other bytes are discarded."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = _listen()
    while True:
        sock, _ = server.accept()
        if os.fork():
            sock.close()
            continue
        os.setsid()
        buffer = bytearray(1 << 20)
        with contextlib.suppress(OSError):
            while count := sock.recv_into(buffer, len(buffer), socket.MSG_TRUNC):
                if count == 1:
                    sock.send(b"x")
        os._exit(0)


def pingpong(port: int, count: int) -> None:
    """Print p50 and p99 of *count* one-byte round trips, in us."""
    sock = _connected(port)
    fd, clock, read, write = sock.fileno(), time.perf_counter_ns, os.read, os.write
    times: list[int] = []
    for _ in range(count):
        start = clock()
        write(fd, b"x")
        read(fd, 1)
        times.append(clock() - start)
    times = sorted(times[count // 20 :])
    print(times[len(times) // 2] / 1000, times[len(times) * 99 // 100] / 1000, flush=True)


def keep() -> None:
    """Greet with a byte, and keep."""
    server = _listen()
    while True:
        os.write(_accept(server), b"x")


def hold(port: int, count: int) -> None:
    """Open *count* connections, each to its greeting, or as many as get one; say how many, and keep them until stdin ends."""
    kept: list[socket.socket] = []
    with contextlib.suppress(OSError):
        while len(kept) < count:
            sock = _connected(port)
            sock.settimeout(5)
            if not sock.recv(1):
                break
            kept.append(sock)
    print(len(kept), flush=True)
    sys.stdin.read()


# -- UDP -------------------------------------------------------------------------------------------------------------


def _datagrams(receive_buffer: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    return sock


def _served() -> socket.socket:
    sock = _datagrams(8 << 20)
    sock.bind((HOST, 0))
    print(sock.getsockname()[1], flush=True)
    return sock


def udp_sink() -> None:
    """Count datagrams; a datagram of 1 byte asks for the count since the last question."""
    sock = _served()
    slots = mmsg.Slots()
    receiver = mmsg.Receiver(slots, mmsg.IPV4)
    count = 0
    while True:
        select.select([sock], [], [])
        while number := receiver.receive(sock.fileno()):
            lengths = receiver.lengths(number)
            if 1 in lengths:
                record = receiver.records(number)[lengths.index(1) * mmsg.IPV4.record :]
                port, ip = struct.unpack("!xxH4s", record[:8])
                sock.sendto(str(count).encode(), (socket.inet_ntoa(ip), port))
                count = 0
            else:
                count += number


def udp_blast(port: int, size: int, segments: int, seconds: float) -> None:
    """Send datagrams of *size* bytes as fast as the system takes them, *segments* in one buffer (UDP_SEGMENT, udp(7))."""
    socks: list[socket.socket] = []
    for _ in range(FLOWS):
        sock = _datagrams()
        sock.connect((HOST, port))
        if segments > 1:
            sock.setsockopt(socket.IPPROTO_UDP, 103, size)
        socks.append(sock)
    slots = mmsg.Slots()
    batch = mmsg.BATCH // segments
    slots.aim(0, (size * segments,) * batch)
    sender = mmsg.Sender(slots)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for sock in socks:
            sender.send(sock.fileno(), batch)


def udp_echo() -> None:
    sock = _served()
    slots = mmsg.Slots()
    receiver, sender = mmsg.Receiver(slots, mmsg.IPV4), mmsg.Sender(slots, mmsg.IPV4)
    size = mmsg.IPV4.record
    while True:
        select.select([sock], [], [])
        while number := receiver.receive(sock.fileno()):
            records, lengths = receiver.records(number), receiver.lengths(number)
            first = 0
            while first < number:
                key, after = records[first * size : (first + 1) * size], first + 1
                while after < number and records.startswith(key, after * size):
                    after += 1
                slots.aim(first, lengths[first:after])
                sender.to(key)
                sender.send(sock.fileno(), after - first)
                first = after


def udp_window(port: int, window: int, seconds: float) -> None:
    """Keep *window* datagrams of 64 bytes under way; print round trips a second."""
    sock = _datagrams()
    sock.connect((HOST, port))
    slots = mmsg.Slots()
    receiver, sender = mmsg.Receiver(slots), mmsg.Sender(slots)
    done, room = 0, window
    start = time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        slots.aim(0, (64,) * room)
        sender.send(sock.fileno(), room)
        if not select.select([sock], [], [], 0.1)[0]:
            room = window  # something was lost: fill the window again
            continue
        room = receiver.receive(sock.fileno())
        done += room
    print(done / (now - start), flush=True)


def udp_hold(port: int, count: int) -> None:
    """Be *count* clients that have an answer each, say so, and keep them until stdin ends."""
    kept: list[socket.socket] = []
    for _ in range(count):
        sock = _datagrams()
        sock.connect((HOST, port))
        sock.settimeout(5)
        sock.send(b"hello")
        sock.recv(100)
        kept.append(sock)
    print(len(kept), flush=True)
    sys.stdin.read()


def main() -> None:
    loads: dict[str, Callable[..., None]] = {
        load.__name__: load
        for load in (
            *(sink, source, greet, connect, echo, pingpong, keep, hold),
            *(udp_sink, udp_blast, udp_echo, udp_window, udp_hold),
        )
    }
    gc.disable()
    loads[sys.argv[1]](*(float(word) if "." in word else int(word) for word in sys.argv[2:]))


if __name__ == "__main__":
    main()
