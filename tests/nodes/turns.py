"""A turn at several nodes, and those who read it there: all of them must be given the same."""

import asyncio
import time

from tests.nodes.cluster import Cluster
from tests.transports.book import Book, Reader
from tests.transports.readers import LISTENING, Event
from tests.waiting import until

LISTEN = sorted(LISTENING.keys() - {"ndjson"})
STREAMS = ("sse", "websocket", "shared")
"""Those that need no second request."""


class Timed(Reader):
    """A reader who knows when each event came."""

    def __init__(self, book: Book) -> None:
        super().__init__(book)
        self.times: list[float] = []

    def take(self, event: Event) -> None:
        super().take(event)
        self.times.append(time.monotonic())

    def waited(self, since: float, *names: str) -> float:
        """Seconds from a moment until it was given an event, one of those if any are named."""
        pairs = zip(self.names, self.times, strict=True)
        return next(at for name, at in pairs if at > since and (not names or name in names)) - since


class Told:
    """One turn. `readers` stay until it ends; who has hung up goes on elsewhere at its position."""

    def __init__(self, nodes: Cluster, message: str, turn: str, conversation: str) -> None:
        self._nodes = nodes
        self.message = message
        self.turn = turn
        self.conversation = conversation
        self.book = Book()
        self.readers: list[Timed] = []
        self.gone: list[Timed] = []
        self._reading: list[asyncio.Task[None]] = []

    @classmethod
    async def begin(cls, nodes: Cluster, node: int, message: str, **fields: str) -> "Told":
        return cls(nodes, message, *await nodes.begin(node, message, **fields))

    def read(self, node: int, *transports: str) -> None:
        """Somebody reads it at a node over each of these transports, all of it over one connection."""
        for transport in transports:
            reader = Timed(self.book)
            self.readers.append(reader)
            work = self._nodes.go_on(reader, node, self.turn, transport, within=60)
            self._reading.append(asyncio.create_task(work))

    async def heard(self) -> None:
        """Everybody has been given some of the answer, so Coze has accepted the turn."""
        await until(lambda: all(reader.text for reader in self.readers), within=20)

    async def hang_up(self, node: int, *, pieces: int = 10) -> None:
        """Somebody reads so many events of it at a node, and leaves."""
        reader = Timed(self.book)
        self.gone.append(reader)
        await self._nodes.go_on(reader, node, self.turn, pieces=pieces)

    async def stayed(self) -> Event | None:
        """What those who stayed were given as its end."""
        await asyncio.gather(*self._reading)
        return self.readers[0].last

    async def ends(self, node: int, *names: str) -> Event:
        """Everybody has been given its end, those who left at this node, where late readers are given the same."""
        await asyncio.gather(*self._reading)
        await asyncio.gather(*(self._nodes.go_on(reader, node, self.turn) for reader in self.gone))
        await asyncio.gather(*(self._nodes.read(node, self.turn, way, book=self.book) for way in LISTEN))
        for position in list(self.book.texts)[:-1:41]:
            late = Reader(self.book)
            late.position = position
            late.text, late.reasoning = self.book.texts[position]
            late.wholes = [one for one in self.book.order or () if _number(one) <= _number(position)]
            await self._nodes.go_on(late, node, self.turn)
        last = [reader.last for reader in (*self.readers, *self.gone)]
        assert last[0] is not None
        assert last[0]["event"] in (names or ("completed",)), last[0]
        assert all(one == last[0] for one in last)
        return last[0]


def _number(position: str) -> int:
    return int(position.rpartition("-")[2])
