"""A sandbox's name server at 127.0.0.11: two sockets made inside and handed to who serves them, and the redirect of port 53.

Part of a sandbox's plan when the controller was given a server (naming.py).  The sockets stay open here, and the server has
copies: one that is killed loses no question, they wait, and the next one is given the same sockets.  A controller that is new
asks the server for copies (``recover``); where that is gone too, a check finds that nobody serves, and a repair makes sockets
and redirect anew.

Where no redirect can be made (a kernel without nftables and without the nat table of iptables), the sockets have port 53 itself:
names are found all the same, and a server of the sandbox's own can not have that port on all addresses.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import NotSupported
from ..firewall import redirect
from ..kernel.libnftables import NftError
from ..naming import ADDRESS, Sockets
from ..tools import Inside, Tools
from .kind import Kind, register
from .resource import Key, Resource
from .sight import Sight

BACKLOG = 64
PORT = 53


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
            held = tools.name_sockets.get(resource.owner)
            if held is not None and _leads_to(inside, held):
                tools.names.serve([held])
                return
            made = _reachable(tools, inside, resource.owner)
            try:
                tools.names.serve([made])
            except BaseException:
                made.close()
                inside.call(redirect.remove)
                raise
        self._let_go(tools, resource)
        tools.name_sockets[resource.owner] = made

    def unmake(self, tools: Tools, resource: Resolver) -> None:
        self._let_go(tools, resource)
        if tools.names is not None:
            tools.names.withdraw([resource.owner])
        try:
            with tools.inside(resource.netns) as inside:
                inside.call(redirect.remove)
        except FileNotFoundError:
            pass  # the sandbox is gone, and its tables with it

    def forsake(self, tools: Tools, resource: Resolver) -> None:
        """The tables go with the namespace.  The sockets would keep it alive: the server closes its own when the view goes, which
        the sandbox's names are told to do (names.py), in the same message."""
        self._let_go(tools, resource)

    @staticmethod
    def _let_go(tools: Tools, resource: Resolver) -> None:
        held = tools.name_sockets.pop(resource.owner, None)
        if held is not None:
            held.close()

    def missing(self, tools: Tools, sight: Sight, wanted: Sequence[Resolver]) -> Iterable[tuple[str, Resolver]]:
        for one in wanted:
            if not self._is_there(tools, sight, one):
                yield f"{ADDRESS} in {one.netns}", one

    def _is_there(self, tools: Tools, sight: Sight, one: Resolver) -> bool:
        held = tools.name_sockets.get(one.owner)
        if held is None or one.owner not in sight.served or sight.inside(one.netns) is None:
            return False
        with tools.inside(one.netns) as inside:
            return _leads_to(inside, held)

    def strays(self, tools: Tools, sight: Sight) -> Iterable[str]:
        wanted = {one.owner for one in sight.wanted(Resolver)}
        return sorted(f"of sandbox {id}" for id in sight.served - wanted)

    def remove(self, tools: Tools, sight: Sight, names: Sequence[str]) -> None:
        if tools.names is not None:
            tools.names.withdraw([name.removeprefix("of sandbox ") for name in names])


def recover(tools: Tools, sandboxes: Iterable[str]) -> None:
    """Copies of what a server that outlived the last controller serves of these sandboxes."""
    wanted = set(sandboxes)
    for found in tools.names.fetch() if tools.names is not None and wanted else ():
        if found.sandbox in wanted and found.sandbox not in tools.name_sockets:
            tools.name_sockets[found.sandbox] = found
        else:
            found.close()


def _ports(held: Sockets) -> tuple[int, int]:
    return held.udp.getsockname()[1], held.tcp.getsockname()[1]


def _leads_to(inside: Inside, held: Sockets) -> bool:
    """Whether what is sent to 127.0.0.11:53 in there comes to these sockets."""
    return _ports(held) == (PORT, PORT) or inside.call(redirect.installed, ADDRESS, *_ports(held))


def _reachable(tools: Tools, inside: Inside, owner: str) -> Sockets:
    """New sockets, and the redirect to them; where there can be none, sockets at the port that is asked."""
    made = _sockets(tools, inside, owner)
    try:
        inside.call(redirect.install, tools.firewall_name, ADDRESS, *_ports(made))
        return made
    except (NftError, NotSupported, OSError) as error:
        made.close()
        try:
            return _sockets(tools, inside, owner, PORT)
        except OSError:  # somebody in there has it
            raise error from None
    except BaseException:
        made.close()
        raise


def _sockets(tools: Tools, inside: Inside, owner: str, port: int = 0) -> Sockets:
    made: list[socket.socket] = []
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            sock = tools.netns.socket(inside.fd, socket.AF_INET, kind)
            made.append(sock)
            sock.bind((ADDRESS, port))
        made[1].listen(BACKLOG)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return Sockets(owner, made[0], made[1])


register(Resolver, ResolverKind())
