"""A sandbox's name server at 127.0.0.11: two sockets made inside and handed to who serves them, and the redirect of port 53.

Part of a sandbox's plan when the controller was given a server (naming.py).  The sockets are the server's: when that is another
process's life than the sandbox's, a check finds that nobody serves, and a repair makes both anew.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..firewall import redirect
from ..naming import ADDRESS
from ..tools import Inside, Tools
from .kind import Kind, register
from .resource import Key, Resource
from .sight import Sight

BACKLOG = 64


@dataclass(frozen=True)
class Resolver(Resource):
    owner: str
    """Id of the sandbox."""
    netns: str

    @property
    def key(self) -> Key:
        return ("resolver", self.netns)

    @property
    def goes_with(self) -> tuple[Key, ...]:
        return (("netns", self.netns),)

    @property
    def title(self) -> str:
        return f"name server {ADDRESS} in {self.netns}"


class ResolverKind(Kind[Resolver]):
    noun = "resolver"

    def make(self, tools: Tools, resource: Resolver) -> None:
        if tools.names is None:
            return
        with tools.inside(resource.netns) as inside:
            udp, tcp = _sockets(tools, inside)
            ports = udp.getsockname()[1], tcp.getsockname()[1]
            try:
                inside.call(redirect.install, tools.firewall_name, ADDRESS, *ports)
                tools.names.serve(resource.owner, udp, tcp)
            except BaseException:
                udp.close()
                tcp.close()
                inside.call(redirect.remove)
                raise
        tools.name_ports[resource.netns] = ports

    def unmake(self, tools: Tools, resource: Resolver) -> None:
        self.forsake(tools, resource)
        try:
            with tools.inside(resource.netns) as inside:
                inside.call(redirect.remove)
        except FileNotFoundError:
            pass  # the sandbox is gone, and its tables with it

    def forsake(self, tools: Tools, resource: Resolver) -> None:
        """The tables go with the namespace; the sockets would keep it alive."""
        tools.name_ports.pop(resource.netns, None)
        if tools.names is not None:
            tools.names.withdraw(resource.owner)

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[Resolver]) -> Iterable[tuple[str, Resolver]]:
        for one in wanted:
            if not self._is_there(tools, sight, one):
                yield f"{ADDRESS} in {one.netns}", one

    def _is_there(self, tools: Tools, sight: Sight, one: Resolver) -> bool:
        ports = tools.name_ports.get(one.netns)
        if (
            tools.names is None
            or ports is None
            or one.owner not in tools.names.served
            or sight.inside(one.netns) is None
        ):
            return False
        with tools.inside(one.netns) as inside:
            return inside.call(redirect.installed, ADDRESS, *ports)


def _sockets(tools: Tools, inside: Inside) -> tuple[socket.socket, socket.socket]:
    made: list[socket.socket] = []
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            sock = tools.netns.socket(inside.fd, socket.AF_INET, kind)
            made.append(sock)
            sock.bind((ADDRESS, 0))
        made[1].listen(BACKLOG)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made[0], made[1]


register(Resolver, ResolverKind())
