"""Rings: short messages between nodes, so that nobody waits for the next look at the database."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic

import structlog
from msgspec import MsgspecError, Struct, msgpack
from psycopg import AsyncConnection, Error

from gateway.postgres.address import conninfo
from gateway.postgres.failures import NoReply, sentence
from gateway.postgres.link import Link
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.seldom import Seldom

logger = structlog.get_logger()

_CHANNEL = "coze_gateway"
_NOTIFY = "SELECT pg_notify(%s, %s)"
_EVERY = 0.02  # seconds between two rings of one node, because NOTIFY takes a lock of the whole server
_MOST_BYTES = 3900  # of a ring: PostgreSQL allows 8,000 characters, and each byte is sent as two
_TRY_AGAIN = 1.0


class Ring(Struct, array_like=True):
    """What a node tells the others: its newest batch, the logs in which stretches began, and who has new post."""

    node: int
    batch: int = 0
    begun: list[str] = []
    post: list[int] = []
    adopt: bool = False
    waited: float = 0.0
    """Seconds from the commit of the first batch that the ring tells of until the ring was sent."""
    unheard: list[int] = []
    """The nodes that this one follows and does not hear over Redis."""
    key: bytes = b""
    """The key that marks this node's messages in Redis."""


_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder(Ring).decode


class Rings:
    """Best effort: a lost ring delays its news by a second. `heard` is called with every ring, also this node's own."""

    def __init__(self, url: str, *, ledger: Ledger, heard: Callable[[Ring], None]) -> None:
        self._reached = conninfo(url)
        self._link = Link(self._reached, ledger)
        self._ledger = ledger
        self._seldom = Seldom()
        self._heard = heard
        self._ring = Ring(0)
        self._node = self._newest = 0
        self._asked_until = 0.0
        self._since = 0.0  # when the first batch was committed that the next ring tells of
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.alone = True
        """Whether no other node lives that would hear a ring."""

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._call()), asyncio.create_task(self._listen())]

    # -- calling --------------------------------------------------------------------------------------------------

    def committed(self, node: int, number: int, begun: Sequence[str]) -> None:
        """A batch of ours is durable. Others are told only if a stretch began in it, or a node has asked for rings."""
        self._node, self._newest = node, number
        if not self.alone and (begun or monotonic() < self._asked_until):
            self._ring.begun += begun
            self._tell_newest()

    def asked(self, node: int, until: float, key: bytes) -> None:
        """Until `until`, another node may follow this one and learn of its batches by rings alone."""
        if node != self._node:
            self._node, self._newest = node, 0
        self._asked_until = until
        self._ring.key = key
        self._tell_newest()

    def _tell_newest(self) -> None:
        if not self._ring.batch:
            self._since = monotonic()
        self._ring.batch = self._newest
        self._news.set()

    def unheard(self, node: int) -> None:
        """This node follows another one, and hears of its batches by rings alone."""
        if node not in self._ring.unheard:
            self._ring.unheard.append(node)
            self._news.set()

    def post(self, node: int) -> None:
        """There is post for another node."""
        if node not in self._ring.post:
            self._ring.post.append(node)
        self._news.set()

    def adopt(self) -> None:
        """There are stretches to adopt."""
        self._ring.adopt = True
        self._news.set()

    async def _call(self) -> None:
        with self._ledger.open("task", "nodes.rings"):
            while True:
                await self._news.wait()
                self._news.clear()
                ring, self._ring = self._ring, Ring(0)
                ring.node = self._node
                ring.waited = monotonic() - self._since if ring.batch else 0.0
                with suppress(NoReply, Error):
                    await self._link.run(_NOTIFY, (_CHANNEL, _carried(ring)))
                await asyncio.sleep(_EVERY)

    # -- listening ------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        with self._ledger.open("task", "nodes.listen"):
            while True:
                try:
                    connection = await AsyncConnection.connect(self._reached, autocommit=True)
                except (Error, OSError) as error:
                    self._deaf(error)
                else:
                    with self._ledger.open("database"):
                        try:
                            await self._hear(connection)
                        except (Error, OSError) as error:
                            self._deaf(error)
                        finally:
                            await connection.close()
                await asyncio.sleep(_TRY_AGAIN)

    def _deaf(self, error: BaseException) -> None:
        self._seldom.warning("nodes.deaf", reason=sentence(error), consequence="news comes later")

    async def _hear(self, connection: AsyncConnection) -> None:
        await connection.execute(f"LISTEN {_CHANNEL}".encode())
        async for notice in connection.notifies():
            try:
                ring = _decode(bytes.fromhex(notice.payload))
            except (ValueError, MsgspecError):
                logger.warning("nodes.ring_refused", reason="somebody else uses the channel")
            else:
                self._heard(ring)

    async def left(self) -> None:
        """This node has given its licence back: the others can adopt what it had, without waiting for their next look.
        Called after `close`.
        """
        if not self.alone:
            with suppress(NoReply, Error):
                await self._link.run(_NOTIFY, (_CHANNEL, _encode(Ring(self._node, adopt=True)).hex()))
            await self._link.close()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.close()


def _carried(ring: Ring) -> str:
    """The ring as PostgreSQL carries it. Of many logs it tells only of the first: readers of the others look once a
    second."""
    while len(encoded := _encode(ring)) > _MOST_BYTES and ring.begun:
        ring.begun = ring.begun[: len(ring.begun) // 2]
    return encoded.hex()
