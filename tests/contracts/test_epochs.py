"""Positions through crashes, restored backups and lost commits: each still names its reader's event, or is refused."""

import random
import sqlite3
from contextlib import closing

import pytest

from gateway.events import Started
from gateway.ids import POSITION_LIMIT, Position, new_token, parse_position
from gateway.log.epochs import MOST, Epochs
from gateway.log.stretch import Stretch
from gateway.reading.hub import Hub
from tests.contracts.journals import KEY, Bench, fields, in_a_file, last, piece
from tests.contracts.storages import SqliteFile


class Readers:
    """The text that readers of one log were ever given, by position. Readers keep their positions whatever happens."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.given: dict[str, tuple[str, ...]] = {}

    async def read(self) -> None:
        """Reads everything, one event at a time."""
        tail = await self.bench.tail()
        events: list[str] = []
        for sequence in range(1, tail.head + 1):
            events.append(await self._event(sequence))
            position = tail.position(sequence)
            assert len(position) <= POSITION_LIMIT
            assert parse_position(position) is not None
            assert self.given.setdefault(position, tuple(events)) == tuple(events), position

    async def _event(self, sequence: int) -> str:
        """The event at one sequence alone: of merged text only the part that came with it."""
        tail = await self.bench.tail()
        span = tail.span_after(sequence - 1)
        assert span is not None
        stretch = await self.bench.log.shelf.load(span)
        assert stretch is not None
        event = fields(stretch.read(after=sequence - 1, limit=1)[0])
        rest = stretch.read(after=sequence, limit=1)
        if event["event"] == "message" and rest and fields(rest[0])["event"] == "message":
            return str(event["content"].removesuffix(fields(rest[0])["content"]))
        return str(event["content"] if event["event"] == "message" else event["event"])

    async def come_back(self) -> tuple[int, int]:
        """All readers resume: exactly, if the events that they were given are still there, otherwise with a reset."""
        hub = Hub(self.bench.log.shelf, ledger=self.bench.ledger, heartbeat=3600)
        tail = await self.bench.tail()
        there = [await self._event(sequence) for sequence in range(1, tail.head + 1)]
        exactly = resets = 0
        for asked, events in self.given.items():
            subscription, exact = await hub.subscribe(KEY, asked=asked)
            same = tuple(there[: len(events)]) == events
            if exact:
                assert same, f"{asked} was given after {events}, and is continued after {there[: len(events)]}"
                assert subscription.after == len(events)
            exactly += exact
            resets += not exact
            subscription.close()
        await hub.close()
        return exactly, resets


@pytest.fixture
def readers(durable: Bench) -> Readers:
    return Readers(durable)


async def say(bench: Bench, stretch: Stretch, *texts: str) -> None:
    await bench.write(stretch, *map(piece, texts))


async def test_a_kill_costs_no_position(durable: Bench, readers: Readers) -> None:
    await durable.turn("turn_0")
    for round_ in range(4):
        stretch = durable.running[0] if durable.running else await durable.begin("turn_1")
        await say(durable, stretch, f"{round_}a", f"{round_}b")
        await readers.read()
        await durable.reopen()
        assert await readers.come_back() == (len(readers.given), 0)
    assert len({position.rpartition("-")[0] for position in readers.given}) == 4


async def test_a_restored_backup_continues_what_is_in_it_and_nothing_that_came_after(
    durable: Bench, readers: Readers
) -> None:
    await durable.turn("turn_0")
    await durable.fold()
    stretch = await durable.begin("turn_1")
    await say(durable, stretch, "a", "b")
    await readers.read()
    kept = len(readers.given)
    durable.storage.back_up("1")
    await say(durable, stretch, "c", "d")
    await durable.write(stretch, last("turn_1", "abcd"), end=True)
    await readers.read()
    await durable.restore("1")
    assert await readers.come_back() == (kept, len(readers.given) - kept)
    (again,) = durable.running
    await say(durable, again, "x", "y", "z", "and more")
    await readers.read()
    new = kept + 4
    assert await readers.come_back() == (new, len(readers.given) - new)
    await durable.write(again, last("turn_1", "abxyz"), end=True)
    await durable.fold()
    await durable.turn("turn_2")
    await durable.reopen()
    assert await readers.come_back() == (new, len(readers.given) - new)


@in_a_file
async def test_a_lost_tail_is_a_reset_for_those_who_had_read_it(durable: Bench, readers: Readers) -> None:
    """A power failure takes the last commits, as a write-ahead log without them shows."""
    stretch = await durable.begin("turn_1")
    await say(durable, stretch, "a")
    storage = durable.storage
    assert isinstance(storage, SqliteFile)
    wal = storage.folder / "log.db-wal"
    length = wal.stat().st_size
    await readers.read()
    kept = len(readers.given)
    await say(durable, stretch, "b", "c")
    await readers.read()
    files = {part.name: part.read_bytes() for part in storage.files() if part.suffix != ".db-shm"}
    await durable.crash()
    for part in storage.files():
        part.unlink()
    for name, data in files.items():
        if not name.endswith("-shm"):
            (storage.folder / name).write_bytes(data[:length] if name.endswith("-wal") else data)
    await durable.open()
    (again,) = durable.running
    assert again.last == kept
    assert await readers.come_back() == (kept, len(readers.given) - kept)
    await say(durable, again, "other", "text", "here")
    assert await readers.come_back() == (kept, len(readers.given) - kept)


async def test_an_event_that_is_owed_in_a_stretch_that_was_taken_over_is_this_processs(
    durable: Bench, readers: Readers
) -> None:
    stretch = await durable.begin("turn_1")
    await durable.write(stretch, Started(KEY, "turn_1", "?"))
    await durable.reopen()
    tail = await durable.tail()
    before = tail.epochs.newest
    (again,) = durable.running
    durable.journal.failing = True
    durable.writer(again).append(piece("lost"))
    with pytest.raises(Exception, match="disk is full"):
        await durable.log.committed()
    durable.writer(again).owe(last("turn_1", ""))
    assert not tail.position(2).startswith(before)
    assert tail.position(1).startswith(before)
    durable.journal.failing = False
    await durable.log.probe()
    wanted = [tail.position(sequence) for sequence in range(3)]
    for _ in range(2):
        await durable.reopen()
        tail = await durable.tail()
        assert [tail.position(sequence) for sequence in range(3)] == wanted
        await durable.fold()


@in_a_file
async def test_positions_of_the_format_before_go_on(durable: Bench) -> None:
    """A file of format 2 knew one epoch, which every event of its logs has."""
    await durable.turn("turn_0")
    await durable.fold()
    await durable.crash()
    assert isinstance(durable.storage, SqliteFile)
    with closing(sqlite3.connect(durable.storage.file)) as db:
        ((epochs,),) = db.execute("SELECT epoch FROM heads").fetchall()
        old = epochs.partition(" ")[0]
        db.execute("UPDATE heads SET epoch = ?", (old,))
        db.execute("UPDATE stretches SET epoch = ?", (old,))
        db.execute("PRAGMA user_version=2")
        db.commit()
    await durable.open()
    hub = Hub(durable.log.shelf, ledger=durable.ledger, heartbeat=3600)
    for new in (0, 1):
        for sequence in range((await durable.tail()).head + 1 - 7 * new):
            subscription, exact = await hub.subscribe(KEY, asked=f"{old}-{sequence}")
            assert exact, sequence
            assert subscription.after == sequence
            subscription.close()
        await durable.turn("turn_1")
    assert (await durable.tail()).position(8) != f"{old}-8"
    await hub.close()


async def test_a_log_into_which_nothing_was_written_can_be_waited_for_over_a_restart(durable: Bench) -> None:
    nothing = (await durable.tail()).position(0)
    await durable.reopen()
    hub = Hub(durable.log.shelf, ledger=durable.ledger, heartbeat=3600)
    subscription, exact = await hub.subscribe(KEY, asked=nothing)
    assert exact
    await durable.turn("turn_0")
    assert [entry.sequence for entry in await subscription.take()] == [1, 6, 7]
    subscription.close()
    await hub.close()


def test_epochs_are_bounded_and_the_newest_are_kept() -> None:
    epochs = Epochs.parse("made")
    starts = MOST + 50
    for start in range(starts):
        epochs = epochs.then(f"g{start}", 10 * start + 1)
    assert Epochs.parse(epochs.text).text == epochs.text
    assert len(epochs.text.split()) == MOST
    newest = 10 * starts
    assert epochs.position(newest) == f"g{starts - 1}-{newest}"
    assert epochs.position(newest - 10) == f"g{starts - 2}-{newest - 10}"
    assert epochs.refuses(Position("made", 0)) == "expired"
    for sequence in range(newest + 1):
        position = parse_position(epochs.position(sequence))
        assert position is not None
        assert epochs.refuses(position) is None


def test_an_epoch_ends_where_another_process_went_on() -> None:
    epochs = Epochs.parse("made").then("a", 1).then("lost", 5).then("b", 5)
    assert [epochs.position(sequence) for sequence in (0, 1, 4, 5, 9)] == ["made-0", "a-1", "a-4", "b-5", "b-9"]
    refusals = [("made", 0), ("made", 1), ("a", 0), ("a", 4), ("a", 5), ("lost", 5), ("b", 4), ("b", 5), ("b", 99)]
    assert [epochs.refuses(Position(*position)) for position in refusals] == [
        *(None, "ahead", "unknown", None, "ahead", "expired", "unknown", None, None)
    ]


def test_nodes_that_take_turns_in_a_log_keep_every_position_of_it() -> None:
    epochs = Epochs.parse("made")
    nodes = ("a" * 18, "b" * 18, "c" * 18)
    for turn in range(300):
        epochs = epochs.then(nodes[turn % 7 % 3], 10 * turn + 1)
    assert Epochs.parse(epochs.text).text == epochs.text
    assert len(epochs.text) < 300 * 10
    for sequence in range(3000):
        position = parse_position(epochs.position(sequence))
        assert position is not None
        assert epochs.refuses(position) is None
        others = {*nodes, "made"} - {position.epoch}
        assert None not in {epochs.refuses(Position(other, sequence)) for other in others}


def test_a_node_whose_epoch_gave_way_goes_on_in_the_one_before() -> None:
    assert Epochs.parse("made").then("a", 1).then("b", 5).then("a", 5).text == "made a@1"


@pytest.mark.parametrize("text", ["", "a b", "a@1", "a b@", "a b@x", "a =0", "a =1@3", "=0 a@1", "a =x@3"])
def test_epochs_that_are_damaged_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Epochs.parse(text)


@pytest.mark.parametrize("seed", range(12))
async def test_any_course_of_kills_backups_and_restores_never_continues_at_another_event(
    durable: Bench, readers: Readers, seed: int
) -> None:
    rng = random.Random(seed)
    backups = 0
    exactly = resets = 0
    for turn in range(40):
        running = durable.running[0] if durable.running else None
        match rng.choice(["write", "write", "write", "end", "fold", "kill", "back up", "restore"]):
            case "write":
                if running is None:
                    durable.running = [running := await durable.begin(f"turn_{turn}")]
                await say(durable, running, *(new_token()[:6] for _ in range(rng.randint(1, 3))))
            case "end" if running is not None:
                await durable.write(running, last(running.turn, str(turn)), end=True)
                durable.running = []
            case "fold":
                await durable.fold(also_running=rng.random() < 0.5)
            case "kill":
                await durable.reopen()
            case "back up":
                durable.storage.back_up(str(backups))
                backups += 1
            case "restore" if backups:
                await durable.restore(str(rng.randrange(backups)))
            case _:
                continue
        await readers.read()
        exactly, resets = await readers.come_back()
    assert exactly
    assert not backups or exactly + resets == len(readers.given)
