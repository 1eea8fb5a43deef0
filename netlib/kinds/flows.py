"""What the kernel remembers of an address: the tracked flows of an endpoint.

They outlive the endpoint, and the firewall lets through what belongs to a known flow: the next container with the address
would inherit its conversations, into a network that keeps containers apart too.  So they are forgotten when it leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..tools import Tools
from .kind import Kind, register
from .resource import Key, Resource


@dataclass(frozen=True)
class Flows(Resource):
    """Made by the kernel; ours is the end."""

    addresses: tuple[str, ...]
    """Without prefix lengths."""

    @property
    def key(self) -> Key:
        return ("flows", *self.addresses)

    @property
    def title(self) -> str:
        return f"tracked flows of {', '.join(self.addresses)}"


class FlowsKind(Kind[Flows]):
    noun = "flow"

    def make(self, tools: Tools, resource: Flows) -> None:
        pass

    def unmake(self, tools: Tools, resource: Flows) -> None:
        tools.conntrack.flush_addresses(resource.addresses)


register(Flows, FlowsKind())
