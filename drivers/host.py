"""Host driver: the container lives in the host's own network namespace; there is nothing to make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..netlib.errors import Forbidden
from ..netlib.model import EndpointRecord, NetworkRecord, SandboxRecord
from ..netlib.resources import Resource


class HostDriver:
    name = "host"
    scope = "local"
    needs_addresses = False
    singleton = True

    def validate(self, network: NetworkRecord) -> None:
        if network.internal or network.options:
            raise Forbidden(f"{self.name} network takes no options")

    def conflicts(self, network: NetworkRecord, other: NetworkRecord) -> str:
        return f'only one instance of "{self.name}" network is allowed'

    def network_plan(self, network: NetworkRecord) -> Iterable[Resource]:
        return ()

    def endpoint_plan(
        self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord
    ) -> Iterable[Resource]:
        if sandbox.path:
            raise Forbidden("a container with a network namespace of its own can not join the host network")
        return ()

    def gateways(self, network: NetworkRecord, endpoint: EndpointRecord) -> tuple[str, str]:
        return "", ""

    def bridge(self, network: NetworkRecord) -> str:
        return ""

    def operinfo(self, network: NetworkRecord, endpoint: EndpointRecord) -> Mapping[str, Any]:
        return {}
