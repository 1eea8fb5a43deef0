"""The server over real sockets: UDP, TCP, what is forwarded, who may take how much."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pynet.names import message
from pynet.names.counters import Limits
from pynet.names.message import AAAA, NOERROR, NXDOMAIN, REFUSED, SERVFAIL, A
from pynet.names.server import LIMITS, Entry
from pynet.netlib.naming import View

from support.names import NETWORK, Running, Tcp, Udp, endpoint, framed, query, running

DB = endpoint("db", "10.0.0.2", "fd00::2")
OUTSIDE = "example.com"


def code(reply: bytes) -> int:
    return reply[3] & 15


def addresses(reply: bytes) -> list[str]:
    """Of a reply whose records are all A, without OPT."""
    at, found = 12 + reply.index(b"\0", 12) - 12 + 5, list[str]()
    while at < len(reply):
        found.append(socket.inet_ntoa(reply[at + 12 : at + 16]))
        at += 16
    return found


def truncated(reply: bytes) -> bool:
    return bool(reply[2] & 2)


# -- UDP -------------------------------------------------------------------------------------------------------------


def test_the_same_question_again_is_answered_from_the_memo() -> None:
    with running("s") as server, Udp(server.udp["s"]) as client:
        server.tell(DB)
        for id in (1, 2, 65535):
            reply = client.ask(query("Db", id=id))
            assert (reply[:2], addresses(reply)) == (id.to_bytes(2, "big"), ["10.0.0.2"])
            assert reply[12:16] == b"\2Db\0"
        assert client.ask(query("dB"))[12:16] == b"\2dB\0"
        count = server.count("s")
        assert (count["udp"], count["local"], count["memo"]) == (4, 2, 2)


def test_a_change_is_answered_at_once_and_concerns_only_whom_it_may() -> None:
    with running("s", "t") as server, Udp(server.udp["s"]) as one, Udp(server.udp["t"]) as other:
        server.tell(View("t", ("n2",)), DB, replace(endpoint("db", "10.0.0.9", network="n2"), endpoint="e2"))
        for _ in range(2):
            assert addresses(one.ask(query("db"))) == ["10.0.0.2"]
            assert addresses(other.ask(query("db"))) == ["10.0.0.9"]
        server.tell(replace(DB, addresses=("10.0.0.3",)))
        assert addresses(one.ask(query("db"))) == ["10.0.0.3"]
        assert addresses(other.ask(query("db"))) == ["10.0.0.9"]
        server.tell(gone_endpoints=(DB.endpoint,))
        assert code(one.ask(query("db"))) == NXDOMAIN, "asked outside now"
        assert (server.count("s")["memo"], server.count("t")["memo"]) == (1, 2)


@pytest.mark.parametrize("number", [2, 16, 17, 40])
def test_addresses_take_turns_whether_remembered_or_not(number: int) -> None:
    """The first of an answer is another each time, and all come to be first."""
    with running("s") as server, Udp(server.udp["s"]) as client:
        server.tell(*(endpoint(f"c{n}", f"10.0.1.{n}", names=("web",)) for n in range(number)))
        data = query("web", size=1232)
        firsts = [addresses(client.ask(data)[:-11])[0] for _ in range(2 * number)]
        assert len(set(firsts[:number])) == number
        assert firsts[:number] == firsts[number:]
        follows = {f"10.0.1.{n}": f"10.0.1.{(n + 1) % number}" for n in range(number)}
        assert all(follows[one] == next for one, next in itertools.pairwise(firsts))
        assert (server.count("s")["memo"] > 0) == (number <= 16)


def test_what_does_not_fit_is_cut_between_records_and_whole_over_tcp() -> None:
    with running("s") as server, Udp(server.udp["s"]) as client, Tcp(server.tcp["s"]) as stream:
        server.tell(*(endpoint(f"c{n}", f"10.0.{n // 200}.{n % 200}", names=("web",)) for n in range(300)))
        for _ in range(2):
            reply = client.ask(query("web"))
            assert len(reply) == 12 + 9 + 16 * 30 and truncated(reply)
        whole = stream.ask(query("web"))
        assert len(addresses(whole)) == 300 and not truncated(whole)


def test_a_sandbox_is_read_once_its_view_is_told() -> None:
    """After a restart questions wait in the sockets for a server that knows what to say."""
    with running() as server:
        server.serve("s")
        with Udp(server.udp["s"]) as client, Tcp(server.tcp["s"]) as stream:
            client.send(query("db"))
            stream.send(framed(query("db")))
            server.tell(DB)
            assert server.count("s")["udp"] == 0
            server.tell(View("s", (NETWORK,)))
            assert addresses(client.receive()) == addresses(stream.receive()) == ["10.0.0.2"]
            server.tell(gone_views=("s",))
            client.send(query("db", id=7))
            server.tell(replace(DB, addresses=("10.0.0.4",)))
            server.tell(View("s", (NETWORK,)))
            assert addresses(client.receive()) == ["10.0.0.4"]


def test_a_sandbox_that_is_withdrawn_is_closed_and_one_that_is_served_anew_keeps_its_count() -> None:
    with running("s", "t") as server, Udp(server.udp["s"]) as client, Tcp(server.tcp["s"]) as stream:
        server.tell(DB)
        assert client.ask(query("db")) and stream.ask(query("db"))
        old = server.tcp["s"]
        server.serve("s")
        with pytest.raises(EOFError):
            stream.receive()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(old)
        with Udp(server.udp["s"]) as again:
            assert addresses(again.ask(query("db"))) == ["10.0.0.2"]
        assert server.count("s")["udp"] == 2
        for _ in range(2):
            server.call(server.server.withdraw, "s")
        assert server.call(lambda: server.server.served) == {"t"}
        assert server.forwarder.forgotten == ["s", "s"], "once for the sockets that were replaced"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(server.tcp["s"])
        with Udp(server.udp["t"]) as client:
            assert addresses(client.ask(query("db"))) == ["10.0.0.2"]


def test_whatever_comes_the_next_question_is_answered() -> None:
    chance = random.Random(4)
    good = query("db", size=1232)
    with running("s") as server, Udp(server.udp["s"]) as client:
        server.tell(DB)
        for round in range(3000):
            match chance.randrange(4):
                case 0:
                    data = chance.randbytes(chance.randrange(64))
                case 1:
                    data = good[: chance.randrange(len(good))]
                case 2:
                    where = chance.randrange(2, len(good))
                    data = good[:where] + chance.randbytes(1) + good[where + 1 :]
                case _:
                    data = good[:12] + b"\xc0\x0c" * chance.randrange(1000)
            client.send(data[:2] + b"\xff" + data[3:] if round % 5 == 0 else data)
            if round % 16 == 0:
                client.send(query("db", id=1))
                while client.receive()[:2] != b"\0\1":
                    pass
        with Udp(server.udp["s"]) as another:
            assert code(another.ask(bytes(65507))) == message.FORMERR
            assert addresses(another.ask(query("db"))) == ["10.0.0.2"]
        assert server.count("s")["malformed"] > 1000


def test_a_flood_of_one_sandbox_leaves_another_its_turn() -> None:
    """By the log: between the moment that both may be read and the other's answer there are a few bursts, not the queue."""
    with running("s", "t") as server, Udp(server.udp["s"]) as flood, Udp(server.udp["t"]) as quiet:
        server.tell(DB)
        noted: list[Entry] = []
        server.tell(gone_views=("s", "t"))
        for _ in range(200):
            flood.send(query("db"))
        quiet.send(query("db"))

        def begin() -> None:
            server.server.log = noted.append
            server.server.tell([View("s", (NETWORK,)), View("t", (NETWORK,))])

        server.call(begin)
        quiet.receive()
        server.until(lambda: len(noted) > 150)
        assert [entry.sandbox for entry in noted].index("t") <= 2 * LIMITS.burst


def test_memos_stay_within_their_bounds() -> None:
    limits = Limits(memo_entries=10, memo_bytes=2000)
    with running("s", limits=limits) as server, Udp(server.udp["s"]) as client:
        server.tell(*(endpoint(f"c{n}", f"10.0.0.{n}") for n in range(50)))
        for n in range(50):
            assert addresses(client.ask(query(f"c{n}"))) == [f"10.0.0.{n}"]
        assert addresses(client.ask(query("c49"))) == ["10.0.0.49"]
        assert addresses(client.ask(query("c0"))) == ["10.0.0.0"]
        for n in range(50):
            assert code(client.ask(query(f"nobody{n}"))) == NXDOMAIN
            assert code(client.ask(query(f"x{n}", message.ANY))) == NOERROR
        assert addresses(client.ask(query("c0"))) == ["10.0.0.0"]
        assert server.count("s")["memo"] == 2


# -- what is forwarded -----------------------------------------------------------------------------------------------


def test_what_is_not_ours_is_forwarded() -> None:
    with running("s") as server, Udp(server.udp["s"]) as client, Tcp(server.tcp["s"]) as stream:
        server.forwarder.say = lambda question: message.reply(question, NOERROR, (message.Record(A, 5, bytes(4)),))
        assert addresses(client.ask(query("Example.com"))) == ["0.0.0.0"]
        assert addresses(stream.ask(query(OUTSIDE))) == ["0.0.0.0"]
        assert server.forwarder.asked == [("s", b"example.com", False), ("s", b"example.com", True)]
        server.forwarder.at_hand[b"example.com"] = message.reply(_asked(query(OUTSIDE)), SERVFAIL)[2:]
        assert code(client.ask(query(OUTSIDE))) == SERVFAIL
        count = server.count("s")
        assert (count["forwarded"], count["cached"], count["failed"]) == (2, 1, 0)


def test_what_was_asked_outside_before_is_in_the_memo_until_its_ttl_is_another_one() -> None:
    with running("s") as server, Udp(server.udp["s"]) as client:
        for seconds, codes, counts in ((0.0, (NOERROR, NXDOMAIN), (2, 0)), (1000.0, (NOERROR, NOERROR), (3, 1))):
            server.forwarder.right_for = seconds
            for code_ in (NOERROR, NXDOMAIN):
                server.forwarder.at_hand[b"example.com"] = message.reply(_asked(query(OUTSIDE)), code_)[2:]
                assert code(client.ask(query(OUTSIDE))) == codes[code_ == NXDOMAIN]
            count = server.count("s")
            assert (count["cached"], count["memo"]) == counts
        server.tell(endpoint("example.com", "10.0.0.9"))
        assert addresses(client.ask(query(OUTSIDE))) == ["10.0.0.9"], "a container has the name now"


def _asked(data: bytes) -> message.Question:
    question = message.parse(data)
    assert isinstance(question, message.Question)
    return question


def test_a_forwarder_that_fails_or_says_too_much_is_put_right() -> None:
    with running("s") as server, Udp(server.udp["s"]) as client, Tcp(server.tcp["s"]) as stream:
        server.forwarder.say = lambda question: message.reply(question, NOERROR)[:100] + bytes(2000)
        reply = client.ask(query(OUTSIDE, size=1232))
        assert truncated(reply) and len(reply) < 100
        assert len(stream.ask(query(OUTSIDE))) > 2000

        def fail(question: message.Question) -> bytes:
            raise RuntimeError("a defect")

        server.forwarder.say = fail
        assert code(client.ask(query(OUTSIDE))) == SERVFAIL
        assert server.count("s")["failed"] == 1
        assert [str(error["exception"]) for error in server.errors] == ["a defect"]
        server.errors.clear()


def test_so_many_questions_may_be_under_way() -> None:
    with running("s", limits=Limits(forwarded=3)) as server, Udp(server.udp["s"]) as client:
        server.tell(DB)
        server.forwarder.held = asyncio.Event()
        for n in range(3):
            client.send(query(f"x{n}.example.com", id=n))
        server.until(lambda: len(server.forwarder.asked) == 3)
        assert code(client.ask(query("y.example.com", id=9))) == REFUSED
        assert addresses(client.ask(query("db"))) == ["10.0.0.2"], "what is ours goes on"
        server.call(server.forwarder.held.set)
        assert {client.receive()[:2] for _ in range(3)} == {bytes((0, n)) for n in range(3)}
        assert code(client.ask(query("y.example.com"))) == NXDOMAIN
        count = server.count("s")
        assert (count["forwarded"], count["refused"], server.server.under_way) == (4, 1, 0)


def under_way(server: Running, sandbox: str, number: int) -> bool:
    return len(server.server.of(sandbox).under_way) == number


def test_who_floods_leaves_room_for_the_questions_of_others() -> None:
    """Of 8 in all the first may have 4, the next 2, and there is still one for a third."""
    with (
        running("s", "t", "u", limits=Limits(forwarded=6, forwarded_in_all=8)) as server,
        contextlib.ExitStack() as stack,
    ):
        server.forwarder.held = asyncio.Event()
        clients = {sandbox: stack.enter_context(Udp(server.udp[sandbox])) for sandbox in "stu"}
        for sandbox, admitted in (("s", 4), ("t", 2), ("u", 1)):
            for n in range(admitted):
                clients[sandbox].send(query(f"x{n}.example.com"))
            server.until(partial(under_way, server, sandbox, admitted))
            assert code(clients[sandbox].ask(query("y.example.com"))) == REFUSED
        server.call(server.forwarder.held.set)
        assert code(clients["u"].receive()) == NXDOMAIN


def test_a_sandbox_that_goes_takes_its_questions_along() -> None:
    with running("s") as server, Udp(server.udp["s"]) as client:
        server.forwarder.held = asyncio.Event()
        client.send(query(OUTSIDE))
        server.until(lambda: len(server.forwarder.asked) == 1)
        server.call(server.server.withdraw, "s")
        server.until(lambda: server.forwarder.cancelled == 1 and server.server.under_way == 0)


# -- TCP -------------------------------------------------------------------------------------------------------------


def test_questions_on_one_connection_are_answered_as_they_are_answerable() -> None:
    """RFC 7766 6.2.1.1, 7: pipelined, in another order, however the bytes come."""
    with running("s") as server, Tcp(server.tcp["s"]) as client:
        server.tell(DB)
        server.forwarder.held = asyncio.Event()
        data = framed(
            query("a.example.com", id=1), query("db", id=2), query("b.example.com", id=3), query("db", AAAA, id=4)
        )
        client.send(data[:1])
        client.send(data[1:50])
        client.send(data[50:])
        assert [client.receive()[:2] for _ in range(2)] == [b"\0\2", b"\0\4"]
        server.call(server.forwarder.held.set)
        assert {client.receive()[:2] for _ in range(2)} == {b"\0\1", b"\0\3"}
        client.send(b"".join(framed(query("db", id=n)) for n in range(500)))
        assert [client.receive()[:2] for _ in range(500)] == [n.to_bytes(2, "big") for n in range(500)]
        assert server.count("s")["tcp"] == 504


def test_a_client_that_has_asked_and_shut_its_side_is_answered() -> None:
    with running("s") as server, Tcp(server.tcp["s"]) as client:
        server.forwarder.held = asyncio.Event()
        client.send(framed(*(query(f"x{n}.example.com", id=n) for n in range(100))))
        client.sock.shutdown(socket.SHUT_WR)
        server.until(lambda: len(server.forwarder.asked) == LIMITS.pipelined)
        server.call(server.forwarder.held.set)
        assert {client.receive()[:2] for _ in range(100)} == {n.to_bytes(2, "big") for n in range(100)}
        with pytest.raises(EOFError):
            client.receive()


def test_messages_over_tcp_may_be_as_long_as_their_length_says() -> None:
    with running("s") as server, Tcp(server.tcp["s"]) as client:
        server.tell(DB)
        assert code(client.ask(query("db") + bytes(65535 - len(query("db"))))) == message.FORMERR
        assert code(client.ask(query("db"))) == NOERROR


@pytest.mark.parametrize(
    "data", [b"\0\0", b"\0\x0b" + bytes(11), b"\0\1\0", framed(query("db")[:2] + b"\x81" + query("db")[3:])]
)
def test_what_is_no_message_over_tcp_ends_its_connection_alone(data: bytes) -> None:
    """CVE-2026-35406: a length that no message has was read again for ever."""
    with running("s") as server, Tcp(server.tcp["s"]) as other:
        server.tell(DB)
        with Tcp(server.tcp["s"]) as client:
            assert code(client.ask(query("db"))) == NOERROR
            client.send(data)
            with pytest.raises(EOFError):
                client.receive()
        assert code(other.ask(query("db"))) == NOERROR
        assert server.count("s")["cut"] == 1
        assert server.call(lambda: len(server.server.connections)) == 1


def test_a_client_that_says_nothing_holds_up_nobody() -> None:
    """CVE-2024-8418: whoever connected and was silent was waited for, and nobody else was answered."""
    with running("s", "t") as server, contextlib.ExitStack() as stack:
        server.tell(DB)
        for part in (b"", b"\0", b"\0\x20", framed(query("db"))[:-1]):
            stack.enter_context(Tcp(server.tcp["s"])).send(part)
        for sandbox in ("s", "t"):
            with Tcp(server.tcp[sandbox]) as client, Udp(server.udp[sandbox]) as datagrams:
                assert code(client.ask(query("db"))) == code(datagrams.ask(query("db"))) == NOERROR
        assert server.count("s")["cut"] == 0


@pytest.mark.parametrize("part", [b"\0", framed(query("db"))[:-2]])
def test_a_message_that_does_not_end_ends_its_connection(part: bytes) -> None:
    """However its bytes drop in: one a second moves nothing."""
    with running("s") as server, Tcp(server.tcp["s"]) as client:
        server.tell(DB)
        assert code(client.ask(query("db"))) == NOERROR
        server.advance(LIMITS.idle - LIMITS.sweep)
        client.send(part)
        begun = server.received("s", len(part))
        server.advance(LIMITS.message / 2)
        client.send(b"\x20")
        assert server.received("s", len(part) + 1) == begun, "still the same deadline"
        server.advance(LIMITS.message / 2 + LIMITS.sweep)
        with pytest.raises(EOFError):
            client.receive()
        assert server.count("s")["cut"] == 1


def test_a_connection_that_is_quiet_ends_and_one_that_waits_for_us_does_not() -> None:
    with running("s") as server:
        server.forwarder.held = asyncio.Event()
        with Tcp(server.tcp["s"]) as waiting, Tcp(server.tcp["s"]) as quiet:
            waiting.send(framed(query(OUTSIDE)))
            server.until(lambda: len(server.forwarder.asked) == 1 and len(server.server.connections) == 2)
            server.advance(LIMITS.idle + LIMITS.sweep)
            with pytest.raises(EOFError):
                quiet.receive()
            server.call(server.forwarder.held.set)
            assert code(waiting.receive()) == NXDOMAIN
            server.advance(LIMITS.idle + LIMITS.sweep)
            with pytest.raises(EOFError):
                waiting.receive()
        assert server.count("s")["cut"] == 2
        assert server.call(lambda: len(server.server.connections)) == 0


def test_a_client_that_takes_no_answers_is_read_no_further_and_ends() -> None:
    limits = Limits(unsent=100_000, message=1.0, sweep=0.05)
    with running("s", limits=limits) as server, Tcp(server.tcp["s"]) as client:
        server.tell(*(endpoint(f"c{n}", f"10.0.{n // 200}.{n % 200}", names=("web",)) for n in range(3000)))
        ask = framed(query("web"))
        client.sock.settimeout(None)
        with pytest.raises(ConnectionError):
            while True:
                client.send(ask * 1000)
        # 48,000 bytes an answer; the kernel's buffers hold some megabytes
        assert server.count("s")["tcp"] < 2000
        assert server.count("s")["cut"] == 1


def test_there_are_so_many_connections_and_the_quietest_makes_room() -> None:
    with (
        running("s", "t", limits=Limits(connections=3, connections_in_all=4)) as server,
        contextlib.ExitStack() as stack,
    ):
        server.tell(DB)

        def another(sandbox: str) -> Tcp:
            client = stack.enter_context(Tcp(server.tcp[sandbox]))
            assert code(client.ask(query("db"))) == NOERROR
            return client

        first, second, third = (another("s") for _ in range(3))
        assert code(first.ask(query("db"))) == NOERROR
        fourth = another("s")
        with pytest.raises(EOFError):
            second.receive()
        others = [another("t") for _ in range(2)]
        with pytest.raises(EOFError):
            third.receive()
        for client in (first, fourth, *others):
            assert code(client.ask(query("db"))) == NOERROR
        assert (server.count("s")["cut"], server.count("t")["cut"]) == (2, 0)


def leave(client: Tcp) -> None:
    client.leave_at_once()


def shut(client: Tcp) -> None:
    client.__exit__()


@pytest.mark.parametrize("go", [leave, shut])
@pytest.mark.parametrize(
    "part", [b"", b"\0", framed(query("db")), framed(query(OUTSIDE)), framed(query(OUTSIDE)) * 200]
)
def test_a_client_may_leave_at_any_moment(part: bytes, go: Callable[[Tcp], None]) -> None:
    with running("s") as server, Tcp(server.tcp["s"]) as other:
        server.tell(DB)
        server.forwarder.held = asyncio.Event()
        assert code(other.ask(query("db"))) == NOERROR
        client = Tcp(server.tcp["s"])
        client.send(part)
        if query(OUTSIDE) in part:
            server.until(lambda: len(server.forwarder.asked) >= 1)
        go(client)
        assert code(other.ask(query("db"))) == NOERROR
        server.call(server.forwarder.held.set)
        server.until(lambda: len(server.server.connections) == 1)
        server.until(lambda: server.server.under_way == 0)
        assert code(other.ask(query("db"))) == NOERROR


def test_whatever_comes_over_tcp_the_next_connection_is_answered() -> None:
    chance = random.Random(5)
    good = framed(query("db", size=1232))
    with running("s") as server:
        server.tell(DB)
        for _ in range(300):
            with Tcp(server.tcp["s"]) as client:
                where = chance.randrange(len(good))
                data = good[:where] + chance.randbytes(chance.randrange(40)) + good[where:] * chance.randrange(3)
                with contextlib.suppress(ConnectionError):
                    client.send(data)
                    client.sock.shutdown(socket.SHUT_WR)
                with contextlib.suppress(EOFError):
                    for _ in range(10):
                        client.receive()
        with Tcp(server.tcp["s"]) as client:
            assert code(client.ask(query("db"))) == NOERROR
            assert server.call(lambda: len(server.server.connections)) == 1


# -- seen ------------------------------------------------------------------------------------------------------------


def test_every_question_is_logged_while_somebody_wants_to_know() -> None:
    with running("s") as server, Udp(server.udp["s"]) as client, Tcp(server.tcp["s"]) as stream:
        server.tell(DB)
        client.ask(query("db"))
        client.ask(query("db"))
        noted: list[Entry] = []
        server.call(setattr, server.server, "log", noted.append)
        client.ask(query("db"))
        client.ask(query("db"))
        stream.ask(query(OUTSIDE))
        client.ask(query("db") + b"x")
        server.call(setattr, server.server, "log", None)
        client.ask(query("db"))
        seen = [(one.sandbox, one.tcp, one.question and one.question.name, one.source, one.code) for one in noted]
        assert seen == [
            ("s", False, b"db", "network back", NOERROR),
            ("s", False, b"db", "network back", NOERROR),
            ("s", True, b"example.com", "upstream 192.0.2.1", NXDOMAIN),
            ("s", False, None, "bytes after the end", message.FORMERR),
        ]
        assert all(one.seconds > 0 for one in noted)


def test_one_may_ask_as_a_sandbox_would() -> None:
    with running("s") as server:
        server.tell(DB)
        reply, entry = server.wait(server.server.query("s", query("db")))
        assert reply is not None and addresses(reply) == ["10.0.0.2"]
        assert (entry.source, entry.code) == ("network back", NOERROR)
        reply, entry = server.wait(server.server.query("s", query(OUTSIDE)))
        assert (reply is not None and code(reply), entry.source) == (NXDOMAIN, "upstream 192.0.2.1")
        server.forwarder.at_hand[b"example.com"] = message.reply(_asked(query(OUTSIDE)), NOERROR)[2:]
        assert server.wait(server.server.query("s", query(OUTSIDE)))[1].source == "cache"
        assert server.wait(server.server.query("s", b""))[0] is None
        with pytest.raises(KeyError):
            server.wait(server.server.query("nobody", query("db")))


def test_a_sandbox_costs_little_memory() -> None:
    """With five names and ten questions asked of each; `make bench` measures 1,000 of them in a process of their own."""
    sandboxes = [f"{n:064x}" for n in range(50)]
    tracemalloc.start()
    try:
        with running() as server:
            before = tracemalloc.get_traced_memory()[0]
            server.serve(*sandboxes)
            for n, sandbox in enumerate(sandboxes):
                told = [replace(endpoint(f"c{n}-{k}", f"10.0.{n}.{k}"), endpoint=f"{n:062x}{k:02x}") for k in range(5)]
                server.tell(View(sandbox, (NETWORK,), (("host.docker.internal", ("172.17.0.1",)),)), *told)
            for n, sandbox in enumerate(sandboxes):
                with Udp(server.udp[sandbox]) as client:
                    for k in range(5):
                        for type in (A, AAAA):
                            assert code(client.ask(query(f"c{n}-{k}", type, size=1232))) == NOERROR
            assert (tracemalloc.get_traced_memory()[0] - before) / len(sandboxes) < 20 << 10
    finally:
        tracemalloc.stop()


EXHAUSTED = """
import os, resource, socket, sys
sys.path.insert(0, sys.argv[1])
from support.names import *

with running("s", "t") as server:
    server.tell(endpoint("db", "10.0.0.2"))
    with Tcp(server.tcp["t"]) as held, Udp(server.udp["s"]) as datagrams:
        held.ask(query("db"))
        clients = [socket.socket() for _ in range(20)]
        unused = os.dup(0)
        os.close(unused)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (unused + 2, hard))
        for client in clients:
            client.connect(server.tcp["s"])
        server.until(lambda: not server.listening("s"))
        print("cut", server.count("t")["cut"])
        assert datagrams.ask(query("db"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        server.advance(1)
        with Tcp(server.tcp["s"]) as client:
            assert client.ask(query("db"))
        assert server.call(lambda: server.listening("s"))
        for client in clients:
            client.close()
"""


def test_a_server_without_descriptors_goes_on() -> None:
    """The quietest connection makes room, and a listener that can not accept is not asked again and again meanwhile."""
    done = subprocess.run(
        [sys.executable, "-c", EXHAUSTED, str(Path(__file__).parents[1])], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, ["cut 1"]), done.stderr
