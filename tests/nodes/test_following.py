"""Following: readers at one node get all that another one writes, whatever happens between two looks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.events import Completed, Started, Text
from gateway.ids import LogKey
from gateway.log.journal import JournalError
from gateway.log.log import EventLog
from gateway.log.postgres import PostgresJournal
from gateway.log.shelf import Shelf
from gateway.log.stretch import Stretch
from gateway.log.writer import Writer
from gateway.nodes.database import Database
from gateway.nodes.feed import stored
from gateway.nodes.following import Following
from gateway.reading.hub import Hub
from gateway.reading.subscription import Subscription
from gateway.status import ENDED
from gateway.store import Store
from gateway.telemetry.ledger import Ledger
from gateway.turns.reconciling import reconcile
from tests.contracts.journals import Around, BenchOwner
from tests.databases import PostgresServer
from tests.store.writes import begun
from tests.waiting import until

KEY, OTHER = LogKey("conv_1"), LogKey("conv_2")
TURN = "turn_1"


class Node:
    """A node's log and its readers. It looks for other nodes' events only when the test says so."""

    def __init__(self, url: str, ledger: Ledger, missed: Callable[[int], None] = lambda _: None) -> None:
        self.url = url
        self.database = Database(url, ledger)
        self.journal = PostgresJournal(url, ledger=ledger)
        self.around = Around(self.journal)
        self.following: Following

        def follow(shelf: Shelf) -> Following:
            self.following = Following(self.database, self.journal.licence, shelf, missed=missed)
            return self.following

        self.log = EventLog(self.around, ledger=ledger, retention=3600.0, clock=lambda: 1.0, follow=follow)
        self.hub = Hub(self.log.shelf, ledger=ledger, heartbeat=60.0)

    async def begin(self, *words: str, key: LogKey = KEY, turn: str = TURN) -> Writer:
        """Begins a turn, with each of these words in a batch of its own, all durable."""
        writer = self.log.begin(await self.log.shelf.tail(key), turn, owner=BenchOwner())
        writer.append(Started(key, turn, "a question"))
        await self.log.committed()
        await self.say(writer, *words)
        return writer

    async def say(self, writer: Writer, *words: str) -> None:
        for word in words:
            writer.append(Text("message", word))
            await self.log.committed()

    async def end(self, writer: Writer, content: str) -> None:
        writer.append(Completed(writer.stretch.key, writer.stretch.turn, content, None, False))
        writer.end()
        await self.log.committed()

    async def die(self) -> None:
        """Is buried without knowing it."""
        await self.journal.licence.give_back()

    async def adopt(self) -> Writer:
        (stretch,) = await self.journal.adopt()
        await self.log.take_in([stretch])
        return self.log.take_over(stretch, BenchOwner())

    async def reader(self, *, key: LogKey = KEY, turn: str | None = TURN, asked: str | None = None) -> Subscription:
        subscription, exact = await self.hub.subscribe(key, asked=asked, turn=turn)
        assert exact
        return subscription

    async def close(self) -> None:
        await self.hub.close()
        await self.log.close()
        await self.database.close()


Start = Callable[[], Awaitable[Node]]


@pytest.fixture
async def start(postgres: PostgresServer, ledger: Ledger) -> AsyncIterator[Start]:
    """`await start()`: one more node."""
    url = await postgres.make()
    nodes: list[Node] = []

    async def start() -> Node:
        node = Node(url, ledger)
        nodes.append(node)
        await node.log.open()
        return node

    yield start
    for node in nodes:
        await node.close()


async def names(reader: Subscription) -> list[str]:
    """The events that the reader is given now."""
    found: list[str] = []
    while entries := await reader.take():
        found += [entry.name for entry in entries]
    return found


async def test_a_turn_that_is_saved_while_a_reader_comes_is_given_whole(start: Start) -> None:
    writes, reads = await start(), await start()
    writer = await writes.begin("one", "two")
    await writes.end(writer, "onetwo")
    writes.log.keeper.told(TURN)
    reads.around.pause = writes.log.keeper.fold  # between the index, which does not know it, and the look
    reader = await reads.reader()
    reads.around.pause = None
    assert await names(reader) == ["started", "message", "completed"]
    assert reader.over
    reader.close()


@pytest.mark.parametrize("meanwhile", ["buried", "saved"])
async def test_a_turn_whose_batches_go_while_a_reader_comes_is_given_whole(
    start: Start, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """They go between the look at the stretch and the look at its batches."""
    writes, reads = await start(), await start()
    writer = await writes.begin("one", "two")

    async def then_they_go(database: Database, number: int) -> tuple[int | None, int, Stretch] | None:
        monkeypatch.setattr("gateway.nodes.following.stored", stored)
        row = await stored(database, number)
        if meanwhile == "buried":
            await writes.die()
        else:
            await writes.log.keeper.fold(also_running=True)
            await writes.journal.forget(before=writes.journal._last_batch + 1)
        return row

    monkeypatch.setattr("gateway.nodes.following.stored", then_they_go)
    reader = await reads.reader()
    assert await names(reader) == ["started", "message"]
    assert reader.tail.head == writer.stretch.last == 3
    reader.close()


async def test_a_turn_of_a_node_that_is_joining_again_is_whole_for_its_readers(start: Start) -> None:
    """It has let its writers go by then, and has not buried itself yet."""
    node = await start()
    writer = await node.begin("one", "two")
    node.log.shelf.unsaved.remove(writer)
    writer.tail.writer = None
    node.log.shelf._tails.clear()
    reader = await node.reader(asked=writer.tail.position(3))
    assert reader.tail is not writer.tail
    assert reader.tail.head == 3
    reader.close()


async def test_a_node_that_is_to_join_again_serves_what_another_one_has_shown_meanwhile(start: Start) -> None:
    """It knows that it was taken for dead, and has not joined again yet."""
    paused, goes_on = await start(), await start()
    writer = await paused.begin("one")
    await paused.die()
    adopted = await goes_on.adopt()
    await goes_on.say(adopted, "two")
    writer.append(Text("message", "never"))
    with pytest.raises(GatewayError):
        await paused.log.committed()
    reader = await paused.reader(asked=adopted.tail.position(adopted.tail.head))
    await goes_on.end(adopted, "onetwo")
    await paused.following.look()
    assert await names(reader) == ["completed"]
    reader.close()


async def test_a_node_that_is_to_join_again_gives_its_readers_the_end_of_a_turn_before_the_next_one(
    start: Start,
) -> None:
    """Another node has ended its turn, saved it, and begun the next one, all between two looks."""
    paused, goes_on = await start(), await start()
    writer = await paused.begin("one")
    everything = await paused.reader(turn=None)
    assert await names(everything) == ["started", "message"]
    await paused.die()
    adopted = await goes_on.adopt()
    writer.append(Text("message", "never"))
    with pytest.raises(GatewayError):
        await paused.log.committed()
    await goes_on.end(adopted, "one")
    goes_on.log.keeper.told(TURN)
    await goes_on.log.keeper.fold()
    await goes_on.begin("two", turn="turn_2")
    await paused.following.look()
    assert await names(everything) == ["completed", "started", "message"]
    everything.close()


async def test_a_turn_that_has_begun_elsewhere_is_not_over_before_its_events_are_here(start: Start) -> None:
    writes, reads = await start(), await start()
    await writes.end(await writes.begin(turn="turn_0"), "")
    reader = await reads.reader()
    writer = await writes.begin("one")
    await reads.log.shelf.refresh([reader.tail])  # as a look does first
    assert reader.span is not None
    assert not reader.over
    await reads.following.look()
    assert await names(reader) == ["started", "message"]
    await writes.end(writer, "one")
    await reads.following.look()
    assert await names(reader) == ["completed"]
    assert reader.over
    reader.close()


async def test_a_stretch_that_cannot_be_read_is_trouble_for_its_own_readers_only(start: Start) -> None:
    writes, reads = await start(), await start()
    broken, sound = await writes.begin("one"), await writes.begin("one", key=OTHER, turn="turn_2")
    first, other = await reads.reader(), await reads.reader(key=OTHER, turn="turn_2")
    for writer in (broken, sound):
        await writes.say(writer, "two")
        await writes.end(writer, "onetwo")
        writes.log.keeper.told(writer.stretch.turn)
    await writes.log.keeper.fold()
    await writes.database.ask("UPDATE log_stretches SET body = 'no stretch' WHERE turn = %s", TURN)
    reads.following._feeds.clear()  # as a node that has heard of none of it
    await reads.following.look()
    assert (await names(other))[-1] == "completed"
    looks = (reads.following.look([reader.tail]) for reader in (first, other))
    refused, done = await asyncio.gather(*looks, return_exceptions=True)  # one look for both
    assert isinstance(refused, JournalError)
    assert "can't be read" in str(refused)
    assert done is None
    first.close()
    other.close()


async def test_a_node_starts_although_another_one_runs_a_turn_that_cannot_be_read(
    start: Start, postgres: PostgresServer, ledger: Ledger
) -> None:
    writes, starts = await start(), await start()
    await writes.begin("one")
    await writes.database.ask("UPDATE log_stretches SET body = 'no stretch'")
    store = await Store.open(await postgres.make(), ledger=ledger)
    store.begin(begun(1))
    assert begun(1).turn_id == TURN
    await store.settled()
    await reconcile(starts.log, store, running=(), tell=lambda stretch, note: None, clock=lambda: 1.0)
    row = await store.turn(TURN)
    assert row is not None
    assert row.status not in ENDED
    await store.close()


@pytest.mark.parametrize("known", [0, 1, 3])
async def test_a_turn_that_waits_to_be_adopted_is_still_running_for_its_readers(start: Start, known: int) -> None:
    dies, reads, goes_on = await start(), await start(), await start()
    writer = await dies.begin("one", "two")
    position = writer.tail.position(known) if known else None
    await dies.die()
    reader = await reads.reader(asked=position)
    everything = await reads.reader(turn=None)
    assert await names(reader) == {0: ["started", "message"], 1: ["message"], 3: []}[known]
    assert await names(everything) == ["started", "message"]
    assert not reader.over
    assert reader.hears_running
    await reads.following.look()
    assert not reader.over
    adopted = await goes_on.adopt()
    await goes_on.say(adopted, "three")
    await reads.following.look()
    assert await names(reader) == await names(everything) == ["message"]
    await goes_on.end(adopted, "onetwothree")
    await reads.following.look()
    assert await names(reader) == await names(everything) == ["completed"]
    assert reader.over
    reader.close()
    everything.close()


async def test_a_reader_of_a_turn_that_waits_to_be_adopted_goes_on_where_it_is_adopted(start: Start) -> None:
    dies, reads = await start(), await start()
    writer = await dies.begin("one", "two")
    early = await reads.reader()
    assert await names(early) == ["started", "message"]
    await dies.die()
    await reads.following.look()
    late = await reads.reader(asked=writer.tail.position(3))
    assert not early.over
    assert not late.over
    adopted = await reads.adopt()
    await reads.say(adopted, "three")
    await reads.end(adopted, "onetwothree")
    assert await names(early) == await names(late) == ["message", "completed"]
    early.close()
    late.close()


async def test_a_log_whose_last_reader_leaves_while_it_is_adopted_is_the_one_that_readers_get(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.log.shelf._LINGER", 0.0)
    dies, adopts = await start(), await start()
    await dies.begin("one", "two")
    early = await adopts.reader()
    await dies.die()
    (stretch,) = await adopts.journal.adopt()

    async def leave() -> None:
        adopts.around.pause = None
        early.close()
        await asyncio.sleep(0.05)  # until it is no longer expected back

    adopts.around.pause = leave
    await adopts.log.take_in([stretch])
    assert adopts.around.pause is None
    late = await adopts.reader()
    await adopts.end(adopts.log.take_over(stretch, BenchOwner()), "onetwo")
    assert await names(late) == ["started", "message", "completed"]
    late.close()


async def test_a_node_that_asks_again_what_it_has_adopted_adopts_nothing_that_it_begins_meanwhile(start: Start) -> None:
    dies, goes_on = await start(), await start()
    await dies.begin("one")
    await dies.die()
    goes_on.journal._unheard = True  # the reply to an earlier attempt was lost
    async with goes_on.journal._writer._busy:  # as while PostgreSQL does not answer
        begins = asyncio.create_task(goes_on.begin("two", key=OTHER, turn="turn_2"))
        await until(lambda: goes_on.log.committer.in_flight)
        adopts = asyncio.create_task(goes_on.journal.adopt())
        await asyncio.sleep(0)
    await begins
    assert [stretch.turn for stretch in await adopts] == [TURN]


async def test_a_turn_that_began_and_ended_since_the_last_look_is_found_with_its_events(start: Start) -> None:
    writes, reads = await start(), await start()
    await writes.begin("one", turn="turn_0")
    early = await reads.reader(turn=None)
    await writes.end(await writes.begin("one", key=OTHER), "one")
    other = await reads.reader(key=OTHER, turn=None)
    await writes.end(await writes.begin("two", key=OTHER, turn="turn_2"), "two")
    tail = await reads.log.shelf.find("turn_2")
    assert tail is other.tail
    assert tail.spans[-1].turn == "turn_2"
    early.close()
    other.close()


async def test_a_turn_that_is_adopted_and_ended_during_a_look_is_given_to_its_end(start: Start) -> None:
    dies, adopts = await start(), await start()
    await dies.begin("one", "two")
    reader = await adopts.reader()
    await dies.die()
    (stretch,) = await adopts.journal.adopt()
    read, goes_on = asyncio.Event(), asyncio.Event()
    ask = adopts.following._database.ask

    async def asked(sql: str, *parameters: object) -> list[Any]:
        found = await ask(sql, *parameters)
        if "body" in sql and not read.is_set():
            read.set()
            await goes_on.wait()
        return found

    adopts.following._database.ask = asked  # type: ignore[method-assign]
    look = asyncio.create_task(adopts.following.look())
    await asyncio.wait_for(read.wait(), 5)
    await adopts.log.take_in([stretch])
    writer = adopts.log.take_over(stretch, BenchOwner())
    adopts.around.writable.clear()
    writer.append(Completed(KEY, TURN, "onetwo", None, False))
    writer.end()
    goes_on.set()
    await look
    adopts.around.writable.set()
    await adopts.log.committed()
    assert await names(reader) == ["started", "message", "completed"]
    reader.close()


@pytest.mark.parametrize("known", [0, 2, 3])
async def test_a_turn_that_this_node_has_just_adopted_is_whole_before_it_goes_on(start: Start, known: int) -> None:
    dies, adopts = await start(), await start()
    writer = await dies.begin("one", "two")
    position = writer.tail.position(known) if known else None
    await dies.die()
    (stretch,) = await adopts.journal.adopt()  # by the database's word; this node's log does not have it yet
    reader = await adopts.reader(asked=position)
    assert await names(reader) == {0: ["started", "message"], 2: ["message"], 3: []}[known]
    await adopts.log.take_in([stretch])
    goes_on = adopts.log.take_over(stretch, BenchOwner())
    await adopts.say(goes_on, "three")
    await adopts.end(goes_on, "onetwothree")
    assert await names(reader) == ["message", "completed"]
    reader.close()


async def test_a_reader_is_given_a_turn_whose_node_has_committed_much_since_it_began(start: Start) -> None:
    writes, reads = await start(), await start()
    first, second = await writes.begin(), await writes.begin(key=OTHER, turn="turn_2")
    reader = await reads.reader()
    words = [f"{number} " for number in range(1100)]
    for word in words:
        await writes.say(second, word)
    await writes.say(first, "one")
    await reads.following.pull(writes.journal.licence.node)
    other = await reads.reader(key=OTHER, turn="turn_2")
    assert await names(other) == ["started", "message"]
    assert other.after == 1101
    assert await names(reader) == ["started", "message"]
    reader.close()
    other.close()


async def test_a_reader_that_another_node_has_told_more_waits_for_it_also_when_the_turn_has_ended_meanwhile(
    start: Start,
) -> None:
    writes, reads = await start(), await start()
    writer = await writes.begin("one")
    reader = await reads.reader()
    writes.around.heard.clear()
    writer.append(Text("message", "two"))

    async def look() -> bool:
        await reads.following.look()
        return reader.tail.head == 3

    await until(look)
    position = reader.tail.position(3)
    writer.append(Completed(KEY, TURN, "onetwo", None, False))
    writer.end()
    coming = asyncio.create_task(writes.reader(asked=position))
    await asyncio.wait([coming], timeout=0.3)
    waited = not coming.done()
    writes.around.heard.set()
    assert waited, "the node does not know yet that what the reader has is durable"
    back = await coming
    await writes.log.committed()
    assert await names(back) == ["completed"]
    back.close()
    reader.close()


async def test_readers_who_come_at_the_same_time_are_served_by_one_look(start: Start) -> None:
    writes, reads = await start(), await start()
    keys = [LogKey(f"conv_{number}") for number in range(20)]
    for number, key in enumerate(keys):
        await writes.begin("one", key=key, turn=f"turn_{number}")
    looks = 0
    look_at = reads.following._look_at

    async def counted(*arguments: object, **more: object) -> None:
        nonlocal looks
        looks += 1
        await look_at(*arguments, **more)  # type: ignore[arg-type]

    reads.following._look_at = counted  # type: ignore[method-assign]
    readers = await asyncio.gather(*(reads.reader(key=key, turn=f"turn_{n}") for n, key in enumerate(keys)))
    assert looks <= 4
    for reader in readers:
        assert await names(reader) == ["started", "message"]
        reader.close()


async def test_a_reader_that_leaves_in_the_middle_of_a_look_disturbs_nobody(start: Start, ledger: Ledger) -> None:
    writes, reads = await start(), await start()
    await writes.begin("one")
    await writes.begin("one", key=OTHER, turn="turn_2")
    (await reads.reader(key=OTHER, turn="turn_2")).close()
    connections = ledger.totals()["database"]["opened"]
    for _ in range(20):
        leaves = asyncio.create_task(reads.reader())
        stays = asyncio.create_task(reads.reader(key=OTHER, turn="turn_2"))
        await asyncio.sleep(0)
        leaves.cancel()
        await asyncio.wait([leaves])
        (await stays).close()
    assert ledger.totals()["database"]["opened"] == connections


async def test_a_log_is_followed_for_a_while_after_its_last_reader_has_left(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.log.shelf._LINGER", 1.0)
    writes, reads = await start(), await start()
    writer = await writes.begin("one")
    (await reads.reader()).close()
    tail = reads.log.shelf.loaded(KEY)
    assert tail is not None
    await writes.say(writer, "two")
    back = await reads.reader()
    assert back.tail is tail
    assert await names(back) == ["started", "message"]
    back.close()
    assert reads.log.shelf.loaded(KEY) is tail
    await until(lambda: reads.log.shelf.loaded(KEY) is None, within=20)
