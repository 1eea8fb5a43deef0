"""None driver: a namespace with a loopback interface and nothing else (kinds/namespace.py brings it up)."""

from __future__ import annotations

from ..netlib.driver import Joined
from ..netlib.model import EndpointRecord, NetworkRecord, SandboxRecord
from .host import HostDriver


class NoneDriver(HostDriver):
    name = "none"

    def join(self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord) -> Joined:
        return Joined(prefix="")
