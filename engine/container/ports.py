"""Published ports of a container that is there already: add, remove, show.

    add      publish in the sandbox (when it runs) -> onto the record      a failure of either leaves both as they were
    remove   off the record -> withdraw in the sandbox                    what can not be withdrawn now is left to repair

The record's ``bindings`` are what every start publishes, so a port that was added is there after a restart of the container, and
(the sandbox's record has it, too) after one of pynetd.  Which binding a published port came of is not stored: ``pair`` finds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...netlib.errors import Conflict, Forbidden, InvalidArgument, NotFound
from ...netlib.model import PublishedPort
from ...netlib.ports.paths import PortPath
from ...netlib.ports.portspec import (
    PortBinding,
    PortSelection,
    format_port_bindings,
    format_publish,
    parse_host_ports,
    parse_port_bindings,
)
from ..core import Core
from ..fields import Fields
from ..options import judge
from ..plan_shapes import plan_shape
from .attachment import ContainerNetworks
from .record import Container
from .registry import Registry

if TYPE_CHECKING:
    from ...netlib.change import Step
    from ...netlib.handles import Sandbox

WAITS = "the container is on no network that publishes ports: they are published when it is connected to one"
NOT_YET = "the container does not run: they are published when it starts"


def pair(
    bindings: Sequence[PortBinding], ports: Sequence[PublishedPort]
) -> list[tuple[PortBinding, list[PublishedPort]]]:
    """Each binding with the published ports that came of it.

    A binding becomes one host port on one or several addresses, none (0) where a network routes its family.  The more a binding
    says, the sooner it chooses: one with a host port of its own before a range, a range before any port; one with an address
    before one without.
    """
    left: dict[tuple[str, int, int], list[PublishedPort]] = {}
    for port in ports:
        left.setdefault((port.proto, port.container_port, port.proxy_protocol), []).append(port)
    found: dict[int, list[PublishedPort]] = {}
    for index in sorted(range(len(bindings)), key=lambda index: _freedom(bindings[index])):
        binding = bindings[index]
        candidates = left.get((binding.proto, binding.container_port, binding.proxy_protocol), [])
        fitting = [port for port in candidates if _fits(binding, port)]
        number = next((port.host_port for port in fitting if port.host_port), 0)
        found[index] = [port for port in fitting if port.host_port in (number, 0)]
        candidates[:] = [port for port in candidates if port not in found[index]]
    return [(binding, found[index]) for index, binding in enumerate(bindings)]


def _freedom(binding: PortBinding) -> tuple[bool, int, bool]:
    return (binding.ephemeral, binding.host_port_last - binding.host_port_first, not binding.host_ip)


def _fits(binding: PortBinding, port: PublishedPort) -> bool:
    return (binding.host_ip in ("", port.host_ip) or not port.host_port) and (
        binding.ephemeral or not port.host_port or binding.host_port_first <= port.host_port <= binding.host_port_last
    )


def _asked(binding: PortBinding) -> bool:
    return not binding.ephemeral and binding.host_port_first == binding.host_port_last


def take(
    bindings: Sequence[PortBinding], ports: Sequence[PublishedPort], selection: PortSelection
) -> tuple[list[PortBinding], list[PortBinding], list[PublishedPort]]:
    """What *selection* takes away: the bindings that stay, those that go, and the published ports that go.

    Of a binding that is published on several addresses, one address may go; what stays is a binding of its own then.  A binding
    that is not published now (the container does not run) is known by its host port.
    """
    stay: list[PortBinding] = []
    gone: list[PortBinding] = []
    withdrawn: list[PublishedPort] = []
    for binding, published in pair(bindings, ports):
        named = _asked(binding) and (binding.proto, binding.host_ip, binding.host_port_first) in selection
        going = [port for port in published if (port.proto, port.host_ip, port.host_port) in selection]
        if named:
            going = published  # what has no host port too: opened on a routed network
        if not going and not (named and not published):
            stay.append(binding)
            continue
        gone.append(binding)
        withdrawn += going
        stay += [_exactly(port) for port in published if port not in going]
    open_still = {(binding.proto, binding.container_port) for binding in stay}
    return (
        stay,
        gone,
        [port for port in withdrawn if port.host_port or (port.proto, port.container_port) not in open_still],
    )


def _exactly(port: PublishedPort) -> PortBinding:
    numbers = (port.host_port, port.host_port, port.container_port)
    return PortBinding(port.proto, port.host_ip, *numbers, port.proxy_protocol)


class Ports:
    def __init__(self, core: Core, registry: Registry, networks: ContainerNetworks) -> None:
        self._core = core
        self._registry = registry
        self._networks = networks

    # -- looking ---------------------------------------------------------------------------------------------

    def show(self, ref: str) -> list[dict[str, Any]]:
        """Every published port with the way that leads to the container, and why it is that one."""
        sandbox = self._sandbox(self._registry.get(ref))
        try:
            return [path_shape(path) for path in sandbox.port_paths] if sandbox is not None else []
        except NotFound:
            return []  # it ended while we looked

    # -- changing --------------------------------------------------------------------------------------------

    def add(self, ref: str, body: Mapping[str, Any], *, dry: bool = False) -> dict[str, Any]:
        """Publish what ``PortBindings`` says, all of it or nothing; the answer has what was published."""
        judge(Fields(body), "Ports", warn=False)
        bindings = parse_port_bindings(Fields(body).object("PortBindings").body)
        if not bindings:
            raise InvalidArgument("no port to publish: PortBindings must name one")
        container = self._registry.get(ref)
        with container.lock:
            self._check(container)
            self._new(container, bindings)
            if dry:
                return {"Plan": plan_shape(self._planned(container, bindings))}
            published: tuple[PublishedPort, ...] = ()
            sandbox = self._sandbox(container) if container.running else None
            if sandbox is not None:
                published = self._networks.publish(container, sandbox, bindings)
            warnings = [] if published else [WAITS if sandbox is not None else NOT_YET]
            asked = parse_port_bindings(container.host_config["PortBindings"])
            try:
                self._record(container, [*container.bindings, *bindings], [*asked, *bindings])
            except BaseException:
                if sandbox is not None and published:
                    sandbox.unpublish(published)
                raise
        self._tell(container, "publish", bindings)
        return {"Ports": [port_shape(port) for port in published], "Warnings": warnings}

    def remove(self, ref: str, words: Sequence[str], *, dry: bool = False) -> dict[str, Any]:
        """Withdraw the host ports that the words name; NotFound for one that names none.  With *dry* only say how."""
        selections = [(word, parse_host_ports(word)) for word in words]
        if not selections:
            raise InvalidArgument("no port to withdraw: name a host port")
        container = self._registry.get(ref)
        with container.lock:
            self._check(container)
            sandbox = self._sandbox(container) if container.running else None
            ports = list(sandbox.ports) if sandbox is not None else []
            bindings, asked = list(container.bindings), parse_port_bindings(container.host_config["PortBindings"])
            gone: list[PortBinding] = []
            withdrawn: list[PublishedPort] = []
            for word, selection in selections:
                stay, going, leaving = take(bindings, ports, selection)
                if not going:
                    raise _not_published(container, word, bindings, ports)
                before, away, left = set(bindings), set(going), set(leaving)  # a range may be thousands
                asked = [binding for binding in asked if binding not in away]
                asked += [binding for binding in stay if binding not in before]
                bindings, gone = stay, [*gone, *going]
                withdrawn += leaving
                ports = [port for port in ports if port not in left]
            if dry:
                steps = self._core.controller.planned(sandbox.unpublish, withdrawn) if sandbox and withdrawn else ()
                return {"Plan": plan_shape(steps)}
            self._record(container, bindings, asked)
            if sandbox is not None and withdrawn:
                sandbox.unpublish(withdrawn)
        self._tell(container, "unpublish", gone)
        return {"Ports": [port_shape(port) for port in withdrawn]}

    def _check(self, container: Container) -> None:
        mode = container.network_mode
        if container.state.status == "removing":
            raise Conflict(f"container {container.id} is marked for removal and its ports cannot be changed")
        if mode.startswith("container:"):
            raise Forbidden(
                "conflicting options: port publishing and the container type network mode",
                hint="publish the ports of the container whose network it shares",
            )
        if mode == "host":
            raise Forbidden(
                "conflicting options: port publishing and the host network mode",
                hint="its ports are the host's already: nothing has to be published",
            )

    @staticmethod
    def _new(container: Container, bindings: Sequence[PortBinding]) -> None:
        for binding in bindings:
            if _asked(binding) and binding in container.bindings:
                raise Conflict(
                    f"container {container.name} publishes {format_publish(binding)} already",
                    hint=f"`pynet port {container.name}` lists its ports",
                )

    def _planned(self, container: Container, bindings: Sequence[PortBinding]) -> Sequence[Step]:
        sandbox = self._sandbox(container) if container.running else None
        if sandbox is None:
            return ()
        return self._core.controller.planned(self._networks.publish, container, sandbox, list(bindings))

    def _record(self, container: Container, bindings: list[PortBinding], asked: Sequence[PortBinding]) -> None:
        """Write down what every start is to publish; a failure leaves the record as it was."""
        before = container.bindings, container.host_config
        container.bindings = bindings
        container.host_config = {**container.host_config, "PortBindings": format_port_bindings(asked)}
        try:
            self._registry.save(container)
        except BaseException:
            container.bindings, container.host_config = before
            raise

    def _sandbox(self, container: Container) -> Sandbox | None:
        controller = self._core.controller
        try:
            return controller.sandbox(container.id) if container.id in controller.registry.sandboxes else None
        except NotFound:
            return None

    def _tell(self, container: Container, action: str, bindings: Sequence[PortBinding]) -> None:
        ports = ",".join(map(format_publish, bindings))
        self._core.events.publish("container", action, container.id, container.attributes(ports=ports))


def _not_published(
    container: Container, word: str, bindings: Sequence[PortBinding], ports: Sequence[PublishedPort]
) -> NotFound:
    known = {f"{port.host_port}/{port.proto}" for port in ports}
    known |= {f"{binding.host_port_first}/{binding.proto}" for binding in bindings if _asked(binding)}
    listed = ", ".join(sorted(known, key=lambda text: (int(text.partition("/")[0]), text))[:20])
    return NotFound(
        f"container {container.name} publishes no host port {word}",
        hint=f"it publishes {listed}" if listed else "it publishes none",
    )


# -- shapes --------------------------------------------------------------------------------------------------------------


def port_shape(port: PublishedPort) -> dict[str, Any]:
    return {"Port": f"{port.container_port}/{port.proto}", "HostIp": port.host_ip, "HostPort": str(port.host_port)}


def path_shape(path: PortPath) -> dict[str, Any]:
    target = path.target
    shown = "" if target is None else f"[{target[0]}]:{target[1]}" if ":" in target[0] else f"{target[0]}:{target[1]}"
    return {**port_shape(path.port), "Path": path.path, "Why": path.why, "Target": shown}
