"""Journals that misbehave on demand, around a real one; and a log that can crash."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest

from gateway.errors import GatewayError
from gateway.events import Completed, Event, Started, Text
from gateway.ids import LogKey
from gateway.log.entry import Entry
from gateway.log.journal import Index, Journal, JournalError, Record, Recovered, Uncertain
from gateway.log.log import EventLog
from gateway.log.stretch import Stretch
from gateway.log.tail import Tail
from gateway.log.writer import Writer
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.observer import Observer
from gateway.telemetry.words import Part
from tests.clocks import Clock
from tests.contracts.storages import Storage

KEY = LogKey("conv_1")
T = TypeVar("T")

in_a_file = pytest.mark.parametrize("durable", ["sqlite"], indirect=True)
"""For what is said of SQLite's own file."""


class Around:
    """A journal around another one. It counts commits, can fail, hold writes back, and be slow after its snapshot."""

    def __init__(self, inner: Journal) -> None:
        self.inner = inner
        self.shared = inner.shared
        self.failing = False
        self.commits = 0
        self.batches: list[int] = []
        self.writable = asyncio.Event()
        self.writable.set()
        self.heard = asyncio.Event()
        """While it is not set, commits are done, and their replies are late."""
        self.heard.set()
        self.pause: Callable[[], Any] | None = None
        """Awaited after a read has its result and before it is given: where a race would hide."""

    def check(self) -> None:
        if self.failing:
            raise JournalError("the disk is full")

    async def slowly(self, found: T) -> T:
        if self.pause is not None:
            await self.pause()
        return found

    async def open(self) -> Recovered:
        return await self.inner.open()

    async def commit(self, number: int, batch: list[Record]) -> None:
        await self.writable.wait()
        self.check()
        self.commits += 1
        self.batches.append(len(batch))
        await self.inner.commit(number, batch)
        await self.heard.wait()

    async def holds(self, number: int) -> bool:
        return await self.inner.holds(number)

    async def save(self, stretches: list[Stretch]) -> None:
        self.check()
        await self.inner.save(stretches)

    async def forget(self, *, before: int) -> None:
        self.check()
        await self.inner.forget(before=before)

    async def indexes(self, keys: Sequence[str]) -> dict[str, Index]:
        return await self.slowly(await self.inner.indexes(keys))

    async def find(self, turn: str) -> str | None:
        return await self.slowly(await self.inner.find(turn))

    async def turns(self) -> list[str]:
        return await self.inner.turns()

    async def marked(self, mark: str) -> tuple[str, bytes] | None:
        return await self.slowly(await self.inner.marked(mark))

    async def load(self, number: int) -> Stretch | None:
        return await self.slowly(await self.inner.load(number))

    async def trim(self, *, before: float, now: float) -> list[str]:
        self.check()
        return await self.inner.trim(before=before, now=now)

    async def erase(self, keys: Sequence[str], unsaved: Sequence[int]) -> None:
        await self.writable.wait()
        self.check()
        await self.inner.erase(keys, unsaved)

    async def tidy(self) -> None:
        await self.inner.tidy()

    async def probe(self) -> None:
        self.check()
        await self.inner.probe()

    async def close(self) -> None:
        await self.inner.close()


class LostReply(JournalError):
    """The journal did its work, and its reply did not arrive."""


class Doubtful(Around):
    """A journal as over a network: slow, and replies are lost. Of some commits the batch is lost too. Of the other
    calls that write, every second one does its work, and only its reply is lost."""

    def __init__(self, inner: Journal) -> None:
        super().__init__(inner)
        self.calls = 0
        self.done: Counter[str] = Counter()

    async def commit(self, number: int, batch: list[Record]) -> None:
        await self._travel()
        if self.calls % 5 == 2:
            raise Uncertain("no reply, and the batch did not arrive")
        await super().commit(number, batch)
        if self.calls % 5 == 4:
            raise Uncertain("no reply, though the batch arrived")

    async def holds(self, number: int) -> bool:
        await self._travel()
        if self.calls % 7 == 3:
            raise JournalError("no reply either")
        return await super().holds(number)

    async def save(self, stretches: list[Stretch]) -> None:
        await self._travel()
        await super().save(stretches)
        self._reply("save")

    async def forget(self, *, before: int) -> None:
        await self._travel()
        await super().forget(before=before)
        self._reply("forget")

    async def trim(self, *, before: float, now: float) -> list[str]:
        await self._travel()
        keys = await super().trim(before=before, now=now)
        self._reply("trim")
        return keys

    async def erase(self, keys: Sequence[str], unsaved: Sequence[int]) -> None:
        await self._travel()
        await super().erase(keys, unsaved)
        self._reply("erase")

    async def slowly(self, found: T) -> T:
        await self._travel()
        return await super().slowly(found)

    async def _travel(self) -> None:
        self.calls += 1
        await asyncio.sleep(0)

    def _reply(self, what: str) -> None:
        self.done[what] += 1
        if self.done[what] % 2:
            raise LostReply("no reply, though it is done")


class BenchOwner:
    """The owner of every stretch that is begun on a bench. `then` is called when it is told of a loss."""

    def __init__(self) -> None:
        self.told: list[tuple[Stretch, JournalError]] = []
        self.stopped: list[Stretch] = []
        self.then: Callable[[Stretch], None] = lambda _: None

    def lost(self, writer: Writer, error: JournalError) -> None:
        self.told.append((writer.stretch, error))
        self.then(writer.stretch)

    @property
    def about(self) -> dict[str, str]:
        return {}

    def fenced(self, writer: Writer) -> None:
        self.stopped.append(writer.stretch)


class Parts(Observer):
    """The part of each fault that was met."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts

    def fault_met(self, part: Part) -> None:
        self._parts.append(part)


class Counted(Faults):
    """Faults by part."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        super().__init__(Parts(self.parts))


class Bench:
    """A log over a journal of one kind. It can crash and be opened again."""

    def __init__(self, storage: Storage, ledger: Ledger) -> None:
        self.storage = storage
        self.ledger = ledger
        self.clock = Clock()
        self.retention = 3600.0
        self.owner = BenchOwner()
        self.faults = Counted()
        self.around: Callable[[Journal], Around] = Around
        """What is put around the journal that is opened next."""
        self.lost = self.owner.told
        self.journal: Around
        self.log: EventLog
        self.running: list[Stretch] = []

    @property
    def durable(self) -> bool:
        return self.storage.kind != "memory"

    async def open(self) -> EventLog:
        self.journal = self.around(self.storage.journal(self.ledger))
        self.log = EventLog(
            self.journal,
            ledger=self.ledger,
            retention=self.retention,
            clock=self.clock,
            faults=self.faults,
        )
        self.running = await self.log.open()
        assert not self.storage.set_aside()
        for stretch in self.running:
            self.log.take_over(stretch, self.owner)
        return self.log

    async def crash(self) -> None:
        """Ends as a killed process does: everything that was not committed is lost, and nothing is saved."""
        for task in self.log._tasks:
            task.cancel()
        await asyncio.gather(*self.log._tasks, return_exceptions=True)
        await self.storage.kill(self.journal.inner)

    async def later(self, seconds: float) -> None:
        """Lets time go by, for the log and for its storage."""
        self.clock.now += seconds
        self.storage.later(seconds)

    async def restore(self, name: str) -> None:
        """Goes back to a backup of the storage, as after a crash."""
        await self.crash()
        self.storage.restore(name)
        await self.open()

    async def reopen(self) -> EventLog:
        await self.crash()
        return await self.open()

    async def read(self, tail: Tail, *, after: int = 0) -> list[Entry]:
        """All events that are kept after a position, over all stretches."""
        found: list[Entry] = []
        while (span := tail.span_after(after)) is not None:
            stretch = await self.log.shelf.load(span)
            assert stretch is not None
            found += stretch.read(after=after)
            after = stretch.last
        return found

    async def tail(self, key: LogKey = KEY) -> Tail:
        return await self.log.shelf.tail(key)

    async def begin(self, turn: str = "turn_1", key: LogKey = KEY, **more: Any) -> Stretch:
        return self.log.begin(await self.log.shelf.tail(key), turn, owner=self.owner, **more).stretch

    def writer(self, stretch: Stretch) -> Writer:
        """The writer of a stretch that is not saved yet."""
        return self.log.shelf.unsaved[stretch.number]

    async def fold(self, *, also_running: bool = False) -> None:
        await self._again(lambda: self.log.keeper.fold(also_running=also_running))

    async def trim(self) -> None:
        await self._again(self.log.keeper.trim)

    async def erase(self, *keys: LogKey) -> None:
        await self._again(lambda: self.log.keeper.erase(keys))

    async def _again(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does what can be done twice, until its reply arrives."""
        while True:
            try:
                return await work()
            except LostReply:
                pass
            except GatewayError as error:
                if not isinstance(error.__cause__, LostReply):
                    raise

    async def write(self, stretch: Stretch, *events: Event, end: bool = False) -> None:
        for event in events:
            self.writer(stretch).append(event)
        if end:
            self.writer(stretch).end()
        await self.log.committed()

    async def turn(self, turn: str = "turn_1", pieces: int = 5, key: LogKey = KEY, **more: Any) -> Stretch:
        """A whole finished turn: `started`, pieces, `completed`."""
        stretch = await self.begin(turn, key, **more)
        texts = [f"{turn}:{number} " for number in range(pieces)]
        await self.write(stretch, Started(key, turn, "?"), *map(piece, texts), last(turn, "".join(texts)), end=True)
        return stretch


def piece(text: str) -> Text:
    return Text("message", text)


def thought(text: str) -> Text:
    return Text("reasoning", text)


def last(turn: str, text: str) -> Completed:
    return Completed(KEY, turn, text, None, recovered=False)


def fields(entry: Entry) -> dict[str, Any]:
    """An entry's event, without its id."""
    found: dict[str, Any] = json.loads(b"{" + entry.body + b"}")
    return found


async def events(bench: Bench) -> list[str]:
    """The events that a reader is given, each in a word."""
    found = [fields(entry) for entry in await bench.read(await bench.tail())]
    return [event["content"] if event["event"] == "message" else event["event"] for event in found]
