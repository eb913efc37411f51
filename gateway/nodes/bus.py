"""The bus: Redis, over which a node's batches reach the nodes that follow it, as soon as they are durable."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Any, Literal

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.ids import new_token
from gateway.nodes.message import SILENT, BatchMessage, channel, read, signed
from gateway.redis.address import REPLY_SECONDS, parse, reached
from gateway.redis.failures import sentence
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.node_metrics import NodeMetrics
from gateway.telemetry.seldom import Seldom

logger = structlog.get_logger()

_EVERY = 1.0  # seconds: a node that has nothing to send says that it is there, and one that hears nothing asks
_SILENCE = 2.5  # seconds without a sign of life, after which a node no longer counts as heard
_LOOK = 0.25  # seconds after which a subscription is made that is wanted; rings are heard meanwhile
_MOST_WAITING = 8 * 1024 * 1024  # bytes to be sent; beyond, all are dropped, and the others read them in PostgreSQL
_PAUSES = (0.1, 0.2, 0.4, 0.8)
_BLOWS = 20  # redis-py sends within `wait_for`, which before Python 3.12 loses a cancellation now and then
_Part = Literal["sending", "hearing"]


class Bus:
    """Carries what is durable, and may lose, repeat, delay or reorder it: whoever follows a node heals that.

    Each node marks what it sends with a key of its own, which it tells others through PostgreSQL (`rings`): what
    somebody else writes into Redis is not believed. `heard` is called with each message of a node that is followed,
    `changed` whenever Redis comes or goes.
    """

    def __init__(
        self,
        url: str,
        *,
        ledger: Ledger,
        faults: Faults,
        metrics: NodeMetrics,
        heard: Callable[[BatchMessage], None],
        changed: Callable[[], None],
    ) -> None:
        self._address = parse(url)
        self._ledger = ledger
        self._faults = faults
        self._metrics = metrics
        self._heard = heard
        self._changed = changed
        self._key = (new_token() + new_token()).encode()
        self._works: set[_Part] = set()
        self._said = ""  # the way of which the newest log line tells
        self._seldom = Seldom()
        self.trouble = "Redis has not answered yet"
        """Why batches don't go over Redis now, where `up` says so."""
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._size = 0
        self._newest = 0, 0
        self._news = asyncio.Event()
        self._receivers = 0
        self._asked_until = 0.0
        self._channels: dict[str, tuple[int, bytes]] = {}  # that are wanted: the node and its key
        self._heard_at: dict[int, float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._keep("sending", self._send)),
            asyncio.create_task(self._keep("hearing", self._hear)),
        ]

    @property
    def up(self) -> bool:
        """Whether this node both sends and hears over Redis."""
        return len(self._works) == 2

    # -- sending --------------------------------------------------------------------------------------------------

    @property
    def key(self) -> bytes:
        """The key by which others know this node's messages; empty while it can't send."""
        return self._key if "sending" in self._works else b""

    def committed(self, node: int, number: int, body: bytes) -> None:
        """A batch of this node is durable. It is sent if somebody follows."""
        self._newest = node, number
        if "sending" not in self._works or not (self._receivers or monotonic() < self._asked_until):
            return
        if self._size > _MOST_WAITING:
            self._waiting.clear()
            self._size = 0
        self._waiting.append((monotonic(), node, number, body))
        self._size += len(body)
        self._news.set()

    def asked(self, node: int, until: float) -> None:
        """A node follows this one, and may not be subscribed yet: until `until`, batches are published in any case."""
        if node != self._newest[0]:
            self._newest = node, 0
        self._asked_until = until

    async def _send(self, client: Redis) -> None:
        async with asyncio.timeout(REPLY_SECONDS * 5):
            await client.ping()
        self._begins("sending")
        due = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - monotonic())):
                    await self._news.wait()
            self._news.clear()
            now = monotonic()
            waiting, self._waiting, self._size = self._waiting, [], 0
            messages = [BatchMessage(node, number, now - since, body) for since, node, number, body in waiting]
            if not messages and now >= due:
                messages = [BatchMessage(*self._newest, 0.0)]
            if messages:
                due = now + _EVERY
                async with asyncio.timeout(REPLY_SECONDS), client.pipeline(transaction=False) as pipeline:
                    for message in messages:
                        pipeline.publish(channel(message.node, self._key), signed(message, self._key))
                    self._receivers = int((await pipeline.execute())[-1])

    # -- hearing --------------------------------------------------------------------------------------------------

    def hears(self, node: int) -> bool:
        """Whether a node is heard over Redis now."""
        return monotonic() - self._heard_at.get(node, -inf) < _SILENCE

    def follow(self, node: int, key: bytes) -> None:
        """Hears a node soon, whose key this is."""
        self._channels.setdefault(channel(node, key), (node, key))

    def keep(self, nodes: Collection[int]) -> None:
        """Hears no other nodes any more."""
        for name, (node, _) in list(self._channels.items()):
            if node not in nodes:
                del self._channels[name]
                self._heard_at.pop(node, None)

    async def _hear(self, client: Redis) -> None:
        async with client.pubsub() as pubsub:
            made = {SILENT}
            async with asyncio.timeout(REPLY_SECONDS * 5):
                await pubsub.subscribe(SILENT)
            answered = asked = monotonic()
            while True:
                if made != self._channels.keys() | {SILENT}:
                    made = await self._subscribe(pubsub, made)
                message = await pubsub.get_message(timeout=_LOOK)
                now = monotonic()
                if message is not None:
                    answered = now
                    self._begins("hearing")
                    if message["type"] == "message":
                        self._take(message["channel"].decode(), message["data"])
                elif now - answered > _SILENCE:  # a reader of a connection that was cut may be given nothing for ever
                    raise TimeoutError
                elif now - asked > _EVERY:
                    asked = now
                    async with asyncio.timeout(REPLY_SECONDS):
                        await pubsub.ping()

    async def _subscribe(self, pubsub: Any, made: set[str]) -> set[str]:
        wanted = {SILENT, *self._channels}
        async with asyncio.timeout(REPLY_SECONDS):
            if more := wanted - made:
                await pubsub.subscribe(*more)
            if less := made - wanted:
                await pubsub.unsubscribe(*less)
        return wanted

    def _take(self, name: str, data: bytes) -> None:
        if (found := self._channels.get(name)) is None:
            return  # it was left a moment ago
        node, key = found
        if (message := read(data, node, key)) is None:
            self._metrics.news_refused()
            return
        self._heard_at[node] = monotonic()
        self._heard(message)

    # -- both -----------------------------------------------------------------------------------------------------

    async def _keep(self, part: _Part, work: "Callable[[Redis], Awaitable[None]]") -> None:
        """Does the work as long as Redis is there, and begins again with another connection."""
        with self._ledger.open("task", f"nodes.bus.{part}"):
            tries = 0
            while True:
                try:
                    async with reached(self._address) as client:
                        with self._ledger.open("redis", part):
                            await work(client)
                except (RedisError, OSError, TimeoutError) as error:
                    tries = 0 if part in self._works else tries + 1
                    self._ends(part, sentence(error))
                except Exception as error:
                    self._faults.broke("nodes", error)
                    self._ends(part, f"the bus is broken: {type(error).__name__}")
                await asyncio.sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])

    def _begins(self, part: _Part) -> None:
        if part not in self._works:
            self._works.add(part)
            if self.up:
                self._metrics.news_goes(redis=True)
                if self._said != "redis":
                    self._said = "redis"
                    logger.info("nodes.news", way="redis")
            self._changed()

    def _ends(self, part: _Part, why: str) -> None:
        self.trouble = why
        self._metrics.news_goes(redis=False)
        if self._said != "postgresql" and self._seldom.warning(
            "nodes.news", reason=why, way="postgresql", consequence="events reach other nodes later"
        ):
            self._said = "postgresql"
        if part == "sending":
            self._waiting, self._size, self._receivers = [], 0, 0
        else:
            self._heard_at.clear()
        if part in self._works:
            self._works.remove(part)
            self._changed()

    async def close(self) -> None:
        for _ in range(_BLOWS):
            for task in self._tasks:
                task.cancel()
            if not self._tasks or not (await asyncio.wait(self._tasks, timeout=0.1))[1]:
                return

    def __repr__(self) -> str:
        return f"Bus({'up' if self.up else 'away'}, {len(self._channels)} followed, {self._receivers} following)"
