"""A sandbox, as its user holds it: a network namespace that endpoints join."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from .endpoint import Endpoint
from .errors import NotFound
from .instance import veth_name
from .model import SandboxRecord
from .resources import Netns, Resource

if TYPE_CHECKING:
    from .controller import Controller


@dataclass(frozen=True)
class Sandbox:
    controller: Controller
    id: str

    @property
    def record(self) -> SandboxRecord:
        """What is known of the sandbox; NotFound after it was deleted."""
        with self.controller.lock:
            record = self.controller.registry.sandboxes.get(self.id)
        if record is None:
            raise NotFound(f"sandbox {self.id} not found")
        return record

    def checked(self) -> Self:
        """Itself, if it exists; NotFound."""
        _ = self.record
        return self

    @property
    def path(self) -> str:
        """Where the namespace is pinned (a file that setns(2) takes); "" for the host's own."""
        return self.record.path

    def endpoints(self) -> list[Endpoint]:
        with self.controller.lock:
            return [Endpoint(self.controller, e.id) for e in self.controller.registry.endpoints_of_sandbox(self.id)]

    def delete(self) -> None:
        """Remove the sandbox with all that is joined to it; the endpoints stay, with their addresses, and can join again.

        The namespace takes the interfaces in it along, which is far cheaper than removing each first (the kernel waits
        tens of milliseconds a link); their host ends are removed in the background, see ``HostActions.reap_links``.
        """
        with self.controller.turns.of(sandbox_key(self.id)):
            self._delete()

    def _delete(self) -> None:
        controller = self.controller
        with controller.lock:
            record = self.record
            joined = controller.registry.endpoints_of_sandbox(self.id)
            plan: list[Resource] = [Netns(record.path)] if record.path else []
            for endpoint in joined:
                plan += controller.publisher.plan(controller.registry, controller.driver, endpoint)
        # by index: from the next line on the endpoints may join elsewhere, with links of the same names
        dying = controller.actions.link_indices([veth_name(e.id) for e in joined if e.ifname])
        with controller.lock:
            controller.registry.save(
                *(replace(e, sandbox="", ifname="", ports=()) for e in joined), forget=[record]
            )  # fmt: skip
        try:
            controller.applier.undo(plan)
        finally:
            for endpoint in joined:
                controller.publisher.release(endpoint.id, endpoint.ports)
            controller.actions.reap_links(dying)


def sandbox_key(id: str) -> str:
    """Whose turn it is; see turns.py."""
    return f"sandbox {id}"
