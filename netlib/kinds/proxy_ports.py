"""Published ports that the userland proxy serves; all of a sandbox in one message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import NotFound
from ..proxying import ServedPort
from ..tools import Tools
from .kind import Kind, register
from .resource import Key, Resource, joined
from .sight import Sight


@dataclass(frozen=True, slots=True)
class ProxyPort:
    """A listening socket that the forwarder serves."""

    id: str
    """"tcp/0.0.0.0/8080": the listening socket is kept under this name (ports/hostports.py)."""
    proto: str
    target_ip: str
    target_port: int
    proxy_protocol: int = 0


@dataclass(frozen=True)
class ProxyPorts(Resource):
    owner: str
    """Id of the sandbox."""
    ports: tuple[ProxyPort, ...]

    @property
    def key(self) -> Key:
        return ("proxy-ports", self.owner)

    @property
    def title(self) -> str:
        return f"proxy of the published ports of sandbox {self.owner[:12]}"

    @property
    def details(self) -> str:
        return ", ".join(f"{port.id} -> {joined(port.target_ip, port.target_port)}" for port in self.ports)


class ProxyPortsKind(Kind[ProxyPorts]):
    noun = "port"

    def make(self, tools: Tools, resource: ProxyPorts) -> None:
        self._listen(tools, resource.ports)

    def unmake(self, tools: Tools, resource: ProxyPorts) -> None:
        if tools.proxy is not None and resource.ports:
            tools.proxy.withdraw([port.id for port in resource.ports])

    def alter(self, tools: Tools, old: ProxyPorts, new: ProxyPorts) -> None:
        """A port that leads elsewhere from now on goes on listening meanwhile."""
        before = {port.id: port for port in old.ports}
        moved = [
            port
            for port in new.ports
            if port.id in before and port != before[port.id] and port.proxy_protocol == before[port.id].proxy_protocol
        ]
        served = {port.id for port in moved} | {port.id for port in new.ports if before.get(port.id) == port}
        if tools.proxy is not None and moved:
            try:
                tools.proxy.retarget([(port.id, port.target_ip, port.target_port) for port in moved])
            except NotFound:  # a forwarder that was started anew, and not told yet
                self._listen(tools, moved)
        self._listen(tools, [port for port in new.ports if port.id not in served])
        gone = before.keys() - {port.id for port in new.ports}
        if tools.proxy is not None and gone:
            tools.proxy.withdraw(sorted(gone))

    def _listen(self, tools: Tools, ports: Sequence[ProxyPort]) -> None:
        served = [
            ServedPort(port.id, port.proto, port.target_ip, port.target_port, sock, proxy_protocol=port.proxy_protocol)
            for port in ports
            if (sock := tools.ports.socket(port.id)) is not None
            # one that another program took while nobody held it can not be served
        ]
        if tools.proxy is not None and served:
            tools.proxy.listen(served)

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[ProxyPorts]) -> Iterable[tuple[str, ProxyPorts]]:
        for one in wanted:
            for port in one.ports:
                if port.id not in sight.proxied and tools.ports.socket(port.id) is not None:
                    yield port.id, one

    def strays(self, tools: Tools, sight: Sight) -> Iterable[str]:
        wanted = {port.id for one in sight.wanted(ProxyPorts) for port in one.ports}
        return sorted(sight.proxied - wanted)

    def remove(self, tools: Tools, sight: Sight, names: Sequence[str]) -> None:
        if tools.proxy is not None:
            tools.proxy.withdraw(names)


register(ProxyPorts, ProxyPortsKind())
