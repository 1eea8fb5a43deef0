"""A DHCP client that speaks for a container: RFC 2131 4.4, one exchange a call, each within a bounded time.

    acquire   DISCOVER -> OFFER -> REQUEST -> ACK -> probe (RFC 5227) -> a grant      DECLINE, and once more, if it is taken
    renew     REQUEST -> ACK: from the server that gave it, after T2 from any
    release   RELEASE: said once, answered by nobody

It knows no socket: ``Wire`` sends and receives frames on the network's segment.  Where the RFC has a client wait ten seconds
after a DECLINE, so that it does not loop, this one gives up after a few.
"""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from ...netlib.errors import Conflict, Unavailable
from . import frames, message
from .frames import EVERYBODY, NOWHERE, Arp, Datagram
from .message import Malformed, Message

TIMEOUT = 10.0
"""Seconds until a server that says nothing is none."""
FIRST_PAUSE = 1.0
"""Seconds until a message is sent again, and twice as many each time after; RFC 2131 4.1 begins with 4, but somebody waits."""
TRIES = 3
"""Addresses that are taken, one after the other, until the server is not believed any more."""
PROBES, PROBE_PAUSE = 2, 0.2
"""RFC 5227 1.1 has 3 a second or two apart; on a wire where nothing sleeps, answers come in milliseconds."""
_ASKED = bytes(
    (message.MASK, message.ROUTER, message.LEASE_TIME, message.SERVER, message.RENEWAL_TIME, message.REBINDING_TIME)
)


class Wire(Protocol):
    """Frames on a segment; closed by leaving the block."""

    def __enter__(self) -> Wire: ...
    def __exit__(self, *_: object) -> None: ...
    def send(self, frame: bytes) -> None: ...
    def receive(self, seconds: float) -> bytes | None:
        """The next frame that is ARP or for a DHCP client; None when there is none within that time."""
        ...


class NoServer(Unavailable):
    hint = "see whether a DHCP server answers there, or give the network a --subnet without --ipam-driver dhcp"

    def __init__(self, link: str, seconds: float) -> None:
        super().__init__(f"no DHCP server answered on {link} within {seconds:g} s")
        self.link, self.seconds = link, seconds


class Refused(Conflict):
    """The server does not give what is asked for."""

    hint = "ask for another address, or for none; the server's own log may say more"


class AddressTaken(Conflict):
    hint = "look at the server's pool: somebody has an address of it that the server does not know of"

    def __init__(self, link: str, taken: list[tuple[str, str]]) -> None:
        said = ", ".join(f"{address} ({holder} has it)" for address, holder in taken)
        super().__init__(f"the DHCP server on {link} hands out addresses that are taken: {said}")
        self.taken = tuple(taken)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a server gave, and to whom."""

    mac: str
    address: str
    prefix: int
    router: str
    """"" without one in the subnet."""
    server: str
    server_mac: str
    """Of the server, or of the relay or router that leads to it."""
    time: float
    """Seconds, from when it was asked for."""
    renew_after: float
    rebind_after: float


@dataclass(frozen=True, slots=True)
class Client:
    link: str
    """Name of the interface, for errors."""
    mac: str
    hostname: str = ""
    timeout: float = TIMEOUT
    clock: Callable[[], float] = time.monotonic

    # -- the exchanges ---------------------------------------------------------------------------------------

    def acquire(self, wire: Wire, wanted: str = "", holder: Callable[[str], str] = lambda address: "") -> Grant:
        """An address, *wanted* or any; NoServer, Refused, AddressTaken.

        *holder* knows who on this machine has an address: what stands on the same interface does not hear the probes.
        """
        deadline = self.clock() + self.timeout
        taken: list[tuple[str, str]] = []
        while len(taken) < TRIES:
            grant = self._ask(wire, wanted, deadline)
            found = holder(grant.address) or self._probe(wire, grant.address)
            if not found:
                return grant
            taken.append((grant.address, found))
            self._say(
                wire,
                message.DECLINE,
                {message.REQUESTED: _packed(grant.address), message.SERVER: _packed(grant.server)},
            )
            if wanted:
                break
        raise AddressTaken(self.link, taken)

    def _ask(self, wire: Wire, wanted: str, deadline: float) -> Grant:
        options = self._options() | ({message.REQUESTED: _packed(wanted)} if wanted else {})
        xid, other = secrets.randbits(32), None
        for offer, sender_mac in self._answers(wire, message.DISCOVER, options, deadline, xid=xid):
            grant = _grant(offer, sender_mac)
            if offer.kind == message.OFFER and grant is not None and (not wanted or grant.address == wanted):
                return self._take(wire, grant, deadline, xid)
            other = grant or other
        if other is not None and wanted:
            raise Refused(f"the DHCP server on {self.link} offers {other.address} and not {wanted}")
        raise NoServer(self.link, self.timeout)

    def _take(self, wire: Wire, offered: Grant, deadline: float, xid: int) -> Grant:
        options = {message.REQUESTED: _packed(offered.address), message.SERVER: _packed(offered.server)}
        for answer, sender_mac in self._answers(wire, message.REQUEST, self._options() | options, deadline, xid=xid):
            if answer.address(message.SERVER) not in ("", offered.server):
                continue
            if answer.kind == message.NAK:
                raise self._refusal(answer, offered.address)
            grant = _grant(answer, sender_mac)
            if answer.kind == message.ACK and grant is not None and grant.address == offered.address:
                return grant
        raise NoServer(self.link, self.timeout)

    def renew(self, wire: Wire, grant: Grant, *, rebind: bool) -> Grant:
        """The same for longer: by the server that gave it, or with *rebind* by any.  NoServer, Refused."""
        to = ("255.255.255.255", EVERYBODY) if rebind else (grant.server, grant.server_mac)
        deadline = self.clock() + self.timeout
        for answer, sender_mac in self._answers(
            wire, message.REQUEST, self._options(), deadline, source=grant.address, to=to
        ):
            if answer.kind == message.NAK:
                if not rebind and answer.address(message.SERVER) not in ("", grant.server):
                    continue  # nobody else was asked, and what another one gave is not his to take back
                raise self._refusal(answer, grant.address)
            found = _grant(answer, sender_mac)
            if answer.kind == message.ACK and found is not None and found.address == grant.address:
                return found
        raise NoServer(self.link, self.timeout)

    def release(self, wire: Wire, grant: Grant) -> None:
        said = Message(
            message.BOOTREQUEST,
            message.RELEASE,
            secrets.randbits(32),
            self.mac,
            client=grant.address,
            options={message.SERVER: _packed(grant.server)},
        )
        self._send(wire, said, grant.address, (grant.server, grant.server_mac))

    # -- how ---------------------------------------------------------------------------------------------------

    def _options(self) -> dict[int, bytes]:
        named = {message.HOSTNAME: self.hostname.encode()} if self.hostname else {}
        return {message.WANTED: _ASKED, **named}

    def _refusal(self, answer: Message, address: str) -> Refused:
        why = f": {answer.text}" if answer.text else ""
        return Refused(f"the DHCP server on {self.link} does not give {address}{why}")

    def _answers(
        self,
        wire: Wire,
        kind: int,
        options: dict[int, bytes],
        deadline: float,
        *,
        source: str = NOWHERE,
        to: tuple[str, str] = ("255.255.255.255", EVERYBODY),
        xid: int | None = None,
    ) -> Iterator[tuple[Message, str]]:
        """Say it, again and again until the deadline; what servers answer, each with the MAC address it came from."""
        said = Message(
            message.BOOTREQUEST,
            kind,
            secrets.randbits(32) if xid is None else xid,
            self.mac,
            flags=message.BROADCAST,
            client=source,
            options=options,
        )
        pause = FIRST_PAUSE
        while (now := self.clock()) < deadline:
            self._send(wire, said, source, to)
            again = min(now + pause, deadline)
            pause *= 2
            while (left := again - self.clock()) > 0:
                found = self._heard(wire, left, source)
                if found is None:
                    continue
                answer = _parsed(found)
                if answer is not None and (answer.op, answer.xid, answer.mac) == (
                    message.BOOTREPLY,
                    said.xid,
                    self.mac,
                ):
                    yield answer, found.source_mac

    def _heard(self, wire: Wire, seconds: float, own: str) -> Datagram | None:
        frame = wire.receive(seconds)
        found = frames.read(frame) if frame is not None else None
        if isinstance(found, Arp):
            # the server looks for the address that it is to answer to, and its container may not have come yet
            if found.op == frames.ARP_REQUEST and own != NOWHERE and found.target == own and found.sender != own:
                to = found.sender_mac
                wire.send(frames.arp(frames.ARP_REPLY, mac=self.mac, sender=own, target=found.sender, to_mac=to))
            return None
        return found

    def _probe(self, wire: Wire, address: str) -> str:
        """The MAC address of who has the address already, or wants it just now (RFC 5227 2.1.1); "" for nobody."""
        for _ in range(PROBES):
            wire.send(frames.arp(frames.ARP_REQUEST, mac=self.mac, sender=NOWHERE, target=address))
            until = self.clock() + PROBE_PAUSE
            while (left := until - self.clock()) > 0:
                frame = wire.receive(left)
                found = frames.read(frame) if frame is not None else None
                if isinstance(found, Arp) and found.sender_mac != self.mac:
                    probing = found.op == frames.ARP_REQUEST and found.sender == NOWHERE and found.target == address
                    if found.sender == address or probing:
                        return found.sender_mac
        return ""

    def _say(self, wire: Wire, kind: int, options: dict[int, bytes]) -> None:
        said = Message(message.BOOTREQUEST, kind, secrets.randbits(32), self.mac, options=options)
        self._send(wire, said, NOWHERE, ("255.255.255.255", EVERYBODY))

    def _send(self, wire: Wire, said: Message, source: str, to: tuple[str, str]) -> None:
        target, to_mac = to
        payload = message.build(said)
        wire.send(frames.datagram(mac=self.mac, to_mac=to_mac, source=source, target=target, payload=payload))


def _parsed(found: Datagram) -> Message | None:
    try:
        return message.parse(found.payload)
    except Malformed:
        return None  # as if it had not come


def _grant(answer: Message, sender_mac: str) -> Grant | None:
    """What an offer or acknowledgement gives; None when it is nothing that an interface could have."""
    prefix, server, lent = answer.prefix, answer.address(message.SERVER), answer.seconds(message.LEASE_TIME)
    if prefix is None or not server or not lent:
        return None
    subnet = ipaddress.IPv4Network(f"{answer.yours}/{prefix}", strict=False)
    address = ipaddress.IPv4Address(answer.yours)
    ends = () if prefix > 30 else (subnet.network_address, subnet.broadcast_address)
    if not prefix or address in ends or address.is_unspecified or address.is_multicast or address.is_loopback:
        return None
    if address.is_reserved or ipaddress.IPv4Address(server).is_unspecified:
        return None
    router = answer.address(message.ROUTER)
    usable = router and ipaddress.IPv4Address(router) in subnet and router != answer.yours
    # RFC 2131 4.4.5: half and seven eighths of it, where the server says nothing, or nothing that makes sense
    renew = _within(answer.seconds(message.RENEWAL_TIME), lent / 2, lent)
    rebind = _within(answer.seconds(message.REBINDING_TIME), lent * 7 / 8, lent)
    return Grant(
        answer.mac,
        answer.yours,
        prefix,
        router if usable else "",
        server,
        sender_mac,
        lent,
        min(renew, rebind),
        rebind,
    )


def _within(said: int | None, otherwise: float, end: int) -> float:
    return said if said is not None and 0 < said < end else otherwise


def _packed(address: str) -> bytes:
    return ipaddress.IPv4Address(address).packed
