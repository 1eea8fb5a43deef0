"""Null driver: a namespace with a loopback interface and nothing else (kinds/namespace.py brings it up).

That is the network ``none``.  Configuration-only networks are of this driver too: they have nothing in the kernel.
"""

from __future__ import annotations

from ..netlib.driver import Joined
from ..netlib.model import EndpointRecord, NetworkRecord, SandboxRecord
from .host import HostDriver


class NoneDriver(HostDriver):
    name = "null"

    def join(self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord) -> Joined:
        return Joined(prefix="")
