"""One upstream, asked over sockets: what it is sent, what is believed, and what it may get wrong."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Iterator

import dns.flags
import dns.message
import pytest

from pynet.names import pipeline
from pynet.names.asking import Asking
from pynet.names.message import FORMERR, Question, parse
from pynet.names.reply import Reply
from pynet.names.upstream import BOGUS, SHOWN, Failed, OnLane, Upstream
from pynet.proxy.dataplane.lane import Lane

from support.upstreams import Answer, Answers, Asked, Played, address, playing
from support.waiting import PATIENCE


def asking(name: str = "www.example.org.", type: str = "A", **options: object) -> Asking:
    question = parse(dns.message.make_query(name, type, **options).to_wire())  # type: ignore[arg-type]
    assert isinstance(question, Question)
    return Asking.of(question)


def records(reply: Reply) -> int:
    return reply.counts[0]


@contextlib.asynccontextmanager
async def upstream(answer: Answer, host: str = "127.0.0.1") -> AsyncGenerator[tuple[Upstream, Played]]:
    async with playing(answer, hosts=[host]) as (played,), asyncio.timeout(PATIENCE):
        asked = Upstream(host, played.port)
        try:
            yield asked, played
        finally:
            asked.close()


async def test_every_question_has_its_own_port_id_and_case() -> None:
    async with upstream(address()) as (asked, played):
        for _ in range(40):
            assert records(await asked.ask(asking())) == 1
        assert len({one.port for one in played.asked}) > 30
        assert len({one.question.id for one in played.asked}) > 30
        assert len({one.name for one in played.asked}) > 30
        assert {one.name.lower() for one in played.asked} == {"www.example.org."}
        one = played.asked[0].message
        assert one.payload == 1232 and not one.options and not one.ednsflags
        assert dns.flags.to_text(one.flags) == "RD AD"


async def test_what_the_asker_wants_of_dnssec_is_passed_on() -> None:
    async with upstream(address()) as (asked, played):
        await asked.ask(asking(want_dnssec=True, flags=dns.flags.RD | dns.flags.CD))
        one = played.asked[0].message
        assert one.ednsflags & dns.flags.DO and one.flags & dns.flags.CD


async def test_over_ipv6() -> None:
    async with upstream(address(), "::1") as (asked, _):
        assert records(await asked.ask(asking())) == 1


def liar(asked: Asked) -> Iterator[bytes]:
    """What is not an answer to this question, and then one."""
    right = asked.reply("@ 60 A 192.0.2.1")
    other = dns.message.make_query("other.example.org.", "A", id=asked.question.id)
    yield (asked.question.id ^ 1).to_bytes(2, "big") + right[2:]
    yield dns.message.make_response(other).to_wire()
    yield asked.data  # a question
    yield right[:2] + b"\xa1" + right[3:]  # another opcode
    yield right[:4] + b"\0\2" + right[6:]  # two questions
    yield right[:20]
    yield b"\xff" * 600
    yield right


async def test_what_does_not_belong_to_the_question_is_dropped() -> None:
    async with upstream(liar) as (asked, _):
        assert records(await asked.ask(asking())) == 1
        assert asked.bogus == 7


async def test_an_answer_from_elsewhere_is_not_heard() -> None:
    """Right in everything, and from another port of the same host."""
    with socket.socket(type=socket.SOCK_DGRAM) as elsewhere:

        def answer(asked: Asked) -> bytes:
            forged = asked.reply("@ 60 A 203.0.113.66", "@ 60 A 203.0.113.67")
            elsewhere.sendto(forged, ("127.0.0.1", asked.port))
            return asked.reply("@ 60 A 192.0.2.1")

        async with upstream(answer) as (asked, _):
            assert records(await asked.ask(asking())) == 1
            assert asked.bogus == 0


async def test_who_never_says_what_belongs_to_the_question_is_given_up() -> None:
    async with upstream(lambda asked: [b"\0" * 40] * (BOGUS + 1)) as (asked, _):
        with pytest.raises(Failed, match="not asked"):
            await asked.ask(asking())


async def test_a_server_that_does_not_keep_the_case_is_asked_in_lower_case_from_then_on() -> None:
    def answer(asked: Asked) -> bytes:
        name = asked.question.wire[:-4]
        return asked.reply("@ 60 A 192.0.2.1").replace(name, name.lower())

    async with upstream(answer) as (asked, played):
        for _ in range(SHOWN):
            assert records(await asked.ask(asking())) == 1
        assert len(played.asked) == 2 * SHOWN and not asked.keeps_case
        assert records(await asked.ask(asking())) == 1
        assert len(played.asked) == 2 * SHOWN + 1


async def test_a_server_without_edns_is_asked_without_it_from_then_on() -> None:
    def answer(asked: Asked) -> bytes:
        if asked.message.edns >= 0:
            return asked.data[:2] + b"\x81" + bytes((0x80 | FORMERR,)) + bytes(8)  # a header alone
        return asked.reply("@ 60 A 192.0.2.1")

    async with upstream(answer) as (asked, played):
        assert records(await asked.ask(asking())) == 1
        assert len(played.asked) == 2 and not asked.speaks_edns
        assert records(await asked.ask(asking())) == 1
        assert len(played.asked) == 3


async def test_where_nobody_listens_it_is_known_at_once() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    asked = Upstream("127.0.0.1", port)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(Failed) as failed:
            await asked.ask(asking())
    assert failed.value.away


async def test_an_interface_that_is_not_there_is_a_server_that_is_away() -> None:
    with pytest.raises(Failed):
        await Upstream("fe80::1%nowhere0").ask(asking())


async def test_an_answer_that_no_client_shall_get_is_a_failure() -> None:
    async with upstream(lambda asked: asked.reply("@ 60 A 192.0.2.1")[:-1]) as (asked, _):
        with pytest.raises(Failed, match="passed on"):
            await asked.ask(asking())


def many(asked: Asked) -> bytes:
    if not asked.tcp:
        return asked.truncated()
    return asked.reply(*(f"@ 60 A 192.0.2.{number}" for number in range(200)))


async def test_what_is_truncated_is_asked_for_over_tcp_on_one_connection() -> None:
    async with upstream(many) as (asked, played):
        replies = await asyncio.gather(*(asked.ask(asking(f"n{number}.example.org.")) for number in range(30)))
        assert [records(reply) for reply in replies] == [200] * 30
        assert records(await asked.ask(asking())) == 200
        assert played.connections == 1


async def test_answers_over_tcp_may_come_in_any_order() -> None:
    held: list[bytes] = []

    def answer(asked: Asked) -> Answers:
        if not asked.tcp:
            return asked.truncated()
        held.append(asked.reply(f"@ 60 TXT {asked.name}"))
        return reversed(held) if len(held) == 5 else None

    async with upstream(answer) as (asked, _):
        names = [f"n{number}.example.org." for number in range(5)]
        replies = await asyncio.gather(*(asked.ask(asking(name, "TXT")) for name in names))
        for name, reply in zip(names, replies, strict=True):
            assert name[:2].encode() in reply.body.lower()


async def test_a_server_that_closes_after_each_answer_serves_all() -> None:
    def answer(asked: Asked) -> Answers:
        return [asked.reply("@ 60 A 192.0.2.1"), b""] if asked.tcp else asked.truncated()

    async with upstream(answer) as (asked, played):
        replies = await asyncio.gather(*(asked.ask(asking(f"n{number}.example.org.")) for number in range(6)))
        assert [records(reply) for reply in replies] == [1] * 6
        assert played.connections >= 6


def closes(asked: Asked) -> list[bytes]:
    return [b""]


def lies(asked: Asked) -> list[bytes]:
    return [b"\0" * 20] * (pipeline.BOGUS + 1)


@pytest.mark.parametrize("over_tcp", [closes, lies, Asked.truncated])
async def test_who_can_not_tell_the_whole_is_still_told_of(over_tcp: Answer) -> None:
    """The asker gets what there is: an answer that says of itself that it is not whole."""
    async with upstream(lambda asked: over_tcp(asked) if asked.tcp else asked.truncated()) as (asked, _):
        reply = await asked.ask(asking())
        assert reply.truncated and not reply.answers and reply.ttl is None


async def test_a_connection_on_which_nothing_comes_is_left_when_a_question_is_given_up() -> None:
    hangs = True

    def answer(asked: Asked) -> Answers:
        if not asked.tcp:
            return asked.truncated()
        return None if hangs else asked.reply("@ 60 A 192.0.2.1")

    async with upstream(answer) as (asked, played):
        given_up = asyncio.ensure_future(asked.ask(asking()))
        await played.until_asked(2)
        given_up.cancel()
        await asyncio.wait([given_up])
        hangs = False
        assert records(await asked.ask(asking())) == 1
        assert played.connections == 2


async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "IDLE", 0.01)
    async with upstream(many) as (asked, played):
        for turn in (1, 2):
            assert records(await asked.ask(asking())) == 200
            while (connection := asked._pipeline._connection) is not None and connection.usable:
                await asyncio.sleep(0.005)
            assert played.connections == turn


async def test_a_question_given_up_leaves_no_socket() -> None:
    made: list[socket.socket] = []

    def make(family: int, kind: int) -> socket.socket:
        made.append(socket.socket(family, kind))
        return made[-1]

    async with playing(lambda asked: None) as (played,):
        asked = Upstream("127.0.0.1", played.port, make_socket=make)
        task = asyncio.ensure_future(asked.ask(asking()))
        await played.until_asked()
        task.cancel()
        await asyncio.wait([task])
        assert made and all(sock.fileno() == -1 for sock in made)


async def test_no_socket_to_be_had_is_a_failure() -> None:
    def none_left(family: int, kind: int) -> socket.socket:
        raise OSError(24, "Too many open files")

    with pytest.raises(Failed, match="Too many open files"):
        await Upstream("127.0.0.1", make_socket=none_left).ask(asking())


def test_sockets_of_questions_may_be_waited_for_on_a_lane() -> None:
    """As the process has it: what comes is heard, and what is given up is no longer waited for."""
    lane = Lane()

    async def work() -> None:
        async with playing(address(), lambda asked: None) as (answering, silent), asyncio.timeout(PATIENCE):
            asked = Upstream(answering.host, answering.port, readers=OnLane(lane))
            replies = await asyncio.gather(*(asked.ask(asking(f"n{number}.example.org.")) for number in range(20)))
            assert [records(reply) for reply in replies] == [1] * 20
            task = asyncio.ensure_future(Upstream(silent.host, silent.port, readers=OnLane(lane)).ask(asking()))
            await silent.until_asked()
            assert lane.handlers
            task.cancel()
            await asyncio.wait([task])
            assert not lane.handlers

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(lane)) as runner:
        runner.run(work())
