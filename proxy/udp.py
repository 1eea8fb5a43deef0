from __future__ import annotations

import asyncio
from typing import NamedTuple

from .lane import Lane
from .ports import Counters, PortSpec, Target
from .relay import Socket


class UdpShared(NamedTuple):
    loop: asyncio.AbstractEventLoop
    lane: Lane


class UdpPort:
    def __init__(self, shared: UdpShared, spec: PortSpec, sock: Socket) -> None:
        self.id, self.proto, self.drain, self.target = spec.id, spec.proto, spec.drain, spec.target
        self.listener = sock
        self.counters = Counters()

    def start(self) -> None: ...
    def stop_listening(self) -> None:
        self.listener.close()

    def withdraw(self, drain: float) -> None:
        self.stop_listening()

    def retarget(self, target: Target) -> None:
        self.target = target

    def stats(self) -> dict[str, int]:
        return self.counters.as_dict()
