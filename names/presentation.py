"""The rest of the wire format, by dnspython, off the hot path: what is shown to people, and asked in their name.

dnspython is imported by the first call: the server answers without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dns.message


def query(name: str, type: str = "A", *, payload: int = 1232) -> bytes:
    """A query as a client sends it.  *type* by name or number; *payload* 0: without EDNS.  ValueError where there is no such
    name or type."""
    import dns.exception
    import dns.message

    try:
        asked = dns.message.make_query(name, type, use_edns=0 if payload else False, payload=payload)
        return asked.to_wire()
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"cannot ask for {name!r}, {type}: {str(error) or error.__class__.__name__}") from error


def read(data: bytes) -> dns.message.Message:
    """Any whole message.  ValueError for what is none."""
    import dns.exception
    import dns.message

    try:
        return dns.message.from_wire(data)
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"no message: {str(error) or error.__class__.__name__}") from error


def code_name(reply: bytes) -> str:
    """NOERROR, NXDOMAIN, ...; with EDNS's upper bits.  ValueError for what is no message."""
    import dns.rcode

    return dns.rcode.to_text(read(reply).rcode())


def lines(reply: bytes) -> list[str]:
    """The records of the answer, each as in a zone file.  ValueError for what is no message."""
    return [line for records in read(reply).answer for line in records.to_text().splitlines()]


def type_name(number: int) -> str:
    """A, AAAA, ...; TYPE65280 for one without a name (RFC 3597)."""
    import dns.rdatatype

    return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(number))
