"""Every interleaving of one writer, the commits, the news and a reader: a small world is explored state by state.

Nothing here runs by itself. A step is one thing that happens in the real gateway: the writer appends, a commit begins,
lands or fails, the hub delivers, a reader joins, reads, or comes back at its position. From each state that any order
of steps leads to, each possible step is tried, and after every step all that readers were given is compared with what
was written; from each state, whoever comes new at any valid position is tried, too.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import pytest

from gateway.errors import Code
from gateway.events import Failed, Started, Text
from gateway.log.entry import Entry
from gateway.log.journal import JournalError, Record
from gateway.log.log import EventLog
from gateway.log.memory import MemoryJournal
from gateway.log.segments import WHOLE
from gateway.log.writer import Writer
from gateway.reading.hub import Hub
from gateway.reading.subscription import Subscription
from gateway.telemetry.ledger import Ledger
from tests.clocks import Clock
from tests.contracts.journals import KEY, last
from tests.contracts.test_cursors import Listener

SCRIPT = ("begin", "piece", "end", "begin", "piece", "end")
SHORT = ("begin", "piece", "end", "begin", "end")
Way = Literal["attached", "pulled"]
MOST_STATES = 20_000


def now(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for."""
    for _ in range(100):
        try:
            work.send(None)
        except StopIteration as done:
            return done.value
    raise AssertionError("it waits")


class Hands:
    """A loop whose callbacks run only when a step says so."""

    def __init__(self) -> None:
        self.due: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def call_soon(self, call: Callable[..., object], *args: Any) -> None:
        self.due.append((call, args))

    def call_later(self, seconds: float, call: Callable[..., object], *args: Any) -> None:
        """Does nothing, so that there are no heartbeats."""

    def create_task(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Future[None]":
        self.due.append((now, (work,)))
        return asyncio.get_running_loop().create_future()

    def time(self) -> float:
        return 0.0


class Seen:
    """The events that one reader was given, each checked against what was written."""

    def __init__(self, world: "World", after: int, turn: str | None) -> None:
        self.world = world
        self.after = after
        self.turn = turn
        self.lasts = 0
        self.given = False

    def take(self, name: str, content: str, sequence: int) -> None:
        assert name != "reset", f"a valid position was answered with a reset after {self.after}"
        covered = [int(part) for part in content.split()] if name == "message" else [sequence]
        assert covered == list(range(self.after + 1, sequence + 1)), f"{covered} after {self.after}, until {sequence}"
        assert sequence <= self.world.durable, f"{sequence} was shown before it was durable"
        for one in covered:
            wanted, turn = self.world.written[one - 1]
            assert wanted == name
            assert self.turn in (None, turn)
            self.lasts += name in ("completed", "error")
        self.after = sequence
        self.given = True


class Joined:
    """A reader that stays: it is attached to the hub, or pulls by itself."""

    def __init__(self, world: "World", way: Way, turn: str | None, asked: str | None) -> None:
        self.world = world
        self.turn = turn
        self.subscription, exact = world.subscribe(asked, turn)
        assert exact
        self.seen = Seen(world, self.subscription.after, turn)
        self.listener: Listener | None = None
        self.had = 0
        if way == "attached":
            self.listener = Listener(self.subscription)
            world.hub.attach(self.listener)

    def read(self) -> None:
        """Pulls one batch, one event at most."""
        self.look(now(self.subscription.take(1)))

    def look(self, entries: list[Entry] | None = None) -> None:
        if self.listener is None:
            events = [(json.loads(b"{" + e.body + b"}"), e.sequence) for e in entries or []]
        else:
            events = [(e, int(e["id"].rpartition("-")[2])) for e in self.listener.events[self.had :]]
            self.had += len(events)
        for event, sequence in events:
            if self.turn is not None and event["event"] == "started":
                self.seen.after = sequence - 1  # the turn's own beginning
            self.seen.take(event["event"], event.get("content", ""), sequence)

    def state(self) -> tuple[Any, ...]:
        mine = self.subscription
        reading = mine.reading.number if mine.reading is not None else None
        finished = self.listener is not None and self.listener.finished.is_set()
        return mine.after, reading, self.seen.after, self.seen.lasts, self.seen.given, self.had, finished


class World:
    def __init__(
        self, way: Way, turn: str | None, *, fails: bool = False, folds: bool = False, script: tuple[str, ...] = SCRIPT
    ) -> None:
        self.ledger = Ledger()
        self.log = EventLog(MemoryJournal(), ledger=self.ledger, retention=3600, clock=Clock())
        self.hands = Hands()
        self.hub = Hub(self.log.shelf, ledger=self.ledger, heartbeat=3600, loop=self.hands)  # type: ignore[arg-type]
        self.way: Way = way
        self.turn = turn
        self.tail = self.log.shelf.create(KEY)
        self.tail.users.add(self)
        self.script = deque(script)
        self.writer: Writer | None = None
        self.turns = 0
        self.written: list[tuple[str, str]] = []
        self.durable = 0
        self.batch: list[Record] | None = None
        self.owed: list[Record] = []
        self.reader: Joined | None = None
        self.may_fail = fails
        self.may_fold = folds
        self.left = 0

    # -- steps ----------------------------------------------------------------------------------------------------

    def steps(self) -> list[str]:
        """The steps that are possible next."""
        log = self.log
        can = {
            "write": bool(self.script),
            "commit": self.batch is None and bool(log.committer.pending or log.committer.owed),
            "land": self.batch is not None,
            "fail": self.batch is not None and self.may_fail,
            "deliver": bool(self.hands.due),
            "fold": self.may_fold and self.batch is None,
            "join": self.reader is None,
            "read": self.reader is not None and self.reader.listener is None,
            "come back": self.reader is not None and self.left < 1 and self.reader.seen.after > 0,
        }
        return [step for step, possible in can.items() if possible]

    def step(self, name: str) -> None:
        getattr(self, name.replace(" ", "_"))()
        if self.reader is not None and self.reader.listener is not None:
            self.reader.look()

    def write(self) -> None:
        match self.script.popleft():
            case "begin":
                self.turns += 1
                self.writer = self.log.begin(self.tail, f"turn_{self.turns}", owner=self)
                self._append("started", Started(KEY, self.writer.stretch.turn, "?"))
            case "piece":
                self._append("message", Text("message", f"{len(self.written) + 1} "))
            case "end":
                assert self.writer is not None
                self._append("completed", last(self.writer.stretch.turn, "whole"))
                self.writer.end()

    def _append(self, name: str, event: Any) -> None:
        assert self.writer is not None
        self.writer.append(event)
        self.written.append((name, self.writer.stretch.turn))

    def commit(self) -> None:
        self.batch = self.log.committer.take()
        self.owed, self.log.committer.owed = self.log.committer.owed, []

    def land(self) -> None:
        assert self.batch is not None
        batch, self.batch = self.batch, None
        self.log.committer.batches.last += 1
        self.durable = max([self.durable, *(record[2] for record in batch if record[1] <= WHOLE)])
        self.log.committer.written(batch)

    def fail(self) -> None:
        self.batch, self.may_fail = None, False
        self.log.committer.owed = self.owed + self.log.committer.owed
        self.log.committer.lose(JournalError("the disk is full"))
        while self.script and self.script[0] != "begin":
            self.script.popleft()

    def lost(self, writer: Writer, error: JournalError) -> None:
        stretch = writer.stretch
        if stretch.last < stretch.first:
            del self.written[stretch.first - 1 :]
        elif stretch.ended is None:
            del self.written[stretch.last :]
            self.written.append(("error", stretch.turn))
            self.durable = stretch.last + 1  # the one exception: shown before it is written
            writer.owe(Failed("", Code.STORAGE_UNAVAILABLE.value, True, KEY, stretch.turn, ""))

    @property
    def about(self) -> dict[str, str]:
        return {}

    def fenced(self, writer: Writer) -> None:
        raise AssertionError(f"nobody else writes {writer!r}")

    def deliver(self) -> None:
        call, args = self.hands.due.popleft()
        call(*args)

    def fold(self) -> None:
        now(self.log.keeper.fold())
        self.may_fold = False

    def join(self) -> None:
        self.reader = Joined(self, self.way, self.turn, None)

    def read(self) -> None:
        assert self.reader is not None
        self.reader.read()

    def come_back(self) -> None:
        """The reader's connection breaks; it resumes at the last position that it was given."""
        assert self.reader is not None
        before = self.reader
        self.left += 1
        self._leave(before)
        self.reader = Joined(self, self.way, self.turn, self.tail.position(before.seen.after))
        self.reader.seen.lasts = before.seen.lasts
        if self.turn is None or before.seen.given:  # who waits for a turn's beginning may begin further on
            assert self.reader.seen.after == before.seen.after
        self.reader.seen.given = before.seen.given

    def _leave(self, reader: Joined) -> None:
        if reader.listener is not None:
            self.hub.detach(reader.listener)
        reader.subscription.close()

    # -- looking --------------------------------------------------------------------------------------------------

    def subscribe(self, asked: str | None, turn: str | None) -> tuple[Subscription, bool]:
        found: tuple[Subscription, bool] = now(self.hub.subscribe(KEY, asked=asked, turn=turn))
        return found

    def probe(self) -> None:
        """Checks that a reader who comes now, at any valid position, gets exactly the events that follow."""
        assert self.tail.head == self.durable
        for position in range(self.durable + 1):
            self._probe_at(position, None)
        for turn in {turn for _, turn in self.written[: self.durable]}:
            for position in range(self.durable + 1):
                self._probe_at(position, turn)

    def _probe_at(self, position: int, turn: str | None) -> None:
        subscription, exact = self.subscribe(self.tail.position(position), turn)
        assert exact, f"{position} is valid, and was answered with {subscription.reason}"
        mine = [number for number, (_, its) in enumerate(self.written[: self.durable], 1) if turn in (None, its)]
        seen = Seen(self, max(position, mine[0] - 1 if mine else 0), turn)
        for _ in range(len(self.written) + 2):
            entries = now(subscription.take())
            for entry in entries:
                event = json.loads(b"{" + entry.body + b"}")
                seen.take(event["event"], event.get("content", ""), entry.sequence)
        assert seen.after == max([position, *mine])
        if turn is not None:
            over = self.written[mine[-1] - 1][0] in ("completed", "error")
            assert subscription.over == over
        subscription.close()

    def state(self) -> str:
        """Everything on which the next steps depend."""
        log = self.log
        happens = len(self.script), len(self.written), len(log.committer.pending), len(log.committer.owed), self.durable
        batch = None if self.batch is None else (len(self.batch), len(self.owed))
        due = [(call.__qualname__, len(args)) for call, args in self.hands.due]
        spans = [(span.number, span.last, span.stretch is None) for span in self.tail.spans]
        resets = sorted(self.hub._subscriptions._resets._kept.get(self.tail, ()))
        reader = self.reader.state() if self.reader is not None else None
        return repr((happens, batch, due, spans, resets, reader, self.may_fail, self.may_fold, self.left))

    def finish(self) -> None:
        """Does all remaining steps, and checks that the reader then has everything that it asked for."""
        for _ in range(100):
            todo = [step for step in self.steps() if step in ("write", "commit", "land", "deliver")]
            if not todo:
                break
            self.step(todo[0])
        reader = self.reader
        if reader is not None:
            for _ in range(len(self.written) + 2):
                if reader.listener is None:
                    reader.read()
            mine = [number for number, (_, turn) in enumerate(self.written, 1) if self.turn in (None, turn)]
            if mine:
                assert reader.seen.after == max(reader.seen.after, mine[-1])
            if self.turn is not None and mine:
                assert reader.seen.lasts == 1
                assert reader.subscription.over
                assert reader.listener is None or reader.listener.finished.is_set()
        if reader is not None:
            self._leave(reader)


def explore(make: Callable[[], World]) -> int:
    """Tries every step from every state. Returns the number of states. A failure names the steps that lead to it."""
    known: set[Any] = set()
    paths: deque[tuple[str, ...]] = deque([()])
    while paths:
        path = paths.popleft()
        world = make()
        try:
            for step in path:
                world.step(step)
            if (state := world.state()) in known:
                continue
            known.add(state)
            assert len(known) < MOST_STATES
            world.probe()
            paths.extend((*path, step) for step in world.steps())
            world.finish()
        except AssertionError as error:
            error.add_note("steps: " + ", ".join(path))
            raise
    return len(known)


@pytest.mark.parametrize("turn", [None, "turn_1", "turn_2"])
@pytest.mark.parametrize("way", ["attached", "pulled"])
async def test_readers_get_each_event_once_in_order_and_durable_whatever_happens_when(
    way: Way, turn: str | None
) -> None:
    assert explore(lambda: World(way, turn)) > 200


@pytest.mark.parametrize("way", ["attached", "pulled"])
async def test_every_order_is_right_where_a_commit_fails_and_a_last_event_is_owed(way: Way) -> None:
    assert explore(lambda: World(way, None, fails=True, script=SHORT)) > 500


@pytest.mark.parametrize("way", ["attached", "pulled"])
async def test_every_order_is_right_where_finished_turns_leave_memory(way: Way) -> None:
    assert explore(lambda: World(way, None, folds=True, script=SHORT)) > 500
