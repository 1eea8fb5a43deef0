"""From a question that is not ours to its answer: whom is asked, what is kept, what is shared, and what may go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncGenerator, Callable

import dns.edns
import dns.flags
import dns.message
import pytest

from pynet.names import forward, message
from pynet.names.asking import mixed
from pynet.names.forward import Forwarder, Limits, Source
from pynet.names.message import NXDOMAIN, REFUSED, SERVFAIL, Question
from pynet.netlib.naming import View

from support.upstreams import SOA, Answer, Answers, Asked, Played, address, failing, playing, silent
from support.waiting import PATIENCE

VIEW = View("box")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def question(name: str = "www.example.org.", type: str = "A", **options: object) -> Question:
    parsed = message.parse(dns.message.make_query(name, type, **options).to_wire())  # type: ignore[arg-type]
    assert isinstance(parsed, Question)
    return parsed


@contextlib.asynccontextmanager
async def forwarding(
    *answers: Answer, make: Callable[..., Forwarder] = Forwarder, **how: object
) -> AsyncGenerator[tuple[Forwarder, list[Played]]]:
    """A forwarder whose host's servers are played ones."""
    async with playing(*answers) as played, asyncio.timeout(PATIENCE):
        forwarder = make([one.host for one in played], port=played[0].port, **how)
        try:
            yield forwarder, played
        finally:
            forwarder.close()


async def told(
    forwarder: Forwarder, asked: Question | None = None, *, sandbox: str = "box", view: View = VIEW, tcp: bool = False
) -> tuple[dns.message.Message, Source]:
    asked = asked or question()
    data, source = await forwarder.answer(sandbox, view, asked, tcp=tcp)
    assert len(data) <= (65535 if tcp else asked.room)
    response = dns.message.from_wire(data)
    assert response.id == asked.id and data[12 : 12 + len(asked.wire)] == asked.wire
    return response, source


def addresses(response: dns.message.Message) -> list[str]:
    return [str(rdata) for rrset in response.answer for rdata in rrset]


# -- what is kept ------------------------------------------------------------------------------------------------------


async def test_a_second_asker_is_answered_from_the_cache_with_what_is_left_of_the_ttl() -> None:
    clock = Clock()
    async with forwarding(address(ttl=60), clock=clock) as (forwarder, (played,)):
        first, source = await told(forwarder)
        assert (addresses(first), source.kind, source.upstream) == (["192.0.2.1"], "upstream", "127.0.0.1")
        clock.now += 20.5
        again, source = await told(forwarder, question("WWW.example.ORG."))
        assert (addresses(again), again.answer[0].ttl, source.kind) == (["192.0.2.1"], 40, "cache")
        assert len(played.asked) == 1
        clock.now += 40
        _, source = await told(forwarder)
        assert source.kind == "upstream" and len(played.asked) == 2
        assert forwarder.counters["cache"] == 1 and forwarder.counters["upstream"] == 2


@pytest.mark.parametrize("code", [NXDOMAIN, 0], ids=["nxdomain", "nodata"])
async def test_an_absence_is_kept_by_its_soa(code: int) -> None:
    clock = Clock()
    async with forwarding(lambda asked: asked.reply(code=code, authority=[SOA]), clock=clock) as (
        forwarder,
        (played,),
    ):
        for _ in range(2):
            response, _ = await told(forwarder)
            assert response.rcode() == code and not response.answer
            clock.now += 299
        assert len(played.asked) == 1
        clock.now += 1
        await told(forwarder)
        assert len(played.asked) == 2


async def test_what_has_no_time_to_live_is_asked_for_each_time() -> None:
    async with forwarding(address(ttl=0)) as (forwarder, (played,)):
        for _ in range(3):
            await told(forwarder)
        assert len(played.asked) == 3


async def test_nobody_is_told_what_anothers_servers_said() -> None:
    """The same name, asked of the host's server and of two sandboxes' own, which have the same address."""

    def where(asked: Asked) -> bytes:
        return asked.reply(f"@ 60 A 192.0.2.{count()}")

    number = 0

    def count() -> int:
        nonlocal number
        number += 1
        return number

    def inside(sandbox: str, family: int, kind: int) -> socket.socket:
        made.append(sandbox)
        return socket.socket(family, kind)

    made: list[str] = []
    async with forwarding(where, inside=inside) as (forwarder, _):
        found: list[list[str]] = []
        for sandbox in ("one", "two", "three"):
            view = View(sandbox, upstreams=("127.0.0.1",) if sandbox != "three" else ())
            for _ in range(2):
                response, _ = await told(forwarder, sandbox=sandbox, view=view)
                found.append(addresses(response))
        assert found[::2] == found[1::2] == [[f"192.0.2.{n}"] for n in (1, 2, 3)]
        assert made == ["one", "two"]
        forwarder.forget("one")
        response, _ = await told(forwarder, sandbox="one", view=View("one", upstreams=("127.0.0.1",)))
        assert addresses(response) == ["192.0.2.4"]


async def test_what_the_hosts_last_servers_said_goes_with_them() -> None:
    async with forwarding(address("192.0.2.1"), address("192.0.2.2")) as (forwarder, played):
        forwarder.use(["127.0.0.1"])
        assert addresses((await told(forwarder))[0]) == ["192.0.2.1"]
        forwarder.use(["127.0.0.2"])
        assert addresses((await told(forwarder))[0]) == ["192.0.2.2"]
        forwarder.use(["127.0.0.2"])
        assert (await told(forwarder))[1].kind == "cache"
        assert [len(one.asked) for one in played] == [1, 1]


async def test_dnssec_and_checking_are_other_questions() -> None:
    async with forwarding(address()) as (forwarder, (played,)):
        await told(forwarder)
        await told(forwarder, question(want_dnssec=True))
        await told(forwarder, question(flags=dns.flags.RD | dns.flags.CD))
        assert len(played.asked) == 3


async def test_a_hot_name_is_asked_for_again_before_it_ends() -> None:
    clock, woken = Clock(), list[int]()
    async with forwarding(address(ttl=100), clock=clock, wake=lambda: woken.append(1)) as (forwarder, (played,)):
        await told(forwarder)
        for _ in range(3):
            assert (await told(forwarder))[1].kind == "cache"
        clock.now += 95
        for _ in range(3):
            assert (await told(forwarder))[1].kind == "cache"
        assert woken == [1]
        await played.until_asked(2)
        while forwarder._flights:
            await asyncio.sleep(0)
        clock.now += 50
        response, source = await told(forwarder)
        assert source.kind == "cache" and response.answer[0].ttl == 50
        assert len(played.asked) == 2 and forwarder.counters["prefetched"] == 1


async def test_stale_answers_are_told_while_nobody_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "STALE_AFTER", 0.01)
    clock, well = Clock(), address(ttl=60)
    async with forwarding(well, clock=clock, serve_stale=3600, limits=Limits(total=0.2)) as (forwarder, (played,)):
        await told(forwarder)
        played.answer = silent
        clock.now += 100
        response, source = await told(forwarder)
        assert (addresses(response), response.answer[0].ttl, source.kind) == (["192.0.2.1"], 30, "stale")
        await played.until_asked(2)
        while forwarder._flights:
            await asyncio.sleep(0.005)
        asked = len(played.asked)
        assert (await told(forwarder))[1].kind == "stale"
        assert len(played.asked) == asked, "it was tried a moment ago"
        played.answer = address("192.0.2.9")
        clock.now += 31
        monkeypatch.setattr(forward, "STALE_AFTER", PATIENCE)
        assert addresses((await told(forwarder))[0]) == ["192.0.2.9"]
        clock.now += 4000
        played.answer = failing(SERVFAIL)
        response, _ = await told(forwarder)
        assert response.rcode() == SERVFAIL, "too old to be told"


async def test_without_the_option_nothing_is_told_after_its_time() -> None:
    clock = Clock()
    async with forwarding(address(), clock=clock) as (forwarder, (played,)):
        await told(forwarder)
        played.answer = failing(SERVFAIL)
        clock.now += 60
        assert (await told(forwarder))[0].rcode() == SERVFAIL


async def test_a_failure_is_kept_for_a_second() -> None:
    clock = Clock()
    async with forwarding(failing(SERVFAIL), clock=clock, serve_stale=60) as (
        forwarder,
        (played,),
    ):
        for _ in range(3):
            response, _ = await told(forwarder)
            assert response.rcode() == SERVFAIL
        assert len(played.asked) == 1
        played.answer = address()
        clock.now += 1
        assert addresses((await told(forwarder))[0]) == ["192.0.2.1"]


# -- who is asked ------------------------------------------------------------------------------------------------------


async def test_a_silent_server_costs_a_moment_once() -> None:
    async with forwarding(silent, address()) as (forwarder, (first, _)):
        _, source = await told(forwarder)
        assert (source.upstream, source.hedged) == ("127.0.0.2", True)
        for number in range(5):
            _, source = await told(forwarder, question(f"n{number}.example.org."))
            assert (source.upstream, source.hedged) == ("127.0.0.2", False)
        assert len(first.asked) == 1


async def test_a_server_whose_rest_is_over_is_asked_beside_the_best_one_and_is_back() -> None:
    async with forwarding(address(), address()) as (forwarder, (first, second)):
        servers = forwarder.upstreams("box", VIEW)
        assert servers is not None
        health = servers.servers[0].health
        health.failed()
        for number in range(3):
            assert (await told(forwarder, question(f"n{number}.example.org.")))[1].upstream == "127.0.0.2"
        assert not first.asked, "it rests"
        health.rests_until = 0.0
        second.answer = silent
        assert (await told(forwarder, question("probe.example.org.")))[1].upstream == "127.0.0.1"
        assert not health.resting and len(first.asked) == 1


@pytest.mark.parametrize("code", [SERVFAIL, REFUSED, 1, 4])
async def test_who_has_no_answer_is_passed_over(code: int) -> None:
    async with forwarding(failing(code), address()) as (forwarder, _):
        response, source = await told(forwarder)
        assert addresses(response) == ["192.0.2.1"] and source.upstream == "127.0.0.2"


def referral(asked: Asked) -> bytes:
    """To a server that refers to this one: whoever follows it goes round."""
    said = bytearray(asked.reply(authority=["example.org. 60 NS localhost."]))
    said[3] &= 0x7F  # recursion is not available
    return bytes(said)


def garbage(asked: Asked) -> bytes:
    return asked.reply("@ 60 A 192.0.2.1")[:-3]


def loop_of_pointers(asked: Asked) -> bytes:
    start = 12 + len(asked.question.wire)
    return (
        asked.data[:2]
        + b"\x81\x80\0\1\0\1\0\0\0\0"
        + asked.question.wire
        + (0xC000 | start).to_bytes(2, "big")
        + b"\0\1\0\1\0\0\0\x3c\0\4\1\2\3\4"
    )


@pytest.mark.parametrize("answer", [referral, garbage, loop_of_pointers])
async def test_a_server_that_says_rubbish_is_passed_over(answer: Answer) -> None:
    async with forwarding(answer, address()) as (forwarder, _):
        response, source = await told(forwarder)
        assert addresses(response) == ["192.0.2.1"] and source.upstream == "127.0.0.2"
    async with forwarding(answer) as (forwarder, _):
        response, source = await told(forwarder)
        assert not response.answer and not response.authority


async def test_aliases_that_go_round_are_passed_on_and_followed_by_nobody() -> None:
    def round_and_round(asked: Asked) -> bytes:
        return asked.reply("@ 60 CNAME b.example.org.", f"b.example.org. 60 CNAME {asked.name}")

    async with forwarding(round_and_round) as (forwarder, (played,)):
        response, _ = await told(forwarder)
        assert len(response.answer) == 2 and len(played.asked) == 1


async def test_the_error_of_the_only_server_is_passed_on() -> None:
    async with forwarding(failing(REFUSED)) as (forwarder, _):
        assert (await told(forwarder))[0].rcode() == REFUSED


async def test_where_everybody_is_silent_the_answer_comes_in_time_and_those_rest() -> None:
    async with forwarding(silent, silent, limits=Limits(total=1.0, again=0.02)) as (forwarder, played):
        response, source = await told(forwarder)
        assert response.rcode() == SERVFAIL and source.kind == "failed"
        assert all(len(one.asked) > 1 for one in played), "a datagram may be lost: asked again"
        for number in range(2):
            await told(forwarder, question(f"n{number}.example.org."))
        servers = forwarder.upstreams("box", VIEW)
        assert servers is not None and all(one.health.resting for one in servers.servers)


async def test_a_lost_datagram_is_sent_again() -> None:
    async with forwarding(silent, limits=Limits(again=0.05)) as (forwarder, (played,)):
        task = asyncio.ensure_future(told(forwarder))
        await played.until_asked()
        played.answer = address()
        assert addresses((await task)[0]) == ["192.0.2.1"]


async def test_where_nobody_listens_the_answer_comes_at_once() -> None:
    async with playing(silent) as (played,):
        port = played.port
    forwarder = Forwarder(["127.0.0.1"], port=port, limits=Limits(total=PATIENCE * 2))
    async with asyncio.timeout(PATIENCE):
        response, source = await told(forwarder)
    assert response.rcode() == SERVFAIL and "refused" in source.why
    forwarder.close()


async def test_who_may_ask_nobody_asks_nobody() -> None:
    async with forwarding(address()) as (forwarder, (played,)):
        response, source = await told(forwarder, view=View("box", outside=False))
        assert (response.rcode(), source.kind) == (NXDOMAIN, "nobody")
        forwarder.use([])
        assert (await told(forwarder))[0].rcode() == SERVFAIL
        assert not played.asked


@pytest.mark.parametrize("own", ["127.0.0.11", "::ffff:127.0.0.11"])
async def test_we_are_no_upstream_of_a_sandbox(own: str) -> None:
    def inside(sandbox: str, family: int, kind: int) -> socket.socket:
        raise AssertionError("asked itself")

    forwarder = Forwarder(inside=inside)
    response, source = await told(forwarder, view=View("box", upstreams=(own,)))
    assert (response.rcode(), source.kind) == (SERVFAIL, "nobody")


# -- our own questions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lower", [False, True], ids=["case-kept", "lower-case"])
async def test_a_question_that_goes_round_ends(lower: bool) -> None:
    """An upstream that asks us what we ask it: in the case that we sent it in, or in lower case."""
    rounds: list[Source] = []
    tasks: list[asyncio.Task[None]] = []

    async def ask_back(asked: Asked) -> None:
        wire = asked.question.wire.lower() if lower else asked.question.wire
        _, source = await told(forwarder, asked.question._replace(wire=wire))
        rounds.append(source)

    def answer(asked: Asked) -> None:
        tasks.append(asyncio.create_task(ask_back(asked)))

    limits = Limits(total=0.4, again=0.1) if lower else Limits(total=PATIENCE * 2, again=PATIENCE)
    async with forwarding(answer, limits=limits) as (forwarder, (played,)):
        mine = asyncio.ensure_future(told(forwarder))
        await played.until_asked()
        await asyncio.wait(tasks)
        if lower:
            assert (await mine)[0].rcode() == SERVFAIL
            assert len(played.asked) <= 3 and rounds[0].kind in ("failed", "shared")
        else:
            assert rounds[0].kind == "loop"
            mine.cancel()
            await asyncio.wait([mine])
        await asyncio.wait(tasks)


async def test_a_client_with_cases_of_its_own_is_no_loop() -> None:
    async with forwarding(silent, limits=Limits(again=PATIENCE)) as (forwarder, (played,)):
        first = asyncio.ensure_future(told(forwarder))
        await played.until_asked()
        others = [question()._replace(wire=mixed(question().wire)) for _ in range(20)]
        tasks = [asyncio.ensure_future(told(forwarder, other)) for other in (question(), *others)]
        await asyncio.sleep(0)
        played.answer = address()
        first.cancel()
        # nobody was sent away: all wait for the one question that is under way
        assert not [task for task in tasks if task.done()] and len(played.asked) == 1
        for task in tasks:
            task.cancel()
        await asyncio.wait([first, *tasks])


# -- many askers -------------------------------------------------------------------------------------------------------


async def test_the_same_question_is_asked_once_and_who_goes_away_takes_nobody_along() -> None:
    held: list[Asked] = []
    async with forwarding(held.append, limits=Limits(again=PATIENCE)) as (forwarder, (played,)):
        tasks = [asyncio.ensure_future(told(forwarder, question())) for _ in range(20)]
        await played.until_asked()
        for task in tasks[:3]:
            task.cancel()
        played.answer = address()
        answer = held[0].reply("@ 60 A 192.0.2.1")
        with socket.socket(type=socket.SOCK_DGRAM) as elsewhere:
            elsewhere.sendto(answer, ("127.0.0.1", held[0].port))  # is not heard
        await asyncio.wait(tasks[:3])
        assert all(task.cancelled() for task in tasks[:3])
        assert not any(task.done() for task in tasks[3:])
        await played.answer_late(held[0], answer)
        for task in tasks[3:]:
            response, source = await task
            assert addresses(response) == ["192.0.2.1"] and source.kind in ("upstream", "shared")
        assert len(played.asked) == 1


async def test_one_more_than_the_limit_is_refused() -> None:
    limits = Limits(total=0.5, askers=5, flights=7)
    async with forwarding(silent, limits=limits) as (forwarder, (played,)):
        for sandbox in ("a", "b"):
            tasks = [
                asyncio.ensure_future(told(forwarder, question(f"{sandbox}{n}.example.org."), sandbox=sandbox))
                for n in range(6)
            ]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            assert {task.result()[1].kind for task in done} == {"refused"}
            assert len(done) == (1 if sandbox == "a" else 4)
            assert {task.result()[0].rcode() for task in done} == {REFUSED}
        while forwarder._flights:
            await asyncio.wait([flight.task for flight in forwarder._flights.values()])
        played.answer = address()
        await asyncio.sleep(0)
        assert addresses((await told(forwarder, question("c.example.org."), sandbox="a"))[0]) == ["192.0.2.1"]
        assert not forwarder._askers


async def test_who_has_room_for_less_is_told_less_and_may_ask_over_tcp() -> None:
    def answer(asked: Asked) -> bytes:
        return (
            asked.reply(*(f"@ 60 A 192.0.2.{number}" for number in range(1, 100))) if asked.tcp else asked.truncated()
        )

    async with forwarding(answer) as (forwarder, (played,)):
        for wanting, most in ((question(), 29), (question(use_edns=0, payload=4096), 74)):
            response, _ = await told(forwarder, wanting)
            assert response.flags & dns.flags.TC and len(addresses(response)) == most
        response, _ = await told(forwarder, tcp=True)
        assert len(addresses(response)) == 99 and not response.flags & dns.flags.TC
        assert len(played.asked) == 2 and played.connections == 1


async def test_an_option_that_may_mean_anything_is_passed_on_and_the_answer_is_nobody_elses() -> None:
    option = dns.edns.GenericOption(dns.edns.OptionType.make(65001), b"x")

    def answer(asked: Asked) -> bytes:
        response = dns.message.from_wire(asked.reply("@ 60 A 192.0.2.1"))
        response.use_edns(0, options=[option] if asked.message.options else [])
        return response.to_wire()

    async with forwarding(answer) as (forwarder, (played,)):
        await told(forwarder)
        for _ in range(2):
            response, source = await told(forwarder, question(use_edns=0, options=[option]))
            assert source.kind == "upstream" and list(response.options) == [option]
        assert len(played.asked) == 3
        cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")
        assert (await told(forwarder, question(use_edns=0, options=[cookie])))[1].kind == "cache"


async def test_whatever_an_upstream_says_the_asker_gets_an_answer_of_its_own() -> None:
    chance = random.Random(7)

    def turned(asked: Asked) -> Answers:
        said = bytearray(asked.reply("@ 60 CNAME b.example.org.", "b.example.org. 60 A 192.0.2.1", authority=[SOA]))
        for _ in range(chance.randrange(1, 6)):
            said[chance.randrange(len(said))] = chance.randrange(256)
        cut = chance.choice((len(said), chance.randrange(len(said))))
        return bytes(said[:cut])

    limits = Limits(total=1.5, again=0.05)
    async with forwarding(turned, limits=limits) as (forwarder, _):
        tasks = [told(forwarder, question(f"n{number}.example.org.")) for number in range(100)]
        kinds = {source.kind for _, source in await asyncio.gather(*tasks)}
        assert kinds <= {"upstream", "failed"} and "upstream" in kinds
        assert not forwarder._flights and not forwarder._sent


async def test_closing_answers_who_still_waits() -> None:
    async with forwarding(silent) as (forwarder, (played,)):
        task = asyncio.ensure_future(told(forwarder))
        await played.until_asked()
        forwarder.close()
        assert (await task)[0].rcode() == SERVFAIL


async def test_a_sandbox_that_is_gone_holds_no_socket_and_whoever_waits_is_answered() -> None:
    made, left = list[socket.socket](), list[str]()

    def inside(sandbox: str, family: int, kind: int) -> socket.socket:
        made.append(socket.socket(family, kind))
        return made[-1]

    async with forwarding(silent, inside=inside, left=left.append) as (forwarder, (played,)):
        view = View("box", upstreams=("127.0.0.1",))
        tasks = [
            asyncio.ensure_future(told(forwarder, question(f"n{number}.example.org."), view=view))
            for number in range(3)
        ]
        await played.until_asked(3)
        assert made and any(sock.fileno() >= 0 for sock in made)
        forwarder.forget("box")
        assert [(await task)[0].rcode() for task in tasks] == [SERVFAIL] * 3
        while forwarder._flights:
            await asyncio.sleep(0)
        assert left == ["box"] and all(sock.fileno() == -1 for sock in made)
