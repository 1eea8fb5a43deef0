"""DHCP messages and frames as values; whatever bytes come in, they are read or refused, and never more than that."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynet.ipam.dhcp import frames, message
from pynet.ipam.dhcp.client import Client, NoServer
from pynet.ipam.dhcp.frames import Arp, Datagram
from pynet.ipam.dhcp.message import Malformed, Message

MAC, SERVER_MAC = "02:42:0a:00:00:02", "02:00:00:00:00:01"
macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
addresses = st.ip_addresses(v=4).map(str)
plain = st.sets(st.integers(1, 254).filter(lambda code: code not in (message.OVERLOAD, message.TYPE)), max_size=6)
messages = st.builds(
    Message,
    st.sampled_from((1, 2)),
    st.integers(1, 8),
    st.integers(0, 2**32 - 1),
    macs,
    st.sampled_from((0, message.BROADCAST)),
    addresses,
    addresses,
    plain.flatmap(lambda codes: st.fixed_dictionaries({code: st.binary(max_size=600) for code in codes})),
)


@given(messages)
def test_what_is_built_is_read_again(said: Message) -> None:
    built = message.build(said)
    assert len(built) >= message.LEAST
    assert message.parse(built) == said


@given(st.binary(max_size=700))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    try:
        message.parse(data)
    except Malformed:
        pass


@given(messages, st.data())
def test_a_message_that_was_damaged_is_a_message_or_malformed(said: Message, data: st.DataObject) -> None:
    built = bytearray(message.build(said))
    for _ in range(data.draw(st.integers(1, 4))):
        built[data.draw(st.integers(0, len(built) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = message.parse(bytes(built[: data.draw(st.integers(0, len(built)))]))
    except Malformed:
        return
    assert found.kind in range(1, 9)
    assert found.prefix in (None, *range(33))
    assert isinstance(found.address(message.ROUTER) + found.text, str)
    assert (found.seconds(message.LEASE_TIME) or 0) < 2**32


def test_options_may_go_on_in_the_fields_for_names() -> None:
    """RFC 2131 4.1, option overload: "file" first, then "sname"."""
    built = bytearray(message.build(Message(2, message.OFFER, 7, MAC)))
    built[240:247] = bytes([53, 1, 2, 52, 1, 3, 255])
    built[108:114] = bytes([51, 4, 0, 0, 1, 0])
    built[114] = 255
    built[44:51] = bytes([3, 4, 10, 0, 0, 1, 255])
    found = message.parse(bytes(built))
    assert (found.seconds(message.LEASE_TIME), found.address(message.ROUTER)) == (256, "10.0.0.1")


@pytest.mark.parametrize(
    ("mask", "prefix"),
    [("255.255.255.0", 24), ("255.255.255.255", 32), ("0.0.0.0", 0), ("255.0.255.0", None), ("0.0.0.255", None)],
)
def test_a_mask_has_its_ones_at_the_front(mask: str, prefix: int | None) -> None:
    packed = bytes(int(part) for part in mask.split("."))
    assert Message(2, message.ACK, 7, MAC, options={message.MASK: packed}).prefix == prefix
    assert Message(2, message.ACK, 7, MAC, options={message.MASK: packed[:3]}).prefix is None


# -- frames ------------------------------------------------------------------------------------------------------------


def to_client(payload: bytes, *, source: str = "192.0.2.2") -> bytes:
    """As a server would send it: our own frame with the ports the other way round."""
    frame = frames.datagram(mac=SERVER_MAC, to_mac=MAC, source=source, target="255.255.255.255", payload=payload)
    return frame[:34] + frame[36:38] + frame[34:36] + frame[38:]


@given(st.binary(max_size=600))
def test_a_datagram_is_read_again(payload: bytes) -> None:
    assert frames.read(to_client(payload)) == Datagram(SERVER_MAC, "192.0.2.2", payload)
    assert frames.read(to_client(payload) + bytes(9)) == Datagram(SERVER_MAC, "192.0.2.2", payload), "Ethernet pads"


def test_the_checksums_are_right() -> None:
    """RFC 1071: summed with the checksum in place, all is ones."""
    frame = frames.datagram(mac=MAC, to_mac=SERVER_MAC, source="10.0.0.2", target="10.0.0.1", payload=b"odd")
    head, udp = frame[14:34], frame[34:]
    pseudo = head[12:20] + struct.pack("!BBH", 0, 17, len(udp))

    def ones(data: bytes) -> int:
        total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
        return total % 0xFFFF

    assert ones(head) == 0
    assert ones(pseudo + udp + b"\0") == 0


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_none(data: bytes) -> None:
    frames.read(data)
    for kind in (b"\x08\x00", b"\x08\x06"):
        frames.read(bytes(12) + kind + data)


@given(st.integers(0, 70), st.integers(0, 255))
def test_a_datagram_that_was_damaged_is_read_or_none(at: int, byte: int) -> None:
    frame = bytearray(to_client(b"payload" * 5))
    frame[at] = byte
    found = frames.read(bytes(frame))
    assert not isinstance(found, Datagram) or len(found.payload) <= 35
    for end in range(len(frame)):
        frames.read(bytes(frame[:end]))


def test_arp_is_read_again() -> None:
    probe = frames.arp(frames.ARP_REQUEST, mac=MAC, sender="0.0.0.0", target="192.0.2.9")
    assert frames.read(probe) == Arp(frames.ARP_REQUEST, MAC, "0.0.0.0", "192.0.2.9")
    assert probe[:6] == b"\xff" * 6
    answer = frames.arp(frames.ARP_REPLY, mac=MAC, sender="192.0.2.9", target="192.0.2.2", to_mac=SERVER_MAC)
    assert frames.read(answer) == Arp(frames.ARP_REPLY, MAC, "192.0.2.9", "192.0.2.2")
    assert answer[:6] == answer[32:38] == bytes.fromhex(SERVER_MAC.replace(":", ""))


# -- the client, on a wire that is a list --------------------------------------------------------------------------------


class Scripted:
    """A wire whose time passes only while somebody waits, and on which a server says what a test has it say."""

    def __init__(self, *answers: bytes) -> None:
        self.now, self.sent, self._answers = 0.0, list[tuple[float, bytes]](), list(answers)

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None: ...

    def send(self, frame: bytes) -> None:
        self.sent.append((self.now, frame))

    def receive(self, seconds: float) -> bytes | None:
        if self._answers:
            return self._answers.pop(0)
        self.now += seconds
        return None


def test_it_says_it_again_with_growing_pauses_and_gives_up_in_time() -> None:
    wire = Scripted()
    with pytest.raises(NoServer, match="within 10 s"):
        Client("eth0", MAC, clock=lambda: wire.now).acquire(wire)
    assert [at for at, _ in wire.sent] == [0.0, 1.0, 3.0, 7.0]
    assert wire.now == 10.0


@given(st.lists(st.binary(max_size=400), max_size=30))
def test_whatever_is_heard_a_client_ends_in_time(heard: list[bytes]) -> None:
    wire = Scripted(*(to_client(data) for data in heard), *heard)
    with pytest.raises(NoServer):
        Client("eth0", MAC, timeout=2, clock=lambda: wire.now).acquire(wire)
    assert wire.now == 2.0
