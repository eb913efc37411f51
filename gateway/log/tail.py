"""A tail: the part of a log that this process holds in memory, and those who wait for its news."""

import asyncio
from bisect import bisect_right
from collections.abc import Container
from typing import Protocol, runtime_checkable

from gateway.ids import LogKey
from gateway.log.epochs import Epochs
from gateway.log.journal import Place
from gateway.log.stretch import Stretch

SOMEBODY_ELSE = object()
"""Stands for the writer of a log whose writer in this process was fenced: this process begins nothing in that log."""


class Span:
    """One stretch of the log, in memory or only known to be stored."""

    __slots__ = ("_ended", "_last", "first", "number", "stretch", "turn")

    def __init__(self, place: Place, stretch: Stretch | None = None) -> None:
        self.first = place.first
        self._last = place.last
        self._ended = place.ended
        self.number = place.number
        self.turn = place.turn
        self.stretch = stretch

    @property
    def last(self) -> int:
        return self._last if self.stretch is None else self.stretch.last

    @property
    def ended(self) -> bool:
        return self._ended if self.stretch is None else self.stretch.ended is not None

    def learn(self, place: Place) -> None:
        """The stretch is stored up to `place.last` now."""
        self._last = max(self._last, place.last)
        self._ended = self._ended or place.ended

    def cut(self, after: int) -> None:
        """Nothing after this position is durable after all: the stretch counts as running, and may go on from there."""
        self._last = min(self._last, after)
        self._ended = False
        if self.stretch is not None:
            self.stretch.cut(after)
            self.stretch.ended = None

    def unload(self) -> None:
        """Lets the stretch, which is stored, leave memory."""
        if self.stretch is not None:
            self._last, self._ended = self.stretch.last, self.stretch.ended is not None
            self.stretch = None


class Watcher(Protocol):
    """Is told of news in a log, at the moment at which it can be read."""

    def news(self, tail: "Tail") -> None: ...


@runtime_checkable
class Cursor(Protocol):
    """A user of a tail who keeps a position in it."""

    def taken_back(self, after: int, gone: Container[str]) -> None:
        """Nothing after this position was ever written, and these turns never began. The events that come there next
        may differ from those that were read."""

    def trimmed(self, turn: str) -> None:
        """Retention has taken a turn whose end has not come here."""

    def erased(self) -> None:
        """The log was deleted."""


class Tail:
    """What is known of one log. Readers may see `spans` and `head`, the last sequence in them: both grow only with
    events that are durable. `next` is the sequence of the next event, and `writer` writes the log now; both run ahead
    of what readers may see.

    `watchers` are told when there is news. The tail stays in memory as long as it has `users`, or stretches that are
    not saved, of which there are `unsaved`.
    """

    __slots__ = (
        "__weakref__",
        "_signal",
        "epochs",
        "head",
        "key",
        "next",
        "published",
        "spans",
        "unsaved",
        "users",
        "watchers",
        "writer",
    )

    def __init__(self, key: LogKey, epochs: Epochs, head: int = 0) -> None:
        self.key = key
        self.epochs = epochs
        self.head = head
        self.next = head + 1
        self.spans: list[Span] = []
        self.users: set[object] = set()
        self.unsaved = 0
        self.writer: object | None = None
        self.watchers: dict[Watcher, None] = {}
        self.published = 0.0
        self._signal: asyncio.Future[None] | None = None

    @property
    def is_ours(self) -> bool:
        """Whether a writer of this process writes it."""
        return self.writer is not None and self.writer is not SOMEBODY_ELSE

    @property
    def floor(self) -> int:
        """The oldest position that can be continued: just before the first event kept."""
        return self.spans[0].first - 1 if self.spans else self.head

    @property
    def running(self) -> Stretch | None:
        """The stretch that, as far as readers may see, has not ended; None if there is none."""
        stretch = self.spans[-1].stretch if self.spans else None
        return stretch if stretch is not None and stretch.ended is None else None

    def position(self, sequence: int) -> str:
        return self.epochs.position(sequence)

    def take_back(self, after: int, epochs: Epochs) -> None:
        """Goes back to a position, because the database has lost what came after it. Readers who are ahead are told."""
        gone = {span.turn for span in self.spans if span.first > after}
        self.spans = [span for span in self.spans if span.first <= after]
        if self.spans and self.spans[-1].last > after:
            self.spans[-1].cut(after)
        gone -= {span.turn for span in self.spans}
        self.head, self.next, self.epochs = after, after + 1, epochs
        for user in list(self.users):
            if isinstance(user, Cursor):
                user.taken_back(after, gone)
        self.news()

    def trimmed(self, span: Span) -> None:
        """Retention has taken a stretch whose end has not come here."""
        self.spans.remove(span)
        for user in list(self.users):
            if isinstance(user, Cursor):
                user.trimmed(span.turn)
        self.news()

    def erase(self) -> None:
        """The log was deleted: nobody gets anything more of it."""
        self.spans = []
        for user in list(self.users):
            if isinstance(user, Cursor):
                user.erased()
        self.news()

    def span_after(self, after: int) -> Span | None:
        """The span that holds the first event after a position, or will hold it: another process may have ended a
        stretch and begun the next one, and the first one's end is not here yet. None if there is no such span."""
        index = bisect_right(self.spans, after + 1, key=_first) - 1
        if index + 1 == len(self.spans):
            return self.spans[index] if index >= 0 and self.spans[index].last > after else None
        if index >= 0 and (self.spans[index].last > after or not self.spans[index].ended):
            return self.spans[index]
        return self.spans[index + 1]

    def has_ended(self, number: int) -> bool:
        """Whether the stretch is here up to its end, although its process may not have saved it yet."""
        return any(span.number == number and span.stretch is not None and span.stretch.ended for span in self.spans)

    def unfinished(self) -> list[Span]:
        """The spans of stretches that are in memory, and whose ends have not come here."""
        return [span for span in self.spans if span.stretch is not None and span.stretch.ended is None]

    @property
    def lacks_saved(self) -> bool:
        """Whether more of a stretch, of which a part is known, may have been saved since the tail was loaded."""
        ends = [*(span.first - 1 for span in self.spans[1:]), self.head]
        return any(span.stretch is None and span.last < end for span, end in zip(self.spans, ends, strict=False))

    def changed(self) -> "asyncio.Future[None]":
        """A future that is done at the next news. Take it before you read and wait on it afterwards: otherwise you miss
        news in between. It is shared: wait on it through `asyncio.wait`, which does not cancel it with its waiter.
        """
        if self._signal is None:
            self._signal = asyncio.get_running_loop().create_future()
        return self._signal

    def news(self) -> None:
        if (signal := self._signal) is not None:
            self._signal = None
            if not signal.done():
                signal.set_result(None)
        for watcher in self.watchers:
            watcher.news(self)

    def __repr__(self) -> str:
        return f"Tail({self.key} {self.floor}..{self.head} of {self.epochs.newest}, {len(self.watchers)} watching)"


def _first(span: Span) -> int:
    return span.first
