"""Host driver: the container lives in the host's own network namespace; there is nothing to make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..netlib.driver import Joined, Publishing, Reserved
from ..netlib.errors import Forbidden
from ..netlib.kinds.resource import Resource
from ..netlib.model import EndpointRecord, NetworkRecord, SandboxRecord


class HostDriver:
    name = "host"
    scope = "local"
    ipam = "null"
    singleton = True
    own_mac = True

    def validate(self, network: NetworkRecord) -> None:
        if network.internal or network.options:
            raise Forbidden(f"{self.name} network takes no options")

    def reserves(self, network: NetworkRecord) -> Reserved:
        return Reserved()

    def network_plan(self, network: NetworkRecord) -> Iterable[Resource]:
        return ()

    def join(self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord) -> Joined:
        if sandbox.path:
            raise Forbidden("a container with a network namespace of its own can not join the host network")
        return Joined(prefix="")

    def endpoint_plan(
        self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord
    ) -> Iterable[Resource]:
        return ()

    def publishing(self, network: NetworkRecord, endpoint: EndpointRecord) -> Publishing | None:
        return None

    def operinfo(self, network: NetworkRecord, endpoint: EndpointRecord) -> Mapping[str, Any]:
        return {}
