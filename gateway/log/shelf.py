"""The shelf: the logs that this process has in memory, and the stretches that are not saved yet."""

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol
from weakref import WeakValueDictionary

import structlog

from gateway.ids import LogKey
from gateway.log.epochs import Epochs, no_epochs
from gateway.log.forks import Forks
from gateway.log.gone import Gone
from gateway.log.journal import Broken, Index, Journal, JournalError, Place
from gateway.log.stretch import Stretch
from gateway.log.tail import Span, Tail
from gateway.log.unsaved import Unsaved
from gateway.waiting import outlived

logger = structlog.get_logger()

_LINGER = 5.0
"""Seconds for which a log that other processes write is followed after its last reader has left: a client that polls
comes back soon."""

_SOON = object()
"""Among a tail's users, stands for a reader that may come back soon."""


class Follower(Protocol):
    """Reads what other processes write."""

    async def look(self, tails: list[Tail], *, claimed: bool = False) -> None:
        """Brings tails up to date that were not followed until now. Raises `JournalError`.

        With `claimed`, nobody else writes these logs: what a tail has beyond the database is lost.
        """

    async def require_licence(self) -> None:
        """Raises `JournalError` if another process has taken over this one's turns, which may not know of it yet."""


class Shelf:
    """Tails by key. A tail stays in memory as long as somebody uses it, or one of its stretches is not saved yet.

    However many wait for the same data, the journal is read once. Methods that read raise `JournalError`.
    """

    def __init__(
        self,
        journal: Journal,
        follow: "Callable[[Shelf], Follower] | None" = None,
        taken_back: Callable[[], None] = lambda: None,
    ) -> None:
        """`taken_back` is called when the database has lost the end of a log that was shown here."""
        self._journal = journal
        self.forks = Forks(taken_back)
        self._follower = None if follow is None else follow(self)
        self.made = ""
        """The random text that the journal was given when it was made."""
        self.unsaved = Unsaved()
        self.coming: dict[int, Stretch] = {}
        """The stretches, by their numbers, that another process left and that are not in their logs yet."""
        self._tails: dict[str, Tail] = {}
        self.gone = Gone()
        self._loading: dict[str, asyncio.Task[Tail]] = {}
        self._reading: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._damaged: set[int] = set()  # the numbers of damaged stretches, of which the operator was told

    # -- tails --------------------------------------------------------------------------------------------------

    def create(self, key: LogKey) -> Tail:
        """The tail of a log that is known to be new."""
        tail = self._tails[key] = Tail(key, no_epochs(key, self.made))
        return tail

    async def tail(self, key: LogKey, *, newest: bool = False, turn: str = "") -> Tail:
        """The log's tail. A caller that keeps it has to join its `users` before it awaits anything else.

        With `newest` it has everything that other processes have written until now, and none of them has a turn that
        runs there: a new writer needs that. With a `turn` it has that turn's stretch, if one is kept, also if it lags
        behind other processes for its readers.
        """
        while True:  # once more, if another caller that waited for the tail has dropped it meanwhile
            if (tail := self._tails.get(key)) is None:
                task = self._loading.get(key)
                if task is None:
                    task = self._loading[key] = asyncio.create_task(self._load_tail(key))
                    task.add_done_callback(lambda _: self._loading.pop(key, None))
                await outlived(task, expected=JournalError)
            elif self._follower is None or tail.is_ours or (not newest and _is_current(tail, turn)):
                return tail
            else:
                try:
                    await self._follower.look([tail], claimed=newest)
                except BaseException:
                    self.drop(tail, None)  # unless somebody else uses it
                    raise
                if self._tails.get(key) is tail:
                    if newest and (stretch := tail.running) is not None and not self.unsaved.is_ours(stretch.number):
                        self.drop(tail, None)
                        raise JournalError("a turn of this conversation is just being taken over")
                    return tail

    async def freshen(self, tail: Tail) -> None:
        """Reads what other processes have written to the log until now."""
        if self._follower is None:
            return
        if tail.is_ours:
            await self._follower.require_licence()
        else:
            await self._follower.look([tail])

    def loaded(self, key: LogKey) -> Tail | None:
        """The log's tail if it is in memory, as it always is while anybody reads or writes it."""
        return self._tails.get(key)

    def tails(self) -> list[Tail]:
        """All tails that are in memory."""
        return list(self._tails.values())

    async def find(self, turn: str) -> Tail | None:
        """The log that holds a turn's stretch; None if the stretch is not kept any more."""
        if (writer := self.unsaved.of_turn(turn)) is not None:
            return writer.tail
        key = await self._journal.find(turn)
        return None if key is None else await self.tail(LogKey(key), turn=turn)

    async def load(self, span: Span) -> Stretch | None:
        """Brings a stored stretch into memory; None if retention has removed it, or if it is damaged."""
        if span.stretch is None:
            if (lock := self._reading.get(span.number)) is None:
                lock = self._reading[span.number] = asyncio.Lock()
            async with lock:  # so that many readers of a stored answer read it once
                if span.stretch is None:
                    try:
                        found = await self._journal.load(span.number)
                    except Broken as error:
                        self._lose(span, error)
                    else:
                        span.stretch = span.stretch or found  # this process may go on with it by now
        return span.stretch

    def _lose(self, span: Span, error: Broken) -> None:
        """A stored stretch is damaged: for its readers, and for everybody else, it counts as removed by retention."""
        if span.number not in self._damaged:
            self._damaged.add(span.number)
            logger.error("log.unreadable", stretches=[span.number], turnId=span.turn, reason=str(error))
        for tail in self._tails.values():
            tail.spans = [one for one in tail.spans if one is not span]

    async def marked(self, mark: str) -> tuple[str, bytes] | None:
        """The turn and the note of the newest stretch with this mark that is still kept."""
        if (stretch := self.unsaved.marked(mark)) is not None:
            return stretch.turn, stretch.state
        return await self._journal.marked(mark)

    def drop(self, tail: Tail, user: object) -> None:
        """`user` no longer uses the tail. With its last user, the stretches that were loaded for it leave memory."""
        tail.users.discard(user)
        if not tail.users and user is not _SOON and self._is_followed(tail):
            tail.users.add(_SOON)
            asyncio.get_running_loop().call_later(_LINGER, self.drop, tail, _SOON)
        if not tail.users:
            for span in tail.spans:
                if span.number not in self.unsaved:
                    span.unload()
            self.let_go(tail)

    def _is_followed(self, tail: Tail) -> bool:
        return self._follower is not None and not tail.is_ours and self._tails.get(tail.key) is tail

    def let_go(self, tail: Tail) -> None:
        """Forgets the tail, if nobody uses it and all of its stretches are saved."""
        if not tail.users and not tail.unsaved and self._tails.get(tail.key) is tail:
            del self._tails[tail.key]

    def erase(self, key: LogKey) -> None:
        """The log is gone, also for those who still use its tail."""
        self.gone.add(key)
        if (gone := self._tails.pop(key, None)) is not None:
            gone.erase()

    # -- stretches that are not saved yet -----------------------------------------------------------------------

    def recover(self, stretch: Stretch, index: Index | None) -> Tail:
        """The tail of a stretch that another process left unsaved, with the stretch put into it. `index` is the log's,
        read since."""
        if (tail := self._tails.get(stretch.key)) is None:
            tail = self._put(LogKey(stretch.key), index, stretch.epochs)
        elif index is not None:
            _learn(tail, index)
            # Otherwise the index's head is that of what is saved.
            if self._journal.shared and not self.unsaved.are_ahead(tail):
                self.forks.take_back(tail, index.epochs, index.head)
        if not any(span.number == stretch.number for span in tail.spans):
            tail.spans.append(Span(Place(stretch.first, stretch.last, stretch.number, stretch.turn)))
            tail.spans.sort(key=lambda span: span.first)
        next(span for span in tail.spans if span.number == stretch.number).stretch = stretch
        if stretch.last >= tail.head:
            tail.epochs = Epochs.parse(stretch.epochs)
        tail.head = max(tail.head, stretch.last)
        tail.next = max(tail.next, tail.head + 1) if self.unsaved.are_ahead(tail) else tail.head + 1
        if tail.users:  # it may have more than readers here were given, and nothing may follow
            tail.published = asyncio.get_running_loop().time()
            tail.news()
        return tail

    async def _load_tail(self, key: LogKey) -> Tail:
        index = (await self._journal.indexes([key])).get(key)
        return self._tails.get(key) or self._put(key, index)

    def _put(self, key: LogKey, index: Index | None, epochs: str = "") -> Tail:
        """A new tail. `epochs` are those of a log that has no index."""
        if index is None:
            tail = Tail(key, Epochs.parse(epochs) if epochs else no_epochs(key, self.made))
        else:
            tail = Tail(key, Epochs.parse(index.epochs), index.head)
            tail.spans = [Span(place) for place in index.places]
        self._tails[key] = tail
        return tail

    async def refresh(self, tails: Collection[Tail]) -> None:
        """Adds to the tails what was stored in their logs since they were loaded, because other processes write the
        logs too."""
        indexes = await self._journal.indexes([tail.key for tail in tails])
        for tail in tails:
            if (index := indexes.get(tail.key)) is not None:
                _learn(tail, index)

    def __repr__(self) -> str:
        return f"Shelf({len(self._tails)} tails, {len(self.unsaved)} unsaved)"


def _learn(tail: Tail, index: Index) -> None:
    """Adds to the tail what was stored since it was loaded."""
    known = {span.number: span for span in tail.spans}
    for place in index.places:
        if (span := known.get(place.number)) is None:
            tail.spans.append(Span(place))
        else:
            span.learn(place)
    tail.spans.sort(key=_first)
    if index.head > tail.head and not tail.is_ours:
        tail.epochs = Epochs.parse(index.epochs)
        # Positions of a turn that its node has not saved yet are not here: readers would take them for removed.
        tail.head = max(tail.head, min(index.head, tail.spans[-1].last) if tail.spans else index.head)
        tail.next = max(tail.next, index.head + 1)


def _first(span: Span) -> int:
    return span.first


def _is_current(tail: Tail, turn: str) -> bool:
    """Whether the tail is followed for readers, and has the turn's stretch, if a turn is named."""
    return not tail.users <= {_SOON} and (not turn or any(span.turn == turn for span in tail.spans))
