"""A subscription: one reader's cursor over a log, and nothing else."""

import asyncio
from typing import Literal, Protocol

from gateway.log.stretch import Entry, Stretch
from gateway.log.tail import Span, Tail
from gateway.reading.unsent import Hold
from gateway.telemetry.ledger import Held


class Source(Protocol):
    """What a cursor needs of whoever gave it. While it is `draining`, nobody waits for news."""

    draining: bool

    async def load(self, span: Span) -> Stretch | None:
        """Brings a stored stretch into memory; None when retention took it."""

    async def catch_up(self, subscription: "Subscription") -> None:
        """Retention took what comes next: puts the cursor where it can go on, a `reset` as its preface."""

    def left(self, subscription: "Subscription") -> None: ...


class Subscription:
    """A cursor: everything up to `after` has been given. With `turn` set it ends with that turn's last event.

    `preface` goes out first: a `reset`, when the position asked for can't be continued. Two ways to read: whoever has
    a loop of its own calls `next_batch`; whoever mostly waits is attached to the hub as an outlet. Both give the same.
    Close it in any case.
    """

    __slots__ = (
        "_held",
        "_source",
        "after",
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
        self.key = tail.key  # of the log that it asked for; a turn that never starts leads it to another
        self.turn = turn
        self.after = after
        self.preface: list[Entry] = []
        self.reason: Literal["expired", "unknown", "ahead"] | None = None  # why its position can't be continued exactly
        self.room: Hold | None = None  # in which a large preface waits
        self.closed = False
        self.gone = False  # what it reads is not kept any more: its preface is all there is
        self.reading = span  # what `span` found last; delivery looks here first
        self._held = held
        tail.users.add(self)

    @property
    def span(self) -> Span | None:
        """What to read next; None when there is nothing yet. A turn that was queued has none before it started."""
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
        """Whether retention took what comes next; a turn's own reader holds its stretch."""
        if self.turn is not None:
            return False
        span = self.span
        return self.after < (self.tail.head if span is None else span.first - 1)

    @property
    def over(self) -> bool:
        """Whether the turn has nothing more to give. Up to date is not over: a conversation's never is."""
        if self.gone:
            return not self.preface
        if self.turn is None or self.preface or (span := self.span) is None:
            return False
        ended = span.stretch is None or span.stretch.ended is not None
        return ended and self.after >= span.last

    @property
    def hears_running(self) -> bool:
        """Whether a turn that it listens to still runs, or waits to."""
        running = self.tail.running
        return running is not None and running.turn != "" and self.turn in (None, running.turn)

    async def take(self, limit: int = 0, most: int = 0) -> list[Entry]:
        """What there is now after the cursor, which moves; empty when up to date. Never waits for news.

        With `most` it is about so many characters, or a single event that is longer; the rest comes with the next call.
        """
        if self.preface:
            given, self.preface = self.preface, []
            return given
        if self.gone:
            return []
        span = self.span
        if (span is None or self.after >= span.last) and not self.outrun:
            return []
        stretch = await self.fetch(span)
        if stretch is None:
            given, self.preface = self.preface, []
            return given
        found = stretch.read(after=self.after, limit=limit, most=most)
        if found:
            self.after = found[-1].sequence
        return found

    async def fetch(self, span: Span | None) -> Stretch | None:
        """Brings `span`, which comes next, into memory. None: retention was faster, and the cursor stands where it can
        go on, a `reset` as its preface."""
        stretch = None
        if span is not None and not self.outrun:
            stretch = span.stretch or await self._source.load(span)
        if stretch is None:
            await self._source.catch_up(self)
        return stretch

    async def next_batch(self, *, wait: float, limit: int = 0, most: int = 0) -> list[Entry]:
        """The next events, at once when there are some, else when they come, or none after `wait` seconds."""
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            news = self.tail.changed()
            if (found := await self.take(limit, most)) or self.over or self._source.draining:
                return found
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return []
            await asyncio.wait([news], timeout=left)

    def give_room_back(self) -> None:
        """The preface has been given, or never will be."""
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
