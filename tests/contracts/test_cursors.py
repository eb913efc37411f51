"""Cursors: two ways to read one, the race between reading and waiting, what a slow reader gets."""

import asyncio
import gc
import json
import random
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.errors import Code
from gateway.events import Event, FollowUp, Message, Started
from gateway.log.entry import Entry
from gateway.log.stretch import Stretch
from gateway.log.tail import Tail
from gateway.reading.frames import Frame
from gateway.reading.hub import Hub
from gateway.reading.outlet import Encode
from gateway.reading.subscription import Subscription
from tests.contracts.journals import KEY, Bench, last, piece
from tests.transports.book import Book, Reader
from tests.waiting import until


class Sink(asyncio.WriteTransport):
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def write(self, data: Any) -> None:
        self.data += bytes(data)

    def is_closing(self) -> bool:
        return False


def lines(tail: Tail, entries: list[Entry]) -> bytes:
    return b"".join(
        b"{" + e.body + b',"id":' + json.dumps(tail.position(e.sequence)).encode() + b"}\n" for e in entries
    )


class Listener:
    """An outlet in memory."""

    label = "sse"

    def __init__(self, subscription: Subscription) -> None:
        self.encode: Encode = lines
        self.subscription = subscription
        self.greeting = b""
        self.paused = False
        self.spoke = False
        self.transport = Sink()
        self.finished = asyncio.Event()
        self.told: list[Code] = []

    def hand(self, frame: Frame) -> None:
        self.transport.write(frame.data)

    def finish(self) -> None:
        self.finished.set()

    def beat(self, now: float) -> None: ...

    def farewell(self, code: Code) -> None:
        self.told.append(code)

    def busy(self) -> bool:
        return self.subscription.hears_running

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.transport.data.splitlines()]


@pytest.fixture
async def hub(bench: Bench) -> AsyncIterator[Hub]:
    hub = Hub(bench.log.shelf, ledger=bench.ledger, heartbeat=3600)
    yield hub
    await hub.close()


async def batches(hub: Hub, subscription: Subscription, limit: int = 0) -> list[dict[str, Any]]:
    """A whole turn, read by `next_batch`."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(5):
        while not subscription.over:
            entries = await subscription.next_batch(wait=5, limit=limit)
            found += [json.loads(line) for line in lines(subscription.tail, entries).splitlines()]
    return found


async def write_slowly(bench: Bench, rng: random.Random, begun: asyncio.Event, turn: str = "turn_1") -> Stretch:
    stretch = await bench.begin(turn)
    bench.writer(stretch).append(Started(KEY, turn, "?"))
    begun.set()
    text = ""
    for number in range(40):
        if rng.random() < 0.1:
            bench.writer(stretch).append(FollowUp(str(number)))
        else:
            bench.writer(stretch).append(piece(f"{number} "))
            text += f"{number} "
        match rng.choice(["on", "commit", "fold"]):
            case "commit":
                await bench.log.committed()
            case "fold":
                await bench.fold(also_running=rng.random() < 0.5)
            case _:
                pass
        await asyncio.sleep(0)
    bench.writer(stretch).append(last(turn, text))
    bench.writer(stretch).end()
    await bench.log.committed()
    return stretch


async def test_a_cursor_yields_events_with_their_names_and_fields_also_from_the_stored_stretch(
    bench: Bench, hub: Hub
) -> None:
    text = 'a long "text" 好 ' * 10_000  # the last event of such an answer is stored without it
    said: list[Event] = [Started(KEY, "turn_1", "?"), Message("{}", content_type="card"), piece(text)]
    said.append(last("turn_1", text))
    await bench.write(await bench.begin(), *said, end=True)
    for stored in (False, True):
        if stored:
            await bench.fold()
            assert bench.log.shelf.tails() == []
        subscription, _ = await hub.subscribe(KEY, asked="0", turn="turn_1")
        found = await subscription.next_batch(wait=1)
        assert [entry.name for entry in found] == ["started", "message", "message", "completed"]
        assert [entry.event for entry in found] == said
        subscription.close()


@pytest.mark.parametrize("seed", range(6))
async def test_both_ways_to_read_a_cursor_give_the_same_whatever_is_slow(bench: Bench, hub: Hub, seed: int) -> None:
    rng = random.Random(seed)

    async def pause() -> None:
        for _ in range(rng.randint(0, 3)):
            await asyncio.sleep(0)

    bench.journal.pause = pause
    earlier = await bench.turn("turn_0")
    await bench.fold()
    listeners: list[Listener] = []
    pulling: list[asyncio.Task[list[dict[str, Any]]]] = []
    begun = asyncio.Event()
    writing = asyncio.create_task(write_slowly(bench, rng, begun))
    await begun.wait()
    while not writing.done():
        if len(listeners) > 60 and rng.random() < 0.9:  # each reader more makes a slow journal slower
            await asyncio.sleep(0)
            continue
        attached, exact = await hub.subscribe(KEY, asked=None, turn="turn_1")
        assert exact
        listeners.append(Listener(attached))
        hub.attach(listeners[-1])
        pulled, _ = await hub.subscribe(KEY, asked=None, turn="turn_1")
        pulling.append(asyncio.create_task(batches(hub, pulled, limit=rng.choice([0, 1, 3]))))
        for listener in rng.sample(listeners, len(listeners) // 3):
            listener.paused = not listener.paused
            if not listener.paused:
                hub.serve(listener)
        await asyncio.sleep(0)
    stretch = await writing
    for listener in listeners:
        listener.paused = False
        hub.serve(listener)
        await asyncio.wait_for(listener.finished.wait(), 5)
    assert len(listeners) > 2
    book = Book()
    for events in [listener.events for listener in listeners] + await asyncio.gather(*pulling):
        reader = Reader(book)
        for event in events:
            reader.take(event)
        assert reader.last is not None
    assert stretch.first == earlier.last + 1
    for listener in listeners:
        hub.detach(listener)
    for tail in bench.log.shelf.tails():
        for user in list(tail.users):
            if isinstance(user, Subscription):
                user.close()


async def test_news_between_reading_and_waiting_is_not_missed(bench: Bench, hub: Hub) -> None:
    """The journal is slow after its snapshot, and meanwhile something is written. A reader that begins to wait only
    then must still get it."""
    await bench.turn("turn_0")
    await bench.fold()
    wrote = asyncio.Event()

    async def pause() -> None:
        wrote.set()
        await asyncio.sleep(0.05)  # what is written meanwhile is the news

    subscription, _ = await hub.subscribe(KEY, asked="0")
    bench.journal.pause = pause
    pulling = asyncio.create_task(subscription.next_batch(wait=5))
    await wrote.wait()
    await bench.turn("turn_1")
    assert [e.sequence for e in await pulling]
    rest: list[Entry] = []
    async with asyncio.timeout(1):
        while subscription.after < subscription.tail.head:
            rest += await subscription.next_batch(wait=5)
    assert b"turn_1" in rest[0].body
    subscription.close()


async def test_an_outlet_attached_between_news_and_delivery_misses_no_event(bench: Bench, hub: Hub) -> None:
    """A turn's end and the next turn's beginning are appended, but not written yet: readers must not see them."""
    first = await bench.begin("turn_1")
    await bench.write(first, Started(KEY, "turn_1", "?"), piece("a"))  # the news of it is on its way to the hub
    tail = await bench.tail()
    bench.journal.writable.clear()
    for event in (piece("b"), last("turn_1", "ab")):
        bench.writer(first).append(event)
    bench.writer(first).end()
    bench.log.begin(tail, "turn_2", owner=bench.owner).append(Started(KEY, "turn_2", "?"))
    listener = Listener((await hub.subscribe(KEY, asked=None))[0])
    hub.attach(listener)
    pulled, exact = await hub.subscribe(KEY, asked=tail.position(2))
    assert exact
    assert await pulled.take() == []
    bench.journal.writable.set()
    await bench.log.committed()
    await asyncio.sleep(0)
    assert [int(event["id"].rpartition("-")[2]) for event in listener.events] == [1, 2, 3, 4, 5]
    assert [entry.sequence for entry in await pulled.take()] == [3, 4]
    assert [entry.sequence for entry in await pulled.take()] == [5]
    pulled.close()
    hub.detach(listener)


async def test_a_reader_that_subscribes_while_another_leaves_gets_the_news(bench: Bench, hub: Hub) -> None:
    await bench.turn("turn_0")
    await bench.fold()

    async def glance() -> None:
        subscription, _ = await hub.subscribe(KEY, asked=None)
        subscription.close()

    async def stay() -> Subscription:
        return (await hub.subscribe(KEY, asked=None))[0]

    _, subscription = await asyncio.gather(glance(), stay())
    pulling = asyncio.create_task(subscription.next_batch(wait=0.5))
    await asyncio.sleep(0)
    await bench.turn("turn_1")
    heard = await pulling
    subscription.close()
    assert heard


async def test_one_waiter_that_is_cancelled_leaves_the_others_waiting(bench: Bench, hub: Hub) -> None:
    subscriptions = [(await hub.subscribe(KEY, asked=None))[0] for _ in range(3)]
    waiting = [asyncio.create_task(subscription.next_batch(wait=5)) for subscription in subscriptions]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    await bench.turn()
    for task in waiting[1:]:
        assert await asyncio.wait_for(task, 1)
    for subscription in subscriptions:
        subscription.close()


async def test_next_batch_waits_as_long_as_asked_and_gives_nothing_then(bench: Bench, hub: Hub) -> None:
    subscription, _ = await hub.subscribe(KEY, asked=None)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await subscription.next_batch(wait=0.1) == []
    assert 0.09 < loop.time() - began < 0.3
    assert await subscription.next_batch(wait=0) == []
    subscription.close()


@pytest.mark.parametrize("way", ["attached", "pulled"])
async def test_a_reader_of_a_conversation_that_retention_overtook_gets_a_reset(
    bench: Bench, hub: Hub, way: str
) -> None:
    bench.log.keeper.retention = 100
    await bench.turn("turn_0")
    subscription, _ = await hub.subscribe(KEY, asked="0")
    listener = Listener(subscription)
    if way == "attached":
        listener.paused = True
        hub.attach(listener)
    await bench.turn("turn_1")
    await bench.turn("turn_2")
    await bench.fold()
    await bench.later(200)
    kept = await bench.turn("turn_3")
    await bench.trim()
    if way == "attached":
        listener.paused = False
        hub.serve(listener)
        await until(lambda: listener.events and listener.events[-1]["event"] == "completed", within=2)
        events = listener.events
        hub.detach(listener)
    else:
        events = []
        while not events or events[-1].get("turnId") != "turn_3" or events[-1]["event"] != "completed":
            entries = await subscription.next_batch(wait=1)
            events += [json.loads(line) for line in lines(subscription.tail, entries).splitlines()]
        subscription.close()
    resets = [event for event in events if event["event"] == "reset"]
    assert [(reset["reason"], reset["turnId"]) for reset in resets] == [("expired", "turn_3")]
    assert not [event for event in events if event.get("turnId") in ("turn_1", "turn_2")]
    assert events[-1]["content"] == resets[0]["content"]
    assert kept.turn == "turn_3"


async def test_a_listener_that_is_not_ready_costs_nothing_and_gets_one_joined_piece(bench: Bench, hub: Hub) -> None:
    stretch = await bench.begin()
    await bench.write(stretch, Started(KEY, "turn_1", "?"))
    subscription, _ = await hub.subscribe(KEY, asked=None)
    listener = Listener(subscription)
    hub.attach(listener)
    listener.paused = True
    for number in range(50):
        await bench.write(stretch, piece(f"{number} "))
    assert len(listener.events) == 1
    listener.paused = False
    hub.serve(listener)
    assert [event["event"] for event in listener.events] == ["started", "message"]
    assert listener.events[1]["content"] == "".join(f"{number} " for number in range(50))
    hub.detach(listener)


async def test_a_reader_who_comes_after_everybody_was_told_to_come_back_is_told_so_too(bench: Bench, hub: Hub) -> None:
    await bench.write(await bench.begin(), Started(KEY, "turn_1", "?"), piece("one"))
    hub.drain(also_running=True)
    late = Listener((await hub.subscribe(KEY, asked=None))[0])
    hub.attach(late)
    assert [event["event"] for event in late.events] == ["started", "message"]
    assert late.told == [Code.DRAINING]
    hub.detach(late)


async def test_a_drain_wakes_who_waits_and_says_farewell_to_the_idle(bench: Bench, hub: Hub) -> None:
    stretch = await bench.begin()
    await bench.write(stretch, Started(KEY, "turn_1", "?"))
    busy = Listener((await hub.subscribe(KEY, asked=None))[0])
    from gateway.ids import LogKey

    idle = Listener((await hub.subscribe(LogKey("conv_2"), asked=None))[0])
    for listener in (busy, idle):
        hub.attach(listener)
    waiting, _ = await hub.subscribe(LogKey("conv_3"), asked=None)
    pulling = asyncio.create_task(waiting.next_batch(wait=60))
    await asyncio.sleep(0)
    hub.drain()
    assert await asyncio.wait_for(pulling, 1) == []
    assert (busy.told, idle.told) == ([], [Code.DRAINING])
    hub.drain(also_running=True)
    assert busy.told == [Code.DRAINING]
    waiting.close()
    for listener in (busy, idle):
        hub.detach(listener)


@pytest.mark.parametrize("when", ["before it is read", "while it is looked for"])
async def test_a_turn_that_retention_takes_meanwhile_is_read_to_its_end_or_known_to_be_gone(
    bench: Bench, hub: Hub, when: str
) -> None:
    bench.log.keeper.retention = 100
    await bench.turn("turn_1")
    await bench.fold()
    await bench.later(200)
    if when == "while it is looked for":
        first = True

        async def pause() -> None:
            nonlocal first
            if first:
                first = False
                await bench.trim()

        bench.journal.pause = pause
    subscription, _ = await hub.subscribe(KEY, asked=None, turn="turn_1")
    if when == "before it is read":
        await bench.trim()
        events = await batches(hub, subscription, limit=2)
        assert [event["event"] for event in events] == ["started", "message", "completed"]
    assert subscription.gone == (when == "while it is looked for")
    subscription.close()
    assert bench.log.shelf.tails() == []


async def test_readers_who_are_told_the_same_share_one_reset_until_there_is_news(bench: Bench, hub: Hub) -> None:
    stretch = await bench.begin()
    await bench.write(stretch, Started(KEY, "turn_1", "?"), piece("a"))

    async def told() -> Entry:
        subscription, exact = await hub.subscribe(KEY, asked=(await bench.tail()).position(99))
        assert (exact, subscription.reason) == (False, "ahead")
        (reset,) = subscription.preface
        subscriptions.append(subscription)
        return reset

    subscriptions: list[Subscription] = []
    running = await told()
    assert await told() is running
    await bench.write(stretch, last("turn_1", "a"), end=True)
    ended = await told()  # at the same position: a finished turn's last event follows
    assert ended.sequence == running.sequence
    statuses = [json.loads(b"{" + reset.body + b"}")["status"] for reset in (running, ended)]
    assert statuses == ["running", "completed"]
    for subscription in subscriptions:
        subscription.close()


async def test_a_position_that_another_process_showed_first_is_waited_for(bench: Bench, hub: Hub) -> None:
    stretch = await bench.begin()
    await bench.write(stretch, Started(KEY, "turn_1", "?"), piece("a"))
    tail = await bench.tail()
    bench.journal.writable.clear()  # as if the batch were durable and its writer had not heard of it yet
    bench.writer(stretch).append(piece("b"))
    ahead = tail.position(tail.head + 1)
    asking = asyncio.create_task(hub.subscribe(KEY, asked=ahead, turn="turn_1"))
    await until(lambda: len(tail.users) > 0)
    bench.journal.writable.set()
    subscription, exact = await asking
    assert exact
    assert tail.position(subscription.after) == ahead
    assert subscription.preface == []
    subscription.close()


async def test_a_reset_that_was_given_keeps_no_log_in_memory(bench: Bench, hub: Hub) -> None:
    await bench.turn()
    subscription, _ = await hub.subscribe(KEY, asked=(await bench.tail()).position(99))
    log = weakref.ref(subscription.tail)
    subscription.tail.users.add("somebody else")  # who leaves last, and of whom the hub does not hear
    subscription.close()
    bench.log.shelf.drop(subscription.tail, "somebody else")
    await bench.fold()
    del subscription
    gc.collect()
    assert log() is None
