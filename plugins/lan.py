"""A host and its LAN: the wire between two namespaces, and the addresses on it.  What every playing of a host uses.

    host  <ifname> 192.0.2.1/24, 2001:db8::1/64  ====  eth0 192.0.2.2/24, 2001:db8::2/64  client

The test host (testhost.py) and the playground (playground.py) differ in who lives in the namespaces: the thread of a
test, or a shell with process ids, mounts and a host name of its own.  The LAN is the same.  The addresses are those for
documentation (RFC 5737, RFC 3849): no real network answers to them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..netlib.kernel.rtnetlink import RouteInfo, Rtnetlink

HOST = (("192.0.2.1", 24), ("2001:db8::1", 64))
CLIENT = (("192.0.2.2", 24), ("2001:db8::2", 64))


def lay(host: Rtnetlink, client: Rtnetlink, *, client_fd: int, ifname: str, routes: Sequence[RouteInfo] = ()) -> int:
    """Lay the wire from *ifname* on the host to eth0 in the namespace of *client_fd*; both ends are up on return.

    *routes* are added to the host's.  Returns the index of the host's end, whose removal takes the wire away.
    """
    near, far = host.add_veth(ifname, "eth0", netns_fd=client_fd)
    try:
        client.configure(far, addresses=CLIENT)
        host.configure(near, addresses=HOST, routes=routes, lo_up=False)
        client.wait_up(far)
        host.wait_up(near)
    except BaseException:
        host.delete_link(near)
        raise
    return near
