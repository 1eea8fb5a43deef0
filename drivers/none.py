"""None driver: a namespace with a loopback interface and nothing else (``Netns`` brings it up)."""

from __future__ import annotations

from collections.abc import Iterable

from ..netlib.model import EndpointRecord, NetworkRecord, SandboxRecord
from ..netlib.resources import Resource
from .host import HostDriver


class NoneDriver(HostDriver):
    name = "none"

    def endpoint_plan(
        self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord
    ) -> Iterable[Resource]:
        return ()
