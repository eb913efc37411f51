"""Rings: what nodes call out to each other, so that nobody has to wait for the next look at the database."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic

import structlog
from msgspec import Struct, msgpack
from psycopg import AsyncConnection, Error

from gateway.postgres.address import conninfo
from gateway.postgres.failures import NoReply
from gateway.postgres.line import Line
from gateway.telemetry.ledger import Ledger

logger = structlog.get_logger()

_CHANNEL = "coze_gateway"
_EVERY = 0.02  # seconds between two rings of one node: NOTIFY takes a lock that all of PostgreSQL shares
_MOST_KEYS = 60  # of a ring, whose text PostgreSQL limits to 8,000 bytes; whoever is not named looks once a second
_TRY_AGAIN = 1.0


class Ring(Struct, array_like=True):
    """What one node calls out: its newest batch, the logs in which something began, and for which nodes it has post."""

    node: int
    batch: int = 0
    begun: list[str] = []
    post: list[int] = []
    adopt: bool = False
    waited: float = 0.0
    """Seconds from the commit of the first batch that it tells of until it was called out."""


_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder(Ring).decode


class Rings:
    """Best effort: a ring that is lost costs a second. `heard` is called with each ring of another node."""

    def __init__(self, url: str, *, ledger: Ledger, heard: Callable[[Ring], None]) -> None:
        self._reached = conninfo(url)
        self._line = Line(self._reached, ledger)
        self._ledger = ledger
        self._heard = heard
        self._ring = Ring(0)
        self._since = 0.0  # when the first batch that the ring tells of was committed
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.alone = True
        """Whether no other node lives, so that nobody would hear."""

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._call()), asyncio.create_task(self._listen())]

    # -- calling --------------------------------------------------------------------------------------------------

    def committed(self, node: int, number: int, begun: Sequence[str]) -> None:
        """A batch of ours is durable."""
        if self.alone:
            return
        if not self._ring.batch:
            self._since = monotonic()
        self._ring.node, self._ring.batch = node, number
        self._ring.begun += begun
        self._news.set()

    def post(self, node: int) -> None:
        """There is post for another node."""
        self._ring.post.append(node)
        self._news.set()

    def adopt(self) -> None:
        """There is something to adopt."""
        self._ring.adopt = True
        self._news.set()

    async def _call(self) -> None:
        with self._ledger.open("task", "nodes.rings"):
            while True:
                await self._news.wait()
                self._news.clear()
                ring, self._ring = self._ring, Ring(self._ring.node)
                ring.begun = ring.begun[:_MOST_KEYS]
                ring.waited = monotonic() - self._since if ring.batch else 0.0
                with suppress(NoReply, Error):
                    await self._line.run("SELECT pg_notify(%s, %s)", (_CHANNEL, _encode(ring).hex()))
                await asyncio.sleep(_EVERY)

    # -- listening ------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        with self._ledger.open("task", "nodes.listen"):
            while True:
                try:
                    connection = await AsyncConnection.connect(self._reached, autocommit=True)
                except (Error, OSError) as error:
                    logger.warning("nodes.deaf", reason=type(error).__name__, consequence="other nodes are heard later")
                else:
                    with self._ledger.open("database"):
                        try:
                            await self._hear(connection)
                        except (Error, OSError) as error:
                            logger.warning("nodes.deaf", reason=type(error).__name__, consequence="heard later")
                        finally:
                            await connection.close()
                await asyncio.sleep(_TRY_AGAIN)

    async def _hear(self, connection: AsyncConnection) -> None:
        await connection.execute(f"LISTEN {_CHANNEL}".encode())
        async for notice in connection.notifies():
            self._heard(_decode(bytes.fromhex(notice.payload)))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._line.close()
