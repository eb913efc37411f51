"""Claims: the conversations whose turns this node runs."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Final
from weakref import WeakValueDictionary

import structlog

from gateway.errors import Code, GatewayError
from gateway.ids import LogKey
from gateway.log.journal import JournalError
from gateway.log.licence import Licence
from gateway.log.rows import LIVES
from gateway.nodes.database import Database
from gateway.nodes.post import Post
from gateway.nodes.rings import Rings
from gateway.telemetry.seldom import Seldom

logger = structlog.get_logger()

WAITS: Final = -1
"""Stands for the node of a turn that has none and waits to be adopted, as the negative number of a buried node does."""

_CLAIM = (
    # Where no node has the claim, it goes to the node whose turn runs or waits there: a release may have come late. The
    # head passes what is saved of a turn only with the turn's end.
    f"WITH {LIVES}, runs AS (SELECT coalesce(s.node, {WAITS}) AS node FROM log_stretches AS s"
    " LEFT JOIN log_heads AS own ON own.key = s.key"
    " WHERE s.home = %s AND NOT s.kept AND s.ended IS NULL AND coalesce(own.head, 0) <= s.last"
    " ORDER BY s.ordinal LIMIT 1)"
    " INSERT INTO log_heads AS h (key, epochs, head, node)"
    " SELECT %s, '', 0, coalesce((SELECT node FROM runs), id) FROM lives"
    " ON CONFLICT (key) DO UPDATE SET node = coalesce(h.node, excluded.node) RETURNING node"
)
_RELEASE = (
    "WITH erased AS (DELETE FROM log_heads WHERE key = %s AND node = %s AND epochs = '')"
    " UPDATE log_heads SET node = NULL WHERE key = %s AND node = %s AND epochs <> ''"
)
_RUNNER = (
    "SELECT node FROM log_stretches WHERE turn = %s AND NOT kept AND node IS NOT NULL ORDER BY ordinal DESC LIMIT 1"
)
_LOCK = (
    f"WITH {LIVES} INSERT INTO log_locks AS l (name, node) SELECT %s, id FROM lives ON CONFLICT (name) DO UPDATE"
    " SET node = excluded.node WHERE l.node = excluded.node"
    " OR NOT EXISTS (SELECT FROM log_nodes WHERE id = l.node) RETURNING node"
)
_UNLOCK = "DELETE FROM log_locks WHERE name = %s AND node = %s"
_OTHERS = "SELECT id FROM log_nodes WHERE id <> %s"
_LOCKED_ELSEWHERE = 10.0  # seconds after which the other node has started its turn, or was taken for dead
_LOOK_AGAIN = 0.05
_UNLOCK_AGAIN = 1.0
_SETTLED_IN = 3.0  # seconds


class Claims:
    """Claims a conversation with the first of its turns at this node, and releases it with the last.

    `settled` returns once the store has written everything that it was told.
    """

    any = True

    def __init__(
        self, database: Database, licence: Licence, post: Post, rings: Rings, settled: Callable[[], Awaitable[None]]
    ) -> None:
        self._rings = rings
        self._settled = settled
        self._database = database
        self._licence = licence
        self._post = post
        self._held: Counter[str] = Counter()
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._releasing: set[asyncio.Task[None]] = set()
        self._alone: set[str] = set()  # the marks that this node has locked, or is about to lock
        self._closed = False
        self._seldom = Seldom()

    @property
    def term(self) -> int:
        return self._licence.node

    @property
    def breaks(self) -> int:
        return self._licence.breaks

    async def leave(self) -> bool:
        with suppress(JournalError, TimeoutError):
            async with asyncio.timeout(_SETTLED_IN):
                return await self._licence.leave()
        return not self._rings.alone

    async def claim(self, key: LogKey) -> int | None:
        async with self._changes(key):
            if not self._held[key]:
                rows = await self._ask(_CLAIM, self._licence.node, key, key)
                if not rows:
                    raise GatewayError(Code.STORAGE_UNAVAILABLE, "this node was taken for dead", retry_after=1)
                if (node := rows[0][0]) != self._licence.node:
                    return int(node)
            self._held[key] += 1
            return None

    def _changes(self, key: str) -> asyncio.Lock:
        """A lock: a claim and its release come one after the other."""
        return self._changing.setdefault(key, asyncio.Lock())

    def hold(self, key: LogKey) -> None:
        self._held[key] += 1

    def release(self, key: LogKey, term: int | None = None) -> None:
        if term not in (None, self.term):
            return
        self._held[key] -= 1
        if self._held[key] <= 0:
            del self._held[key]
            if self._closed:
                return  # the licence is given back, and all claims with it
            self._later(self._let_go(key, self._licence.node))

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def _let_go(self, key: str, node: int) -> None:
        async with self._changes(key):
            if not self._held[key]:
                try:
                    async with asyncio.timeout(_SETTLED_IN):
                        await self._settled()  # the next node reads Coze's id of the conversation there
                    await self._database.ask(_RELEASE, key, node, key, node)
                except (JournalError, GatewayError, TimeoutError) as error:
                    # Other nodes send their orders here until this node runs another turn there, or ends.
                    reason = str(error) or "the database does not answer"
                    self._seldom.warning("nodes.not_released", reason=reason)

    def lose_all(self) -> None:
        self._held.clear()

    @asynccontextmanager
    async def alone_with(self, mark: str) -> AsyncIterator[None]:
        self._alone.add(mark)
        try:
            async with asyncio.timeout(_LOCKED_ELSEWHERE):
                while not await self._locked(node := self._licence.node, mark):  # noqa: ASYNC110 - no event tells when another node unlocks
                    await asyncio.sleep(_LOOK_AGAIN)
        except BaseException as error:
            self._alone.discard(mark)
            self._later(self._unlock(mark, self._licence.node))  # the last attempt may have locked it
            if isinstance(error, TimeoutError):
                late = GatewayError(Code.STORAGE_UNAVAILABLE, "another node is starting this turn", retry_after=1)
                raise late from None
            raise
        try:
            yield
        finally:
            self._alone.discard(mark)
            if not await self._unlocked(mark, node):
                self._later(self._unlock(mark, node))

    async def _locked(self, node: int, mark: str) -> bool:
        try:
            return bool(await self._database.ask(_LOCK, node, mark))
        except JournalError:
            return False

    async def _unlocked(self, mark: str, node: int) -> bool:
        try:
            await self._database.ask(_UNLOCK, mark, node)
        except JournalError:
            return False
        return True

    async def _unlock(self, mark: str, node: int) -> None:
        """Tries again until the database is back, or somebody here has the lock again and will unlock it. A buried
        node has no locks any more."""
        while node == self._licence.node and mark not in self._alone and not await self._unlocked(mark, node):  # noqa: ASYNC110 - as above
            await asyncio.sleep(_UNLOCK_AGAIN)

    async def runner_of(self, turn: str) -> int | None:
        rows = await self._ask(_RUNNER, turn)
        return rows[0][0] if rows else None

    async def all(self) -> list[int]:
        return [node for (node,) in await self._ask(_OTHERS, self._licence.node)]

    async def ask(self, node: int, question: bytes) -> bytes | None:
        if node < 0:
            return None  # the node was buried, and its turns wait to be adopted
        return await self._post.ask(node, question)

    async def _ask(self, sql: str, *parameters: object) -> list[tuple[int, ...]]:
        try:
            return await self._database.ask(sql, *parameters)
        except JournalError as error:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error), retry_after=1) from error

    async def close(self) -> None:
        self._closed = True
        if self._releasing:
            await asyncio.wait(self._releasing, timeout=_SETTLED_IN)
        for task in self._releasing:
            task.cancel()

    def __repr__(self) -> str:
        return f"Claims({len(self._held)} conversations)"
