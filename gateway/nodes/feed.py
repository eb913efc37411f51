"""A feed: another node's batches, as far as they are read here, and an inbox for those that Redis brings."""

from collections import deque
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any, NamedTuple

import msgspec

from gateway.log.burial import COLUMNS, stretch_of
from gateway.log.journal import Record
from gateway.log.packing import DAMAGED
from gateway.log.replay import replay
from gateway.log.stretch import Stretch
from gateway.log.tail import Tail
from gateway.nodes.database import Database
from gateway.nodes.message import BatchMessage

_STRETCH = f"SELECT CASE WHEN NOT kept THEN node END, batch, {COLUMNS} FROM log_stretches WHERE number = %s"
_UNCHANGED = "SELECT 1 FROM log_stretches WHERE number = %s AND node = %s AND batch = %s"
_AT_ONCE = 500  # batches
_BATCHES = f"SELECT number, body FROM log_batches WHERE node = %s AND number > %s ORDER BY number LIMIT {_AT_ONCE}"
_MOST = 1000
_RECENT = 500  # batches: a node saves what runs when it has written some 200
_MOST_BYTES = 8 * 1024 * 1024  # beyond, all are dropped, and read in PostgreSQL


class Inbox:
    """Holds batches, which may come in any order and repeatedly, until they can be read in order.

    `told` is the newest batch that its node has told of.
    """

    def __init__(self) -> None:
        self._messages: dict[int, tuple[BatchMessage, float]] = {}
        self._size = 0
        self.told = 0

    def put(self, message: BatchMessage) -> None:
        """A message came. One without a batch only tells that there is one."""
        self.told = max(self.told, message.number)
        if message.body and message.number not in self._messages:
            if len(self._messages) >= _MOST or self._size > _MOST_BYTES:
                self.clear()
            self._messages[message.number] = message, monotonic()
            self._size += len(message.body)

    def next(self, last: int) -> tuple[BatchMessage, float] | None:
        """The batch after the last one that was read, and when it came."""
        found = self._messages.pop(last + 1, None)
        if found is not None:
            self._size -= len(found[0].body)
        return found

    def __contains__(self, number: int) -> bool:
        return number in self._messages

    def read(self, last: int) -> None:
        """All batches up to this one were read elsewhere."""
        for number in [number for number in self._messages if number <= last]:
            self._size -= len(self._messages.pop(number)[0].body)

    def clear(self) -> None:
        """Forgets what can't be read in its order."""
        self._messages.clear()
        self._size = self.told = 0


class Batch(NamedTuple):
    """One of a node's batches, decoded. `size` is in bytes, as it was stored."""

    number: int
    records: list[Record]
    size: int

    def replay_into(self, stretch: Stretch) -> None:
        """Adds what the batch has of one stretch. Raises one of `DAMAGED`."""
        found = {stretch.number: stretch}
        for record in self.records:
            if record[0] == stretch.number:
                replay(found, record, self.number)


class Recent:
    """A node's newest batches in their order, for readers who join: so that not each of them reads them again."""

    def __init__(self) -> None:
        self._batches: deque[Batch] = deque()
        self._size = 0

    def put(self, batch: Batch) -> None:
        if self._batches and batch.number != self._batches[-1].number + 1:
            self._batches.clear()
            self._size = 0
        self._batches.append(batch)
        self._size += batch.size
        while len(self._batches) > _RECENT or self._size > _MOST_BYTES:
            self._size -= self._batches.popleft().size

    def after(self, number: int) -> list[Batch] | None:
        """All batches after this one that were read until now; None if some of them are not here any more."""
        if not self._batches or self._batches[0].number > number + 1:
            return None
        return [batch for batch in self._batches if batch.number > number]


class Feed:
    """Another node's batches, which are read up to number `last` for those of its stretches that are followed."""

    def __init__(self, node: int, last: int) -> None:
        self.node = node
        self.last = last
        self.stretches: dict[int, tuple[Stretch, Tail]] = {}
        self.inbox = Inbox()
        self.recent = Recent()
        self.begun: set[str] = set()
        """Logs with readers here in which a stretch began, by the newest batches."""

    async def replay_after(self, database: Database, batch: int, stretch: Stretch) -> None:
        """Adds to a stretch, which is saved up to a batch, what was read since. Raises one of `DAMAGED`."""
        if (recent := self.recent.after(batch)) is None:
            recent = [one async for batches in batches_after(database, self.node, batch) for one in batches]
        for one in recent:
            if one.number <= self.last:
                one.replay_into(stretch)


async def batches_after(database: Database, node: int, after: int) -> AsyncIterator[list[Batch]]:
    """A node's batches after one of them, some at a time. Raises `JournalError`."""
    more = True
    while more:
        rows = await database.ask(_BATCHES, node, after)
        more = len(rows) == _AT_ONCE
        if rows:
            after = rows[-1][0]
            yield [Batch(number, _sound(data), len(data)) for number, data in rows]


async def replay_after(database: Database, node: int, batch: int, stretch: Stretch) -> None:
    """Adds to a stretch, which is saved up to a batch, what its node has written since. Raises one of `DAMAGED`."""
    async for batches in batches_after(database, node, batch):
        for one in batches:
            one.replay_into(stretch)


def _sound(data: bytes) -> list[Record]:
    """A batch's records; none if it is damaged. Then the stretches that had some lack them, and are read whole."""
    try:
        return decode(data)
    except DAMAGED:
        return []


decode = msgspec.msgpack.Decoder(list[tuple[int, int, int, Any]]).decode
"""The records of a batch."""


async def stored(database: Database, number: int) -> tuple[int | None, int, Stretch] | None:
    """A stretch as it is saved, with the node that writes it, if one does, and that node's batch up to which it is
    saved. Raises one of `DAMAGED`."""
    rows = await database.ask(_STRETCH, number)
    return (rows[0][0], rows[0][1], stretch_of(rows[0][2:])) if rows else None


async def is_unchanged(database: Database, number: int, node: int, batch: int) -> bool:
    """Whether the stretch is still this node's, and saved up to this batch: then all later batches were there."""
    return bool(await database.ask(_UNCHANGED, number, node, batch))
