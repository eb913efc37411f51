"""The journal in PostgreSQL. Several nodes write it, each its own batches."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

import msgspec
import structlog
from psycopg import Error

from gateway.log.breaks import Known, look_after_break, write_again
from gateway.log.burial import COLUMNS, stretch_of
from gateway.log.journal import Broken, Fenced, Index, JournalError, Record, Recovered, Uncertain, indexes_of
from gateway.log.licence import LEASE, Licence, translated
from gateway.log.outline import checked
from gateway.log.packing import DAMAGED
from gateway.log.register import Register
from gateway.log.rows import LICENCE, Rows, Unended, first_number
from gateway.log.saving import FENCED, Saving
from gateway.log.stretch import Stretch
from gateway.log.watch import Told, Watch
from gateway.log.written import Written
from gateway.postgres.address import conninfo
from gateway.postgres.failures import NoReply, is_outage, sentence
from gateway.postgres.link import Execute, Link
from gateway.telemetry.ledger import Ledger
from gateway.waiting import outlived

logger = structlog.get_logger()
T = TypeVar("T")

_TRIM_AT_ONCE = 500

_EMPTY = msgspec.msgpack.encode([])
_FORGET = (
    "WITH gone AS (DELETE FROM log_batches WHERE node = %s AND number < least(%s, %s))"
    " UPDATE log_batches SET body = %s WHERE node = %s AND number = %s AND number < %s AND body <> %s"
)
"""The newest batch stays, without its records, so that a node finds what it wrote last."""

_INDEXES = (
    "SELECT h.key, h.epochs, h.head, s.first, s.last, s.number, s.turn, s.ended IS NOT NULL FROM log_heads AS h"
    " LEFT JOIN log_stretches AS s ON s.key = h.key WHERE h.key = ANY(%s) AND h.epochs <> '' ORDER BY s.first"
)
_ERASE = (
    "DELETE FROM log_stretches WHERE key = ANY(%s) OR number = ANY(%s)",
    "DELETE FROM log_heads WHERE key = ANY(%s) AND node IS NULL",
    "UPDATE log_heads SET epochs = '', head = 0 WHERE key = ANY(%s)",  # it stays claimed
)


class PostgresJournal:
    """Each process that opens the journal is a node, with a number that is used only once, and batches of its own.

    A node's row in `log_nodes` is its licence: the statement that inserts a batch does so only if it finds the row. To
    bury a node, another one deletes the row, which waits for a batch that is under way. From then on the node is
    `Fenced`. The unsaved stretches of a buried node have no node until one adopts them. A node that only `visits`, as a
    command does, adopts them only if no other node lives.
    """

    shared = True

    def __init__(
        self,
        url: str,
        *,
        ledger: Ledger,
        name: str = "",
        lease: float = LEASE,
        visits: bool = False,
        watch: Watch | None = None,
        told: Told | None = None,
        when_back: Callable[[], None] = lambda: None,
        register: Register | None = None,
    ) -> None:
        """`when_back` is called after a broken connection: the database may have lost its last moments."""
        self._register = register
        self._watch = watch
        self._visits = visits
        self._told = told
        self._when_back = when_back
        self._writer = Link(conninfo(url), ledger, opened=self._look_after_break)
        self._reader = Link(conninfo(url), ledger)
        self.licence = Licence(self._writer, name=name, lease=lease, visits=visits)
        self._is_node = False
        self._last_batch = 0
        self._unheard = False  # whether the reply to an adoption was lost
        self._unended: dict[int, Unended] = {}  # this node's stretches
        self._unsure: set[int] = set()  # those of which it does not know whether they were saved, or erased
        self._in_doubt: Rows | None = None  # the batch whose reply is awaited, or was lost
        self._written = Written()

    async def open(self) -> Recovered:
        """Becomes a new node. Buries this process's earlier node, and adopts what has no node. It buries nobody else:
        the database may have been away until now, so that living nodes could not report."""
        self._is_node = False
        await self.licence.give_back(() if self._in_doubt is None else self._in_doubt.ghosts, self._register)
        made = await self.licence.take()
        self._last_batch = 0
        self._unended, self._unsure = {}, set()
        self._unheard, self._in_doubt, self._written = False, None, Written()
        self._is_node = True
        return Recovered(await self.adopt(), first_number(self.licence.node), made)

    async def adopt(self) -> list[Stretch]:
        """Adopts stretches that have no node. Returns them in the order in which they began."""
        if self._visits and await self.licence.renew() > 1:
            return []
        known, self._unheard = (self._unended if self._unheard else None), True
        batch = self._last_batch  # more may be committed meanwhile
        stretches = await self.licence.adopt(batch, known)
        self._unheard = False
        for s in stretches:
            if s.ended is not None:
                s.unsaved_from = batch + 1  # so that it is saved again, and retention can remove it
        self._unended.update((s.number, Unended(s.key, s.epochs, s.turn, batch)) for s in stretches)
        return stretches

    async def commit(self, number: int, batch: list[Record]) -> None:
        before = self._in_doubt
        rows = self._in_doubt = Rows.of(number, batch, self._unended)
        again = before is not None and before.number == number and bool(rows.begun)
        began = monotonic()
        try:
            found = await (self._write_again(rows) if again else self._write_batch(rows))
        except (Uncertain, asyncio.CancelledError):
            raise
        except BaseException:
            self._in_doubt = None  # it was refused
            raise
        if self._told is not None:
            self._told.log_committed(monotonic() - began)
        self._require(found)
        self._is_durable(rows)

    async def _write_batch(self, rows: Rows) -> list[Any]:
        register = self._register
        try:
            if register is not None and (values := register.values(rows.begun)):
                return await self._write(*rows.commit(self.licence.node, register.inserts, values))
        except (Error, *DAMAGED) as error:
            logger.warning("log.not_registered", turns=[begun.turn for begun in rows.begun], reason=str(error))
        return await self._write(*rows.commit(self.licence.node))

    def _is_durable(self, rows: Rows) -> None:
        self._in_doubt = None
        self._unended.update(rows.unended)
        self._written.add(rows, len(rows.body))
        self._last_batch = rows.number
        if self._watch is not None:
            self._watch.committed(self.licence.node, rows.number, [begun.key for begun in rows.begun], rows.body)

    async def holds(self, number: int) -> bool:
        sql = "SELECT 1 FROM log_batches WHERE node = %s AND number = %s"
        there = bool(await self._ask(self._writer, sql, self.licence.node, number))
        if there and self._in_doubt is not None and self._in_doubt.number == number:
            self._is_durable(self._in_doubt)
        return there

    async def save(self, stretches: list[Stretch]) -> None:
        saving = Saving(self.licence.node, self._last_batch, stretches)
        numbers = {s.number for s in stretches}
        self._unsure |= numbers
        await translated((self._writer.alone if saving.is_one_statement else self._writer.within)(saving))
        self._unsure -= numbers
        self._written.add(saving, saving.size)
        for s in stretches:
            if s.ended is not None:
                self._unended.pop(s.number, None)
            elif s.number in self._unended:
                self._unended[s.number] = self._unended[s.number]._replace(batch=self._last_batch)

    async def forget(self, *, before: int) -> None:
        node, last = self.licence.node, self._last_batch
        await self._write(_FORGET, (node, before, last, _EMPTY, node, last, before, _EMPTY))

    async def indexes(self, keys: Sequence[str]) -> dict[str, Index]:
        return indexes_of(await self._read(_INDEXES, list(keys)))

    async def find(self, turn: str) -> str | None:
        rows = await self._read("SELECT key FROM log_stretches WHERE turn = %s ORDER BY ordinal DESC LIMIT 1", turn)
        return rows[0][0] if rows else None

    async def turns(self) -> list[str]:
        sql = "SELECT turn FROM log_stretches WHERE kept AND turn <> %s ORDER BY ordinal"
        return [row[0] for row in await self._read(sql, "")]

    async def marked(self, mark: str) -> tuple[str, bytes] | None:
        sql = "SELECT turn, state FROM log_stretches WHERE mark = %s AND mark <> '' ORDER BY ordinal DESC LIMIT 1"
        rows = await self._read(sql, mark)
        return (rows[0][0], rows[0][1]) if rows else None

    async def load(self, number: int) -> Stretch | None:
        rows = await self._read(f"SELECT {COLUMNS} FROM log_stretches WHERE number = %s", number)
        try:
            return checked(stretch_of(rows[0])) if rows else None
        except DAMAGED as error:
            raise Broken(f"a stored answer is damaged: {error}") from error

    async def trim(self, *, before: float, now: float) -> list[str]:
        """A time in the future was written when the database's clock was ahead, and is set to now."""
        await self._ask(self._writer, "UPDATE log_stretches SET kept_at = now() WHERE kept_at > now()")
        await self._ask(self._writer, "DELETE FROM log_post WHERE at < now() - interval '1 minute'")
        sql = (
            "DELETE FROM log_stretches WHERE number IN (SELECT number FROM log_stretches WHERE"
            " kept_at < now() - make_interval(secs => %s) LIMIT %s) RETURNING key"
        )
        return [row[0] for row in await self._ask(self._writer, sql, now - before, _TRIM_AT_ONCE)]

    async def erase(self, keys: Sequence[str], unsaved: Sequence[int]) -> None:
        """Needs the licence: a buried node must not erase a log that another node, which adopted it, writes now."""

        statements = tuple(zip(_ERASE, ((list(keys), list(unsaved)), (list(keys),), (list(keys),)), strict=True))

        async def erase(run: Execute) -> None:
            self._require(await run(LICENCE, (self.licence.node,)))
            for statement in statements:
                await run(*statement)

        gone = {number for number, one in self._unended.items() if one.key in keys} | set(unsaved)
        self._unsure |= gone
        await self._within(self._writer, erase)
        self._written.add(erase, 0)
        self._unsure -= gone
        for number in gone:
            self._unended.pop(number, None)

    async def tidy(self) -> None:
        """PostgreSQL vacuums by itself."""

    async def probe(self) -> None:
        if not await self.licence.renew():
            raise Fenced(FENCED)

    async def close(self) -> None:
        """Gives the licence back, so that other nodes can adopt what is left at once."""
        with suppress(JournalError):  # without PostgreSQL they adopt it once this node has been silent for too long
            await self.licence.give_back()
            if self._watch is not None:
                await self._watch.left()
        await self._writer.close()
        await self._reader.close()

    # -- breaks ---------------------------------------------------------------------------------------------------

    async def _look_after_break(self, run: Execute) -> None:
        """Runs first on every new connection. Until it succeeds, or this node joins again, nothing else is written."""
        if not self._is_node:
            return
        unsure = self._unsure | {begun.number for begun in (self._in_doubt.begun if self._in_doubt else ())}
        known = Known(self.licence.node, self._last_batch, self._unended, unsure, self._unheard)
        again = await look_after_break(run, known, self._written)
        if again:  # none if it had lost only saves, which don't wait for the disk
            logger.warning("log.written_again", batches=again, why="PostgreSQL has lost its last moments")
            if self._told is not None:
                self._told.batches_written_again(again)
        self.licence.breaks += 1
        self._when_back()

    async def _write_again(self, rows: Rows) -> list[Any]:
        return await self._uncertainly(self._writer.within(lambda run: write_again(run, self.licence.node, rows)))

    # -- asking ---------------------------------------------------------------------------------------------------

    def _require(self, rows: Iterable[Any]) -> None:
        """Raises `Fenced` if a write returned no rows: it did not find this node's licence, and wrote nothing."""
        if not rows:
            raise Fenced(FENCED)

    async def _read(self, sql: str, *parameters: Any) -> list[Any]:
        """Goes on if its caller is cancelled, because to break the connection would hold up all other readers."""
        return await outlived(asyncio.ensure_future(self._ask(self._reader, sql, *parameters)), expected=JournalError)

    async def _write(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        return await self._uncertainly(self._writer.run(sql, parameters))

    async def _uncertainly(self, work: Awaitable[list[Any]]) -> list[Any]:
        """Raises `Uncertain` if the write may have been done, or may work when it is tried again."""
        try:
            return await work
        except (NoReply, Error) as error:
            if is_outage(error):
                raise Uncertain(sentence(error)) from error
            raise

    async def _ask(self, link: Link, sql: str, *parameters: Any) -> list[Any]:
        """Runs a statement that may safely be run twice."""
        return await translated(link.run(sql, parameters))

    async def _within(self, link: Link, work: Callable[[Execute], Awaitable[T]]) -> T:
        return await translated(link.within(work))

    def __repr__(self) -> str:
        return f"PostgresJournal(node {self.licence.node})"
