"""The netlink transport: whose answers count, where the kernel's words stand, what one datagram is."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator

import pytest

from pynet.netlib.kernel import rtnl_links
from pynet.netlib.kernel.netlink import NETLINK_GET_STRICT_CHK, SOL_NETLINK, Message, NetlinkError, NetlinkSocket
from pynet.netlib.kernel.rtnetlink import DELETED_AT_ONCE
from pynet.plugins.testhost import Host


@pytest.fixture
def netlink(host: Host) -> Iterator[NetlinkSocket]:
    with NetlinkSocket(socket.NETLINK_ROUTE) as netlink:
        yield netlink


def test_a_dump_that_fails_says_why(netlink: NetlinkSocket) -> None:
    """Its NLMSG_DONE carries the kernel's words in another place than an NLMSG_ERROR."""
    netlink.sock.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
    wrong = Message("list links", rtnl_links.RTM_GETLINK, 0, struct.pack("=BxHiII", 0, 0, 0, 0xFFFF, 0))
    with pytest.raises(NetlinkError, match=r"list links: Invalid argument \(Invalid values in header.*\)") as caught:
        netlink.dump(wrong)
    assert caught.value.errno == errno.EINVAL
    assert netlink.dump(rtnl_links.get_link()), "and the socket goes on"


def test_only_the_kernel_answers(netlink: NetlinkSocket) -> None:
    """Whoever has CAP_NET_ADMIN in a sandbox may send to the netlink sockets in there."""
    (port, _groups) = netlink.sock.getsockname()
    forged = struct.pack("=IHHIIi", 20, 2, 0, 1, 0, 0)  # the ack of the first message
    other = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with other, pytest.raises(ConnectionRefusedError):
        other.sendto(forged, (port, 0))
    with pytest.raises(NetlinkError, match="No such device"):
        netlink.transact([rtnl_links.del_link(99)])


def test_the_first_failure_is_the_one_to_tell(netlink: NetlinkSocket) -> None:
    batch = [
        rtnl_links.new_bridge("br0"),
        rtnl_links.del_link(98),
        rtnl_links.new_bridge("br0"),
        rtnl_links.del_link(name="br0"),
    ]
    with pytest.raises(NetlinkError, match="delete link 98") as caught:
        netlink.transact(batch)
    assert caught.value.errno == errno.ENODEV
    with pytest.raises(NetlinkError, match="add bridge br0: File exists"):
        netlink.transact(batch, ignore=(errno.ENODEV,))
    answers = netlink.transact(batch, ignore=(errno.ENODEV, errno.EEXIST))
    echoed = [rtnl_links.read_link(answer.body).name for answer in answers]
    assert echoed in (["br0"], []), "kernels before 6.2 do not echo a link"
    assert not netlink.transact([rtnl_links.get_link(name="br0")], ignore=(errno.ENODEV,)), (
        "all four were done each time"
    )


def test_what_fails_in_one_datagram_is_not_mixed_up_with_the_next(netlink: NetlinkSocket) -> None:
    for index in range(90, 99):
        with pytest.raises(NetlinkError, match=f"delete link {index}"):
            netlink.transact([rtnl_links.del_link(index), rtnl_links.del_link(name="lo")])
    (answer,) = netlink.transact([rtnl_links.get_link(name="lo")])
    assert rtnl_links.read_link(answer.body).name == "lo"


def test_links_that_are_all_gone_already(host: Host) -> None:
    host.rtnl.delete_links(range(10_000, 10_000 + 2 * DELETED_AT_ONCE + 3))
    assert host.rtnl.link("lo") is not None


def test_links_are_deleted_by_the_datagram(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends between two datagrams leaves links as they were, or none: never some without their group."""
    count = DELETED_AT_ONCE + 2
    indices = [host.rtnl.add_bridge(f"b{number}", group=4242, up=False) for number in range(count)]
    exchange = NetlinkSocket._exchange
    groups: set[int] = set()

    def looking(self: NetlinkSocket, *arguments: object) -> object:
        result = exchange(self, *arguments)  # type: ignore[arg-type]
        with NetlinkSocket(socket.NETLINK_ROUTE) as other:
            found = [rtnl_links.read_link(answer.body) for answer in other.dump(rtnl_links.get_link())]
        groups.update(link.group for link in found if link.kind == "bridge")
        return result

    monkeypatch.setattr(NetlinkSocket, "_exchange", looking)
    host.rtnl.delete_links(indices)
    assert groups == {4242}
    assert [link.name for link in host.rtnl.links() if link.kind == "bridge"] == []


def test_a_dump_under_which_the_table_changed_is_read_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was in its first part may be gone by the last one."""
    count = 200  # several parts
    indices = [host.rtnl.add_bridge(f"b{number}", up=False) for number in range(count)]
    receive = NetlinkSocket._receive
    parts = 0

    def changing(self: NetlinkSocket, step: str) -> Iterator[object]:
        nonlocal parts
        yield from receive(self, step)
        parts += step.startswith("look up link (all)")
        if parts == 1:
            parts += 1
            with NetlinkSocket(socket.NETLINK_ROUTE) as other:
                other.transact([rtnl_links.del_link(indices[0])])

    monkeypatch.setattr(NetlinkSocket, "_receive", changing)
    names = {link.name for link in host.rtnl.links()}
    assert parts > 4, "it was read twice, in parts"
    assert names == {"lo", *(f"b{number}" for number in range(1, count))}
    monkeypatch.undo()
    host.rtnl.delete_links(indices)


REFUSED = """
from pynet.netlib.kernel.netlink import NetlinkError
from pynet.netlib.kernel.nft_elements import ElementSocket, SetElement
try:
    ElementSocket().change("pynet", [("add", [SetElement("bridges", bytes(16))])])
except NetlinkError as error:
    print(error)
"""


def test_a_transaction_that_may_not_begin_says_why(host: Host) -> None:
    """The kernel answers its first message alone then, and nobody must wait for the last one's answer."""
    drop = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    assert host.run([*drop, sys.executable, "-c", REFUSED]).stdout == "begin a transaction: Operation not permitted\n"
