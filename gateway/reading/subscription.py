"""A subscription: one reader's cursor over a log, and nothing else."""

import asyncio
from collections.abc import Container
from typing import Literal, Protocol

from gateway.events import HIDDEN
from gateway.log.entry import Entry
from gateway.log.stretch import Stretch
from gateway.log.tail import Span, Tail
from gateway.reading.unsent import Hold
from gateway.telemetry.ledger import Held


class Source(Protocol):
    """What a cursor needs from its source. While the source is `draining`, no reader waits for news."""

    draining: bool

    async def load(self, span: Span) -> Stretch | None:
        """Brings a stored stretch into memory; None if retention has removed it."""

    async def catch_up(self, subscription: "Subscription") -> None:
        """Retention has removed the next events, or the reader is `ahead`: moves the cursor to where it can continue,
        with a `reset` first."""

    def left(self, subscription: "Subscription") -> None: ...


class Subscription:
    """A cursor: everything up to `after` has been given. With `turn` set it ends with that turn's last event.

    `preface` is given first: a `reset`, if the requested position can't be continued. There are two ways to read, which
    give the same: a reader with a loop of its own calls `next_batch`; a connection that mostly waits is attached to the
    hub as an outlet. The subscription must be closed in any case.
    """

    __slots__ = (
        "_held",
        "_source",
        "after",
        "ahead",
        "behind",
        "closed",
        "gone",
        "key",
        "preface",
        "reading",
        "reason",
        "room",
        "tail",
        "turn",
    )

    def __init__(
        self, source: Source, tail: Tail, held: Held, *, after: int, turn: str | None, span: Span | None
    ) -> None:
        self._source = source
        self.tail = tail
        self.key = tail.key  # of the log that it asked for; a turn that never starts moves it to another one
        self.turn = turn
        self.after = after
        self.preface: list[Entry] = []
        self.reason: Literal["expired", "unknown", "ahead"] | None = None  # why its position can't be continued exactly
        self.room: Hold | None = None  # holds the room for a large preface
        self.closed = False
        self.ahead = False  # its position is one that the log has lost
        self.behind = False  # retention has taken its turn before all of it was given: it has to come back
        self.gone = False  # its events are not kept any more: the preface is all there is
        self.reading = span  # the last result of `span`; delivery looks here first
        self._held = held
        tail.users.add(self)

    @property
    def span(self) -> Span | None:
        """The span to read next; None if there is nothing yet. A queued turn has none before it has started."""
        if self.turn is None:
            if self.reading is None or self.after >= self.reading.last:
                self.reading = self.tail.span_after(self.after)
        elif self.reading is None:
            for span in reversed(self.tail.spans):
                if span.turn == self.turn:
                    self.reading = span
                    self.after = max(self.after, span.first - 1)
                    break
        return self.reading

    @property
    def outrun(self) -> bool:
        """Whether retention has removed the next events, or the database has lost what this reader was given. A turn's
        own reader holds the stretch, so retention takes nothing from it."""
        if self.ahead:
            return True
        if self.turn is not None:
            return False
        span = self.span
        return self.after < (self.tail.head if span is None else span.first - 1)

    @property
    def over(self) -> bool:
        """Whether the turn has nothing more to give. "Up to date" is not "over"; a conversation is never over."""
        if self.gone:
            return not self.preface
        if self.turn is None or self.preface or self.ahead or self.behind or (span := self.span) is None:
            return False
        return span.ended and self.after >= span.last

    @property
    def lost(self) -> bool:
        """Whether its log was deleted, or its turn is not there any more."""
        return self.gone and self.ahead

    @property
    def hears_running(self) -> bool:
        """Whether a turn that it listens to still runs, or waits to run."""
        running = self.tail.running
        return running is not None and running.turn != "" and self.turn in (None, running.turn)

    async def take(self, limit: int = 0, most: int = 0) -> list[Entry]:
        """The events after the cursor, which moves past them; none if it is up to date. Never waits for news.

        With `most` it returns about that many characters, or a single event that is longer; the next call returns more.
        """
        if self.preface:
            given, self.preface = self.preface, []
            return given
        if self.gone:
            return []
        while True:
            span = self.span
            if (span is None or self.after >= span.last) and not self.outrun:
                return []
            stretch = await self.fetch(span)
            if stretch is None:
                given, self.preface = self.preface, []
                return given
            found = stretch.read(after=self.after, limit=limit, most=most)
            if not found:
                return found
            self.after = found[-1].sequence
            if shown := [entry for entry in found if entry.name != HIDDEN]:
                return shown

    async def fetch(self, span: Span | None) -> Stretch | None:
        """Brings `span`, which comes next, into memory. None: retention has taken it, and the cursor was moved to where
        it can continue, with a `reset` as its preface."""
        stretch = None
        if span is not None and not self.outrun:
            stretch = span.stretch or await self._source.load(span)
        if stretch is None:
            await self._source.catch_up(self)
        return stretch

    async def next_batch(self, *, wait: float, limit: int = 0, most: int = 0) -> list[Entry]:
        """The next events, as soon as there are any; an empty list after `wait` seconds."""
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            news = self.tail.changed()
            if (found := await self.take(limit, most)) or self.over or self._source.draining:
                return found
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return []
            await asyncio.wait([news], timeout=left)

    def taken_back(self, after: int, gone: Container[str]) -> None:
        """The database has lost what came after a position, and it won't come again."""
        self.reading = None
        if self.after > after or self.preface:
            self.ahead, self.preface = True, []
            self.give_room_back()
        if self.turn is not None and self.turn in gone:
            self.ahead = self.gone = True

    def trimmed(self, turn: str) -> None:
        """Retention has taken a turn of which not all was given."""
        if self.turn == turn:
            self.behind, self.reading = True, None

    def erased(self) -> None:
        """The log was deleted. What was already made for this reader is still given."""
        if not self.gone:
            self.ahead, self.reading, self.preface = True, None, []
        self.gone = True

    def rest(self) -> list[Entry]:
        """What is in memory of the events after the cursor."""
        span = self.span
        if self.preface or span is None or span.stretch is None or self.outrun:
            return []
        return [entry for entry in span.stretch.read(after=self.after) if entry.name != HIDDEN]

    def give_room_back(self) -> None:
        """Returns the preface's room: the preface has been given, or never will be."""
        if self.room is not None:
            self.room.close()
            self.room = None

    def close(self) -> None:
        """Gives the cursor back. Idempotent."""
        self.closed = True
        self.give_room_back()
        if self._held.close():
            self._source.left(self)

    def __repr__(self) -> str:
        return f"Subscription({self.turn or self.tail.key} after {self.after})"
