"""A published UDP port: who sent a datagram decides which back-end socket passes it on, and where answers go.

    client A --.                .-- socket A, connected --.
                front socket ---                            target
    client B --'  (published)   `-- socket B, connected --'

UDP has no connections, so the forwarder makes flows: the first datagram of a client opens a socket that is connected to
the target; what comes back on it goes to that client.  A connected socket also hears of ICMP errors: the first send
after one is refused and takes the error away, so it is repeated once.

A client is its address *and* the local address that it used: on a front socket that is bound to a wildcard, answers
leave from the address that the client sent to (PKTINFO), or it would not know them.  Empty datagrams are datagrams.

Bounds.  At most ``Clients.limit`` flows in the process.  When there are more, the one that has been idle longest goes: flows
are kept in the order of their last use, which costs a tenth of a microsecond a burst.  So a flood of forged addresses
costs a bounded time a datagram and no memory, and whoever talks meanwhile is not forgotten.  A flow that is idle for
``Clients.idle`` seconds is swept.
Front sockets and flows have the kernel's bounded queues and no others: what does not fit is dropped and counted.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import OrderedDict
from select import EPOLLIN
from time import monotonic
from typing import NamedTuple

from ...netlib.ports.told import PortStats
from ..ports import PortSpec, Target
from . import mmsg
from .counters import Counters
from .lane import Lane
from .relay import Socket

IDLE = 90.0
"""Seconds until an idle flow is forgotten: docker-proxy's UDPConnTrackTimeout."""
LIMIT = 10_000
RECEIVE_BUFFER = 4 << 20
"""Bytes that the kernel may queue on a front socket; a burst that outlives one turn of the loop must fit."""
_SO_RCVBUFFORCE = 33
_TURNS = 4
"""Batches that one event may take before others have their turn."""


class Flow:
    """One client of one port."""

    __slots__ = ("done", "fd", "key", "port", "reply", "seen", "sock")

    def __init__(self, port: UdpPort, key: bytes, reply: bytes, sock: Socket) -> None:
        self.port, self.key, self.reply, self.sock = port, key, reply, sock
        self.fd = sock.fileno()
        self.done = False
        self.seen = monotonic()
        """When it was last used."""

    def on_answer(self, events: int) -> None:
        self.port.answer(self)

    def close(self) -> None:
        if not self.done:
            self.done = True
            self.port.forget(self)
            self.sock.close()


class Clients:
    """All flows of the process, the one that has been idle longest first."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lane: Lane, limit: int = LIMIT, idle: float = IDLE) -> None:
        self._loop, self._lane, self.limit, self.idle = loop, lane, limit, idle
        self._order: OrderedDict[Flow, None] = OrderedDict()
        self.used = self._order.move_to_end
        """To be called with a flow whenever its ``seen`` is renewed."""
        self._sweeper: asyncio.TimerHandle | None = None

    def add(self, flow: Flow) -> None:
        self._order[flow] = None
        if self._sweeper is None:
            self._schedule()

    def remove(self, flow: Flow) -> None:
        del self._order[flow]

    def make_room(self) -> None:
        """Close flows until one more may be opened."""
        while len(self._order) >= self.limit:
            self.evict()

    def evict(self) -> bool:
        """Close the flow that has been idle longest.  False when there is none."""
        for flow in self._order:
            flow.close()
            return True
        return False

    def _schedule(self) -> None:
        self._sweeper = self._loop.call_later(max(self.idle / 4, 0.01), self._sweep)
        self._lane.wake = True

    def _sweep(self) -> None:
        oldest = monotonic() - self.idle
        while self._order and next(iter(self._order)).seen <= oldest:
            self.evict()
        self._sweeper = None
        if self._order:
            self._schedule()


class UdpShared(NamedTuple):
    """What all UDP ports of the process share."""

    lane: Lane
    clients: Clients
    batches: Batches


class Batches:
    """The slots and the headers over them, made when the first UDP port is."""

    def __init__(self) -> None:
        self._slots: mmsg.Slots | None = None
        self._shapes: dict[mmsg.Shape, tuple[mmsg.Receiver, mmsg.Sender]] = {}

    @property
    def slots(self) -> mmsg.Slots:
        if self._slots is None:
            self._slots = mmsg.Slots()
            self.connected = mmsg.Receiver(self._slots, trains=True), mmsg.Sender(self._slots)
            self.train = mmsg.Train(self._slots)
        return self._slots

    def of(self, shape: mmsg.Shape) -> tuple[mmsg.Receiver, mmsg.Sender]:
        if shape not in self._shapes:
            self._shapes[shape] = mmsg.Receiver(self.slots, shape, trains=True), mmsg.Sender(self.slots, shape)
        return self._shapes[shape]


class UdpPort:
    def __init__(self, shared: UdpShared, spec: PortSpec, sock: Socket) -> None:
        """*sock* is bound and not connected.  OSError when it can not serve."""
        self.id, self.proto, self.drain = spec.id, spec.proto, spec.drain
        self.target = spec.target
        self.counters = Counters()
        self.listener = sock
        self._lane, self._clients, batches = shared
        self._flows: dict[bytes, Flow] = {}
        try:
            sock.getpeername()
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
        else:
            raise OSError(errno.EISCONN, "it is connected")
        sock.setblocking(False)
        ip = sock.getsockname()[0]
        wildcard = ip in ("0.0.0.0", "::")
        self._shape = mmsg.shape_of(sock.family, wildcard=wildcard)
        if wildcard and sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, mmsg.IP_PKTINFO, 1)
        elif wildcard:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        mmsg.merge_trains(sock)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:  # without CAP_NET_ADMIN up to net.core.rmem_max (socket(7))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._slots = batches.slots
        self._receiver, self._replier = batches.of(self._shape)
        self._back_receiver, self._back_sender = batches.connected
        self._train = batches.train
        self._fd = sock.fileno()

    def start(self) -> None:
        self._lane.add(self._fd, EPOLLIN, self._on_front)

    def retarget(self, target: Target) -> None:
        """Every client goes to *target* with its next datagram."""
        if target != self.target:
            self.target = target
            self._close_flows()

    # -- datagrams ---------------------------------------------------------------------------------------------

    def _on_front(self, events: int) -> None:
        receiver, sender, slots, flows, counters = (
            self._receiver,
            self._back_sender,
            self._slots,
            self._flows,
            self.counters,
        )
        used = self._clients.used
        size, stride = receiver.record, receiver.stride
        for _ in range(_TURNS):
            try:
                count = receiver.receive(self._fd)
            except OSError:
                counters.errors += 1
                return
            if not count:
                return
            lengths, records = receiver.lengths(count), receiver.records(count)
            now = monotonic()
            trains = receiver.trains(count)
            first = 0
            while first < count:
                if trains is not None and trains[first]:
                    self._pass_train(first, lengths[first], trains[first])
                    first += 1
                    continue
                # neighbours of one client go in one call
                start = first * stride
                key = records[start : start + size]
                after = first + 1
                while after < count and records.startswith(key, after * stride) and not (trains and trains[after]):
                    after += 1
                flow = flows.get(key) or self._open(key)
                if flow is None:
                    counters.dropped += after - first
                else:
                    flow.seen = now
                    used(flow)
                    burst = lengths[first:after]
                    slots.aim(first, burst)
                    sent = sender.send(flow.fd, after - first)
                    counters.bytes_in += sum(burst)
                    counters.dropped += after - first - sent
                first = after
            if count < mmsg.BATCH:
                return

    def _pass_train(self, index: int, length: int, size: int) -> None:
        key = self._receiver.train_record(index)
        flow = self._flows.get(key) or self._open(key)
        parts = -(-length // size)
        if flow is None:
            self.counters.dropped += parts
            return
        flow.seen = monotonic()
        self._clients.used(flow)
        self.counters.bytes_in += length
        self.counters.dropped += parts - self._train.send(flow.fd, index, length, size)

    def _answer_trains(self, flow: Flow, lengths: tuple[int, ...], trains: list[int]) -> None:
        name, control = flow.reply[: self._shape.name], flow.reply[self._shape.name :]
        for index, (length, size) in enumerate(zip(lengths, trains, strict=True)):
            if size:
                left = self._train.send(self._fd, index, length, size, name=name, control=control)
                self.counters.dropped += -(-length // size) - left
            else:
                self._slots.aim(index, (length,))
                self.counters.dropped += 1 - self._replier.send(self._fd, 1)

    def answer(self, flow: Flow) -> None:
        """Pass on what has come back for *flow*."""
        receiver, sender, counters = self._back_receiver, self._replier, self.counters
        for _ in range(_TURNS):
            try:
                count = receiver.receive(flow.fd)
            except OSError:
                counters.refused += 1  # the ICMP error of an earlier datagram: the client has its own time-out
                continue
            if not count:
                return
            lengths = receiver.lengths(count)
            flow.seen = monotonic()
            self._clients.used(flow)
            counters.bytes_out += sum(lengths)
            sender.to(flow.reply)
            trains = receiver.trains(count)
            if trains is None:
                self._slots.aim(0, lengths)
                counters.dropped += count - sender.send(self._fd, count)
            else:
                self._answer_trains(flow, lengths, trains)
            if count < mmsg.BATCH:
                return

    # -- flows -------------------------------------------------------------------------------------------------

    def _open(self, key: bytes) -> Flow | None:
        self._clients.make_room()
        target = self.target
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        try:
            try:
                sock = Socket(target.family, kind)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._clients.evict():
                    raise
                sock = Socket(target.family, kind)
        except OSError:
            self.counters.errors += 1
            return None
        if sock.connect_ex(target.address) != 0:
            self.counters.refused += 1
            sock.close()
            return None
        mmsg.merge_trains(sock)
        reply = key[: self._shape.name] + mmsg.reply_control(self._shape, key)
        flow = Flow(self, key, reply, sock)
        self._flows[key] = flow
        self._lane.add(flow.fd, EPOLLIN, flow.on_answer)
        self._clients.add(flow)
        self.counters.connections += 1
        self.counters.active += 1
        return flow

    def forget(self, flow: Flow) -> None:
        self._lane.handlers.pop(flow.fd, None)
        del self._flows[flow.key]
        self._clients.remove(flow)
        self.counters.active -= 1

    def _close_flows(self) -> None:
        for flow in list(self._flows.values()):
            flow.close()

    def stats(self) -> PortStats:
        return self.counters.told(self.proto)

    def spec(self) -> PortSpec:
        return PortSpec(self.id, self.proto, self.target, self.drain)

    # -- withdrawal --------------------------------------------------------------------------------------------

    def stop_listening(self) -> None:
        if self.listener.fileno() >= 0:
            if self._fd in self._lane.handlers:
                self._lane.remove(self._fd)
            self.listener.close()
        self._close_flows()

    def withdraw(self, drain: float) -> None:
        """Ends at once, whatever *drain*: without its front socket a flow has no way back to the client."""
        self.stop_listening()
