"""Following: reads what other nodes write to logs that have readers at this node."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Container, Iterable
from contextlib import asynccontextmanager
from time import monotonic
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry

from gateway.ids import LogKey
from gateway.log.epochs import Epochs
from gateway.log.journal import BEGIN, Broken, JournalError, Place
from gateway.log.licence import Licence
from gateway.log.packing import DAMAGED
from gateway.log.replay import replay
from gateway.log.shelf import Shelf
from gateway.log.stretch import Stretch
from gateway.log.tail import Span, Tail
from gateway.nodes.database import Database
from gateway.nodes.feed import Batch, Feed, batches_after, decode, is_unchanged, replay_after, stored
from gateway.nodes.message import BatchMessage
from gateway.nodes.together import Together
from gateway.nodes.vanished import Vanished
from gateway.telemetry.node_metrics import NodeMetrics

_LOGS = "SELECT key, epochs, head FROM log_heads WHERE key = ANY(%s)"
_RUNNING = "SELECT key, number, node FROM log_stretches WHERE key = ANY(%s) AND NOT kept ORDER BY first"
_SAVED_MEANWHILE = 5  # how often reading a stretch is tried while its node saves it at the same time


class Following:
    """Keeps tails with readers at this node up to date with what other nodes write. It never writes itself.

    Events come in order, and none is left out. A look at the database finds everything that was not heard of. `began`
    is called with each node that it begins to follow, and `missed` with a node whose newest batches `pull` has to read.
    """

    def __init__(
        self,
        database: Database,
        licence: Licence,
        shelf: Shelf,
        *,
        began: Callable[[int], None] = lambda _: None,
        missed: Callable[[int], None] = lambda _: None,
        metrics: NodeMetrics | None = None,
    ) -> None:
        self._database = database
        self._licence = licence
        self._shelf = shelf
        self._vanished = Vanished(database, shelf)
        self._began, self._missed = began, missed
        self._metrics = metrics or NodeMetrics(CollectorRegistry())
        self._feeds: dict[int, Feed] = {}
        self._lock = asyncio.Lock()
        self._together = Together(self._look_together)
        self._unreadable: WeakKeyDictionary[Tail, Broken] = WeakKeyDictionary()
        """The tails with a stretch that could not be read at the last look."""

    @property
    def nodes(self) -> Collection[int]:
        """The nodes that are followed."""
        return self._feeds.keys()

    def lacks(self, node: int, batch: int) -> bool:
        """Whether a node is followed, and this batch of it is not here yet."""
        return (feed := self._feeds.get(node)) is not None and batch > feed.last

    def came(self, message: BatchMessage) -> None:
        """Redis has brought a batch, or says that there is one. It is shown at once if it is the next one."""
        if self.lacks(message.node, message.number):
            feed = self._feeds[message.node]
            feed.inbox.put(message)
            if not self._lock.locked():
                self._open(feed)

    def _open(self, feed: Feed) -> None:
        """Takes the batches of the inbox that are next."""
        while (found := feed.inbox.next(feed.last)) is not None:
            message, came = found
            self._take_all(feed, [Batch(message.number, decode(message.body), len(message.body))])
            seconds = monotonic() - came
            self._metrics.batch_heard(message.waited + seconds, seconds)
        if feed.inbox.told > feed.last or feed.begun:
            self._missed(feed.node)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        """One task at a time reads in the database. What Redis brings meanwhile is taken afterwards."""
        async with self._lock:
            try:
                yield
            finally:
                for feed in list(self._feeds.values()):
                    self._open(feed)

    async def look(self, tails: Iterable[Tail] | None = None, *, claimed: bool = False) -> None:
        """Reads what other nodes have written to these logs, or to all logs with readers here. Raises `JournalError`.

        Afterwards these tails have everything that was written before the call. With `claimed`, this node has claimed
        the logs, and nobody will write again what the database has lost of them. A stretch that can't be read is an
        error only for callers who asked for its log.
        """
        asked = None if tails is None else list(tails)
        if asked is not None and not claimed:
            await self._together.at(asked)
        else:
            async with self._reading():
                await self._look_at(asked, claimed=claimed)
        for tail in asked or ():
            if (error := self._unreadable.get(tail)) is not None:
                raise error

    async def _look_together(self) -> None:
        async with self._reading():
            await self._look_at(self._together.begin())

    async def _look_at(self, asked: list[Tail] | None, *, claimed: bool = False) -> None:
        for feed in list(self._feeds.values()):
            if asked is None or any(tail in asked for _, tail in feed.stretches.values()):
                await self._pull(feed)
            if asked is None:
                feed.begun.clear()
        await self._look(self._read_here() if asked is None else asked, claimed=claimed)
        if asked is None:  # else many readers who come at once would begin with a node's batches again and again
            self._feeds = {node: feed for node, feed in self._feeds.items() if feed.stretches}

    async def require_licence(self) -> None:
        """Raises `JournalError` if this node was taken for dead, even if it does not know that yet."""
        if not await self._licence.renew():
            raise JournalError("another node has taken over this one's turns, and this one joins again")

    def _read_here(self) -> list[Tail]:
        return [tail for tail in self._shelf.tails() if tail.users and not tail.is_ours]

    def _is_read(self, key: LogKey) -> bool:
        return (tail := self._shelf.loaded(key)) is not None and bool(tail.users) and not tail.is_ours

    async def _look(self, tails: list[Tail], *, claimed: bool = False) -> None:
        by_key = {tail.key: tail for tail in tails if not tail.is_ours and self._shelf.loaded(tail.key) is tail}
        if not by_key:
            return
        for tail in by_key.values():
            self._unreadable.pop(tail, None)
        running = await self._database.ask(_RUNNING, list(by_key))
        there = {number: node for _, number, node in running}
        for feed in list(self._feeds.values()):
            for number, (_, tail) in list(feed.stretches.items()):
                if self._shelf.loaded(tail.key) is not tail or tail.is_ours:
                    del feed.stretches[number]
                elif tail.key in by_key and there.get(number) != feed.node:
                    del feed.stretches[number]  # it ended and is saved, or another node goes on with it
                    await self._join(number, tail)
        await self._vanished.look(by_key.values(), there)
        behind: list[Tail] = []
        logs = await self._database.ask(_LOGS, list(by_key))
        self._vanished.give_up(by_key, {key for key, _, _ in logs})
        for key, epochs, head in logs:
            tail = by_key[key]
            newest = tail.spans[-1].number if tail.spans else 0
            if claimed and epochs and newest not in there and not self._shelf.unsaved.is_ours(newest):
                self._shelf.forks.take_back(tail, epochs, head)
            elif epochs:
                self._shelf.forks.compare(tail, epochs, head)
            if (head > tail.head or tail.lacks_saved or self._left(tail, there)) and not tail.is_ours and epochs:
                behind.append(tail)
        if behind:
            await self._catch_up(behind, there)
        for key, number, node in running:  # after what was saved: a reader has to be given that first
            if by_key[key].is_ours or self._shelf.unsaved.is_ours(number):
                continue  # but what this node has only just adopted is not in its log yet, and is read like any other
            followed = (its := self._feeds.get(node)) is not None and number in its.stretches
            if not followed and not by_key[key].has_ended(number):
                await self._join(number, by_key[key])  # also one that waits to be adopted: it still runs

    def _left(self, tail: Tail, there: Container[int]) -> list[Span]:
        """The spans that were running when they were read, and are not among those that are `there` now: they have
        ended and are saved, or are gone."""
        return [span for span in self._vanished.awaited(tail) if span.number not in there]

    async def _catch_up(self, tails: list[Tail], there: Container[int]) -> None:
        """Reads what was saved in these logs, and what still runs there."""
        known = {span.number for tail in tails for span in tail.spans}
        await self._shelf.refresh(tails)
        for tail in tails:
            left = self._left(tail, there)
            for span in list(tail.spans):
                if span.number not in known or span in left:
                    await self._join(span.number, tail)  # a new one may still run
            tail.published = asyncio.get_running_loop().time()
            tail.news()  # also of turns that both began and ended since the last look

    async def _join(self, number: int, tail: Tail) -> None:
        """Reads a stretch as it is saved, and then what its node has written to it since."""
        why: Exception | None = None
        for _ in range(_SAVED_MEANWHILE):
            try:
                return await self._take_whole(number, tail)
            except DAMAGED as error:
                why = error  # perhaps its node saved it between our two reads, and dropped the batches that we lack
        self._unreadable[tail] = Broken(f"stretch {number} can't be read: {why}")

    async def _take_whole(self, number: int, tail: Tail) -> None:
        """Raises `ValueError` if batches are, or may be, missing."""
        if (found := await stored(self._database, number)) is None:
            return
        node, batch, stretch = found
        if node is None:
            return self._put(tail, stretch)
        feed = self._feeds.get(node)
        if node == self._licence.node:  # this node joins again, or has only just adopted it
            await replay_after(self._database, node, batch, stretch)
        elif feed is None:
            feed = self._feeds[node] = Feed(node, batch)
            self._began(node)
        else:
            if batch > feed.last:
                await self._pull(feed)
            await feed.replay_after(self._database, batch, stretch)
        self._put(tail, stretch)
        if feed is not None:
            feed.stretches[number] = stretch, tail
            await self._pull(feed)
        if not await is_unchanged(self._database, number, node, batch):  # batches may have been dropped meanwhile
            if feed is not None:
                feed.stretches.pop(number, None)
            raise ValueError("it was saved or buried meanwhile")

    def _put(self, tail: Tail, stretch: Stretch) -> None:
        """Puts the stretch into the tail, unless the tail has a newer state of it."""
        if tail.is_ours or self._shelf.unsaved.is_ours(stretch.number):
            return  # this node has adopted it in the meantime, and has perhaps ended it already
        self._shelf.forks.compare(tail, stretch.epochs, stretch.last)
        span = next((span for span in tail.spans if span.number == stretch.number), None)
        if span is None:
            span = Span(Place(stretch.first, stretch.last, stretch.number, stretch.turn))
            tail.spans.append(span)
            tail.spans.sort(key=lambda span: span.first)
        if span.stretch is None or span.stretch.last <= stretch.last:
            span.stretch = stretch
        self._moved(tail, span.stretch)

    def _moved(self, tail: Tail, stretch: Stretch) -> None:
        if stretch.last >= tail.head:
            tail.head = stretch.last
            tail.next = max(tail.next, tail.head + 1)
            if tail.epochs.text != stretch.epochs:
                tail.epochs = Epochs.parse(stretch.epochs)
        tail.published = asyncio.get_running_loop().time()
        tail.news()

    async def pull(self, node: int) -> None:
        """Reads a node's newest batches. Raises `JournalError`."""
        async with self._reading():
            if (feed := self._feeds.get(node)) is not None:
                last = feed.last
                await self._pull(feed)
                if feed.last == last and last + 1 not in feed.inbox:
                    feed.inbox.clear()  # the database does not have what the inbox waits for
                begun, feed.begun = feed.begun, set()
                await self._look([tail for tail in self._read_here() if tail.key in begun])

    async def _pull(self, feed: Feed) -> None:
        """Reads what the node has written since."""
        async for batches in batches_after(self._database, feed.node, feed.last):
            self._take_all(feed, batches)
            self._metrics.batches_read(len(batches))
        feed.inbox.read(feed.last)

    def _take_all(self, feed: Feed, batches: list[Batch]) -> None:
        """Shows the node's next batches, and notes the logs with readers in which a stretch began meanwhile."""
        touched: dict[int, None] = {}
        for batch in batches:
            for record in batch.records:
                one = record[0]
                if one in feed.stretches:
                    touched[one] = None
                    try:
                        replay({one: feed.stretches[one][0]}, record, batch.number)
                    except DAMAGED:  # batches were missed: the next look reads it whole
                        del feed.stretches[one]
                        touched.pop(one)
                elif record[1] == BEGIN and self._is_read(record[3][0]):
                    feed.begun.add(record[3][0])
            feed.recent.put(batch)
            feed.last = batch.number
        for one in touched:
            stretch, tail = feed.stretches[one]
            if tail.spans and tail.spans[-1].stretch is stretch and not tail.is_ours:
                self._moved(tail, stretch)
            else:
                self._put(tail, stretch)
            if stretch.ended is not None:
                del feed.stretches[one]

    def __repr__(self) -> str:
        return f"Following({', '.join(f'{len(f.stretches)} of node {f.node}' for f in self._feeds.values())})"
