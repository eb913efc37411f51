"""Every transport gives the same: turns read through all of them, with cuts and hand-overs at random."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.log.entry import Entry
from gateway.log.stretch import Stretch
from tests.transports.book import Book, Broken, Reader
from tests.transports.conftest import Serve, Served
from tests.transports.readers import LISTENING, TRANSPORTS, Door, Event, Read, everything, first

MESSAGES = (
    "/fault plain echo pieces:60 rate:90 one line of text 测试一下 ñandú and a bit more of it",
    "/fault reasoning tool pieces:80 rate:120 -- tell me all",
    "/fault multi pieces:40 rate:90 -- two answers",
    "/fault audio pieces:60 rate:80 -- sing",
    "/fault hostile pieces:40 rate:90 -- be bad",
    "/fault rewrite pieces:40 rate:90 -- change your mind",
    "/fault drop-after:20 pieces:60 rate:90 -- break",
    "/fault failed pieces:80 rate:80 -- fail half-way",
)


async def wander(rng: random.Random, reader: Reader, door: Door, conversation: Door) -> None:
    """Reads a turn to its end over transports chosen at random, leaving each after a random while.

    Leaves cleanly, or overlaps: goes on with the next transport while the former still gives, each to a reader of its
    own, and both must agree.
    """
    overlapping: list[asyncio.Task[None]] = []
    try:
        while reader.last is None:
            name, read = rng.choice(sorted(TRANSPORTS.items()))
            where = door if name == "sse-post" or rng.random() < 0.6 else conversation
            after = reader.position
            if where is conversation and after is None:
                after = "0"
            leave_after = rng.choice((1, 1, 2, 3, 5, 8, 1000))
            overlap = rng.random() < 0.3
            async with contextlib.aclosing(read(where, after)) as events:
                count = 0
                async for event in events:
                    reader.take(event)
                    count += 1
                    if reader.last is not None or (count >= leave_after and not overlap):
                        break
                    if count >= leave_after:
                        overlapping.append(asyncio.create_task(go_on(reader.twin(), read, where, rng.randint(1, 5))))
                        break
            await asyncio.sleep(rng.choice((0, 0, 0.01, 0.05)))  # any moment
        await asyncio.gather(*overlapping)
    finally:
        for task in overlapping:
            task.cancel()
        await asyncio.gather(*overlapping, return_exceptions=True)


async def go_on(reader: Reader, read: Read, door: Door, count: int) -> None:
    async with contextlib.aclosing(read(door, reader.position)) as events:
        async for event in events:
            reader.take(event)
            count -= 1
            if not count or reader.last is not None:
                return


async def read_whole(reader: Reader, read: Read, door: Door) -> None:
    async with contextlib.aclosing(read(door, None)) as events:
        async for event in events:
            reader.take(event)


async def one_turn(served: Served, seed: int) -> Reader:
    """One turn, read by readers that change transports and by one on each. Returns what they all agree on."""
    rng = random.Random(seed)
    door = await served.start(MESSAGES[seed % len(MESSAGES)])
    turn = await served.state(door.topic.removeprefix("turns/"))
    conversation = served.door(f"conversations/{turn['conversationId']}")
    book = Book()
    steady = [Reader(book) for _ in TRANSPORTS]
    wandering = [Reader(book) for _ in range(5)]
    await asyncio.gather(
        *(read_whole(reader, read, door) for reader, read in zip(steady, TRANSPORTS.values(), strict=True)),
        *(wander(random.Random(rng.random()), reader, door, conversation) for reader in wandering),
    )
    late = Reader(book)
    await read_whole(late, TRANSPORTS["sse"], door)
    everybody = [*steady, *wandering, late]
    assert len({(reader.text, reader.reasoning, *reader.wholes) for reader in everybody}) == 1
    state = await served.state(turn["turnId"])
    assert (state["content"], state["reasoning"], state["position"]) == (late.text, late.reasoning, late.position)
    return late


@pytest.mark.parametrize("seed", range(4))
async def test_the_same_turn_is_the_same_over_every_transport_whatever_is_cut(
    serve: Serve, plugin: Path, seed: int
) -> None:
    served = await serve()
    readers = await asyncio.gather(*(one_turn(served, 8 * seed + number) for number in range(8)))
    assert {reader.last["event"] for reader in readers if reader.last} == {"completed", "error"}
    assert sum(len(reader.book.texts) for reader in readers) > 100  # a slow machine merges more of the pieces


async def test_every_position_of_a_running_and_of_a_finished_turn_is_a_good_one_on_every_transport(
    serve: Serve, plugin: Path
) -> None:
    served = await serve()
    door = await served.start("/fault plain pieces:45 rate:25 -- positions")
    book = Book()
    reader = Reader(book)
    arrivals: list[asyncio.Task[None]] = []

    async def resume(twin: Reader, read: Read) -> None:
        async with contextlib.aclosing(read(door, twin.position)) as events:
            async for event in events:
                twin.take(event)
        assert twin.last is not None

    async for event in TRANSPORTS["sse"](door, None):
        reader.take(event)
        if reader.last is None:
            arrivals += [asyncio.create_task(resume(reader.twin(), read)) for read in TRANSPORTS.values()]
    await asyncio.gather(*arrivals)
    assert len(arrivals) > 20 * len(TRANSPORTS)
    for position, (text, reasoning) in list(book.texts.items())[:-1]:
        for read in TRANSPORTS.values():
            late = Reader(book)
            late.position, late.text, late.reasoning = position, text, reasoning
            late.seen = {position}
            late.wholes = [p for p in reader.wholes if _number(p) <= _number(position)]
            await resume(late, read)


def _number(position: str) -> int:
    return int(position.rpartition("-")[2])


async def test_a_late_reader_gets_the_text_so_far_as_one_piece_and_then_the_rest_live(
    serve: Serve, plugin: Path
) -> None:
    served = await serve(simulator_rate=50)
    door = await served.start("/fault plain pieces:5000 -- late")
    await first(TRANSPORTS["sse"], door, None, 40)
    for read in TRANSPORTS.values():
        texts = []
        async with contextlib.aclosing(read(door, None)) as late:
            async for event in late:
                if event["event"] == "message":
                    texts.append(event["content"])
                if len(texts) == 3:
                    break
        assert len(texts[0]) > 5 * max(len(texts[1]), len(texts[2])), texts


async def test_a_conversation_is_followed_over_several_turns_on_every_transport(serve: Serve, plugin: Path) -> None:
    served = await serve()
    started = await served.ask("/fault plain pieces:5 rate:0 -- first")
    conversation = started[0]["conversationId"]
    door = served.door(f"conversations/{conversation}")

    async def follow(read: Read) -> list[Event]:
        found: list[Event] = []
        async with contextlib.aclosing(read(door, "0")) as events:
            async for event in events:
                found.append(event)
                if sum(e["event"] == "completed" for e in found) == 3:
                    return found
        return found

    following = [asyncio.create_task(follow(read)) for read in LISTENING.values()]
    for number in range(2):
        await served.ask(f"/fault plain pieces:5 rate:0 -- again {number}", conversationId=conversation)
    for found in await asyncio.wait_for(asyncio.gather(*following), 10):
        turns: dict[str, str] = {}
        for event in found:
            match event["event"]:
                case "started":
                    turns[event["turnId"]] = ""
                case "message":
                    turns[list(turns)[-1]] += event["content"]
                case "completed":
                    assert event["content"] == turns[event["turnId"]]
                    assert event["turnId"] == list(turns)[-1]
        assert len(turns) == 3
        assert len({event["id"] for event in found}) == len(found)


def _dropped(events: list[Event], at: int) -> list[Event]:
    return events[:at] + events[at + 1 :]


def _doubled(events: list[Event], at: int) -> list[Event]:
    return events[: at + 1] + events[at:]


def _swapped(events: list[Event], at: int) -> list[Event]:
    return [*events[:at], events[at + 1], events[at], *events[at + 2 :]]


def _changed(events: list[Event], at: int) -> list[Event]:
    return [*events[:at], events[at] | {"content": "else"}, *events[at + 1 :]]


async def test_the_checker_finds_every_event_that_is_dropped_doubled_swapped_or_changed(
    serve: Serve, plugin: Path
) -> None:
    """The tests above are only as good as their checker, so planted bugs must not pass it."""
    served = await serve()
    door = await served.start("/fault reasoning tool pieces:30 rate:200 -- plant")
    live = await everything(TRANSPORTS["sse"], door)
    assert {event["event"] for event in live} >= {"started", "reasoning", "tool", "message", "suggestion", "completed"}
    assert len(live) > 20

    def check(events: list[Event]) -> None:
        book = Book()
        for given in (live, events):
            reader = Reader(book)
            for event in given:
                reader.take(event)
            if reader.last is None:
                raise Broken("no last event")

    check(live)
    plants: list[Any] = [(_dropped, range(len(live))), (_doubled, range(len(live)))]
    plants += [(_swapped, range(len(live) - 1)), (_changed, [n for n, e in enumerate(live) if "content" in e])]
    for plant, places in plants:
        for at in places:
            with pytest.raises(Broken):
                check(plant(live, at))


async def test_a_bug_planted_into_what_readers_are_given_fails_the_suite(
    serve: Serve, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as above with the bug inside the gateway: an entry lost, or given twice, on its way out."""
    real = Stretch.read
    for bug in (_lose, _double):
        calls = itertools.count(1)

        def broken(
            self: Stretch, *, after: int, limit: int = 0, bug: Any = bug, calls: Iterator[int] = calls
        ) -> list[Entry]:
            found = real(self, after=after, limit=limit)
            return bug(found) if found and found[-1].name == "message" and not next(calls) % 5 else found

        served = await serve()
        with monkeypatch.context() as patched:
            patched.setattr(Stretch, "read", broken)
            with pytest.raises(AssertionError):
                await one_turn(served, 1)


def _lose(entries: list[Entry]) -> list[Entry]:
    return entries[:-1]


def _double(entries: list[Entry]) -> list[Entry]:
    return [*entries, entries[-1]]
