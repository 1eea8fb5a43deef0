"""What every service of the engine stands on; it knows none of them (compose.py puts them together)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..netlib.controller import Controller
from ..netlib.instance import Instance
from ..netlib.store.sqlite import Store
from ..runtime.client import SupervisorClient
from .events import EventBus
from .name_options import NameOptions
from .pools import Pools
from .reserve import Reserve
from .revivals import Revivals


@dataclass(frozen=True, eq=False)
class Core:
    instance: Instance
    controller: Controller
    supervisor: SupervisorClient
    reserve: Reserve
    events: EventBus = field(default_factory=EventBus)
    pools: Pools = field(default_factory=Pools)
    revivals: Revivals = field(default_factory=Revivals)
    warnings: list[str] = field(default_factory=list)
    """What ``info`` tells about this engine's start; added to while it starts."""
    default_network: str = "bridge"
    """Of containers that name none; "none" where the engine's options leave the network bridge out."""
    names: NameOptions = field(default_factory=NameOptions)
    """Of containers that say nothing of names themselves."""
    network_opts: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    """Driver to the options of its new networks that name no other value for them."""
    limit_controllers: frozenset[str] = frozenset()
    """cgroup controllers that containers can be limited by, as the supervisor found them."""

    @property
    def store(self) -> Store:
        return self.controller.store

    def publish_network(self, action: str, name: str, id: str, *, driver: str = "", **more: str) -> None:
        """Tell an event of a network; of one that may be gone already with its *driver*."""
        record = self.controller.registry.networks.get(id)
        kind = driver or (record.driver if record else "bridge")
        self.events.publish("network", action, id, {"name": name, "type": kind, **more})
