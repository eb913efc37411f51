"""The writer: one task that commits what is queued, all of it at once."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.errors import Code, GatewayError
from gateway.ids import ConversationId, TurnId
from gateway.store import failures
from gateway.store.changes import Changes
from gateway.store.schema import turns
from gateway.store.statements import TOUCH, Statements
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger

GATHER_SECONDS = 0.1
"""How long writes are gathered if nobody waits for them. A commit costs about 1 ms, however many turns it carries."""

REMEMBERED_SECONDS = 30.0
_MOST_REMEMBERED = 16 * 1024 * 1024  # characters

RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
CLOSE_SECONDS = 5.0
LOG_SECONDS = 60.0
_DEADLOCKS = 3  # with other nodes, one after the other, that changes may meet

log = structlog.get_logger("gateway.store")


class StoreWriter:
    """Writes that fail stay queued, as the newest state of each turn, and are tried again until they succeed.

    A turn whose values no database accepts (text that is not Unicode) is dropped with a log line, so that it does not
    keep the others from being written. `on_ended` is called for each turn whose end is written, or dropped.
    """

    def __init__(self, engine: AsyncEngine, ledger: Ledger, on_ended: Callable[[TurnId], None], faults: Faults) -> None:
        self.queued = Changes()
        self.writing = Changes()
        self.trouble: str | None = None
        self._on_ended = on_ended
        self._faults = faults
        self._engine = engine
        self._statements = Statements(engine.dialect)
        self._written: deque[tuple[float, int, Changes]] = deque()  # when, and how many characters
        self._remembered = 0
        self._broke = False
        self._waiting: list[asyncio.Future[None]] = []  # for the next attempt
        self._served: list[asyncio.Future[None]] = []  # by the attempt under way
        self._work = asyncio.Event()
        self._urgent = asyncio.Event()
        self._failures = 0
        self._log_from = 0.0
        self._held = ledger.open("task", "gateway.store.writer")
        self._task = asyncio.create_task(self._run(), name="store-writer")
        faults.watch("store", self._task)

    def __repr__(self) -> str:
        return f"StoreWriter(queued={self.queued!r}, writing={self.writing!r}, trouble={self.trouble!r})"

    def wake(self) -> None:
        """Something was put into `queued`."""
        self._work.set()

    def look_after_break(self) -> None:
        """The database, which other nodes share, may have lost its last moments at a failover: before it is written
        next, we look, and write again what was written in the last `REMEMBERED_SECONDS`."""
        self._broke = True
        self._work.set()

    def erased_elsewhere(self, conversation_id: ConversationId) -> None:
        """Another node has erased a conversation: it must not come back."""
        self.queued.erase(conversation_id)
        for _, _, changes in self._written:
            changes.erase(conversation_id)

    def forget_written(self) -> None:
        """This process may have missed what other nodes changed since: it writes nothing of it again."""
        self._written.clear()
        self._remembered = 0

    async def _look(self) -> None:
        """Queues what the database may have lost, so that it is written before anything else is."""
        self._broke = False
        try:
            lost = await self._has_lost()
        except BaseException:
            self._broke = True
            raise
        if lost:
            log.warning("store.written_again", turns=sum(len(changes.turns) for _, _, changes in self._written))
        kept: deque[tuple[float, int, Changes]] = deque()
        later, self.queued = self.queued, Changes()
        for one in self._written:
            if lost or one[2].traceless:
                self.queued = self.queued.then(one[2])
            else:
                kept.append(one)
        self.queued = self.queued.then(later)
        self._written, self._remembered = kept, sum(size for _, size, _ in kept)

    async def _has_lost(self) -> bool:
        """Whether a turn that was written is missing, or older than it was written."""
        written: dict[TurnId, float] = {}
        for _, _, changes in self._written:
            for turn_id, pending in changes.turns.items():
                written[turn_id] = max(
                    written.get(turn_id, 0.0), 0.0 if pending.update is None else pending.update.updated_at
                )
        if not written:
            return False
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(turns.c.id, turns.c.updated_at).where(turns.c.id.in_(written)))
            found = {row.id: row.updated_at for row in rows}
        return any(found.get(turn_id, -1.0) < at for turn_id, at in written.items())

    def _remember(self, changes: Changes) -> None:
        now = asyncio.get_running_loop().time()
        self._written.append((now, changes.size, changes))
        self._remembered += changes.size
        while self._written and (self._written[0][0] < now - REMEMBERED_SECONDS or self._remembered > _MOST_REMEMBERED):
            self._remembered -= self._written.popleft()[1]

    async def settled(self) -> None:
        """Returns when everything that is queued now is durable; raises if it can't be written now."""
        if self.queued:
            await self._attempted(self._waiting)
        elif self.writing:
            await self._attempted(self._served)

    async def touch(self) -> None:
        """Returns after the next attempt to write, even if nothing is queued. Raises as `settled` does."""
        await self._attempted(self._waiting)

    async def close(self) -> None:
        """Writes what is queued, within `CLOSE_SECONDS`; writes that fail are given up with a log line."""
        with suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.settled()
        self._task.cancel()
        await asyncio.wait([self._task])
        self._held.close()
        if self.queued:
            log.warning("store.unwritten", turns=len(self.queued.turns), reason=self.trouble)

    async def _attempted(self, waiters: list[asyncio.Future[None]]) -> None:
        waiter = asyncio.get_running_loop().create_future()
        waiters.append(waiter)
        self._work.set()
        self._urgent.set()
        await waiter

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            pause = GATHER_SECONDS
            if self._failures:
                # Never at once, even if somebody waits: many waiters must not cause as many attempts.
                await asyncio.sleep(RETRY_SECONDS[0])
                pause = RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS)) - 1] - RETRY_SECONDS[0]
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._urgent.wait()
            try:
                await self._attempt()
            except Exception as error:
                self._faults.broke("store", error)
                self._failed("the store is broken")

    async def _attempt(self) -> None:
        self._served, self._waiting = self._waiting, []
        self._work.clear()
        self._urgent.clear()
        problem: str | None = "the store was closed"
        try:
            if self._broke:
                await self._look()
            self.writing, self.queued = self.queued, Changes()
            await self._write(self.writing)
            problem = None
            if self.writing and self._engine.dialect.name != "sqlite":
                self._remember(self.writing)
            self._healed()
            for turn_id in self.writing.ended():
                self._on_ended(turn_id)
        except Exception as error:
            problem = failures.sentence(error)
            self._failed(problem)
        finally:
            for waiter in self._served:
                if waiter.done():
                    continue
                if problem is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(GatewayError(Code.STORAGE_UNAVAILABLE, problem))
            self._served = []
            written, self.writing = self.writing, Changes()
            if problem is not None:
                self._work.set()
                self.queued = written.then(self.queued)

    async def _write(self, changes: Changes) -> None:
        try:
            await self._commit(changes)
        except Exception as error:
            if failures.is_storage_failure(error):
                raise
            for single in changes.singles():
                await self._write_single(single)

    async def _write_single(self, single: Changes) -> None:
        try:
            await self._commit(single)
        except Exception as error:
            if failures.is_storage_failure(error):
                raise
            self._faults.count("store")
            log.error("store.refused", turns=list(single.turns), reason=type(error).__name__)

    async def _commit(self, changes: Changes) -> None:
        for _ in range(_DEADLOCKS):
            try:
                return await self._commit_once(changes)
            except Exception as error:
                if not failures.is_deadlock(error):
                    raise
        await self._commit_once(changes)

    async def _commit_once(self, changes: Changes) -> None:
        async with self._engine.begin() as connection:
            if not changes:
                await connection.exec_driver_sql(TOUCH)
            for sql, rows in self._statements.writing(changes):
                await connection.exec_driver_sql(sql, rows)
            for sql, values, tell in self._statements.timed(changes):
                tell((await connection.exec_driver_sql(sql, values)).scalar())
        if changes.erased and self._engine.dialect.name == "sqlite":
            async with self._engine.connect() as connection:  # otherwise the text would stay in the write-ahead log
                await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def _failed(self, problem: str) -> None:
        self._failures += 1
        self.trouble = problem
        if (now := asyncio.get_running_loop().time()) >= self._log_from:
            self._log_from = now + LOG_SECONDS
            log.error("store.trouble", reason=problem, turns=len(self.writing.turns))

    def _healed(self) -> None:
        if self.trouble is not None:
            log.info("store.healed", reason=self.trouble, failures=self._failures)
        self._failures = 0
        self.trouble = None
