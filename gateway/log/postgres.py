"""The journal in PostgreSQL. Several nodes write it, each its own batches."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol, TypeVar

import msgspec
from psycopg import Error

from gateway.log.burial import COLUMNS, HEAD, stretch_of
from gateway.log.journal import BEGIN, END, EPOCHS, Fenced, Index, JournalError, Place, Record, Recovered, Uncertain
from gateway.log.licence import LEASE, Licence, translated
from gateway.log.packing import pack
from gateway.log.stretch import Stretch
from gateway.postgres.address import conninfo
from gateway.postgres.failures import NoReply, is_outage, sentence
from gateway.postgres.line import Line, Run
from gateway.telemetry.ledger import Ledger

T = TypeVar("T")

_TRIM_AT_ONCE = 500
_NUMBERS = 32  # low bits of a stretch's number, which its node counts; the bits above are the node's number

_LICENCE = "SELECT id FROM log_nodes WHERE id = %s FOR SHARE"
_LIVES = f"lives AS ({_LICENCE})"
_BATCH = (
    f"WITH {_LIVES}, batch AS (INSERT INTO log_batches (node, number, body) SELECT id, %s, %s FROM lives"
    " ON CONFLICT DO NOTHING)"
)
_COMMIT = f"{_BATCH} SELECT id FROM lives"
_COMMIT_MORE = (
    f"{_BATCH}, begun AS (INSERT INTO log_stretches"
    " (node, batch, number, key, home, epochs, first, last, turn, state, mark)"
    " SELECT id, %s, number, key, home, epochs, first, first - 1, turn, state, mark FROM lives,"
    " unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::bytea[], %s::text[])"
    " AS begins (number, key, home, epochs, first, turn, state, mark) ON CONFLICT DO NOTHING),"
    " heads AS (INSERT INTO log_heads AS h (key, epochs, head, node)"
    " SELECT key, epochs, head, CASE WHEN held THEN id END FROM lives,"
    " unnest(%s::text[], %s::text[], %s::bigint[], %s::bool[]) AS changed (key, epochs, head, held)"
    " ON CONFLICT (key) DO UPDATE SET epochs = excluded.epochs, head = greatest(h.head, excluded.head),"
    " node = coalesce(excluded.node, h.node))"
    " SELECT id FROM lives"
)
_SAVE = (
    f"WITH {_LIVES} UPDATE log_stretches SET epochs = %s, last = %s, state = %s, body = %s, batch = %s, ended = %s,"
    " kept = %s, kept_at = CASE WHEN %s THEN now() END, node = CASE WHEN %s THEN NULL ELSE node END"
    " WHERE number = %s AND node = (SELECT id FROM lives) RETURNING number"
)
_FENCED = "another node has taken over this one's turns"

_encode = msgspec.msgpack.Encoder().encode


class Watch(Protocol):
    """Tells the other nodes of a commit."""

    def committed(self, node: int, number: int, begun: Sequence[str]) -> None:
        """A node's batch is durable. `begun` are the keys of the logs in which it begins a stretch."""


class PostgresJournal:
    """Each process that opens the journal is a node, with a number that is used only once, and batches of its own.

    A node's row in `log_nodes` is its licence: the statement that inserts a batch does so only if it finds the row. To
    bury a node, another one deletes the row, which waits for a batch that is under way. From then on the node is
    `Fenced`. The unsaved stretches of a buried node have no node until one adopts them. A node that
    only `visits`, as a command does, adopts them only if no other node lives.
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
        committed: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._watch = watch
        self._visits = visits
        self._committed = committed
        self._writer = Line(conninfo(url), ledger)
        self._reader = Line(conninfo(url), ledger)
        self.licence = Licence(self._writer, name=name, lease=lease)
        self._last_batch = 0
        self._unheard = False  # whether the reply to an adoption was lost
        self._unended: dict[int, tuple[str, str]] = {}  # key and epochs of this node's running stretches

    async def open(self) -> Recovered:
        """Becomes a new node. Buries this process's earlier node and all dead ones, and adopts their stretches."""
        await self.licence.give_back()
        made = await self.licence.take()
        self._last_batch = 0
        self._unended.clear()
        self._unheard = False
        await self.licence.bury_the_dead()
        return Recovered(await self.adopt(), (self.licence.node << _NUMBERS) + 1, made)

    async def adopt(self) -> list[Stretch]:
        """Adopts stretches that have no node. Returns them in the order in which they began."""
        if self._visits and await self.licence.renew() > 1:
            return []
        known, self._unheard = (self._unended if self._unheard else None), True
        stretches = await self.licence.adopt(self._last_batch, known)
        self._unheard = False
        for s in stretches:
            if s.ended is not None:
                s.unsaved_from = self._last_batch + 1  # so that it is saved again, and retention can remove it
        self._unended.update((s.number, (s.key, s.epochs)) for s in stretches)
        return stretches

    async def commit(self, number: int, batch: list[Record]) -> None:
        began = monotonic()
        begun, heads = self._changes(batch)
        data = _encode(batch)
        if not heads:
            found = await self._write(_COMMIT, self.licence.node, number, data)
        else:
            columns = [list(column) for column in zip(*begun, strict=True)] or [[]] * 8
            changed = [[key, *values] for key, values in heads.items()]
            more = [list(column) for column in zip(*changed, strict=True)]
            found = await self._write(_COMMIT_MORE, self.licence.node, number, data, number - 1, *columns, *more)
        self._require(found)
        self._last_batch = number
        self._committed(monotonic() - began)
        if self._watch is not None:
            self._watch.committed(self.licence.node, number, [row[1] for row in begun])

    def _changes(self, batch: list[Record]) -> tuple[list[tuple[Any, ...]], dict[str, tuple[str, int, bool]]]:
        """The stretches that begin, and by key the epochs and head of each log in which a stretch begins or ends."""
        begun: list[tuple[Any, ...]] = []
        heads: dict[str, tuple[str, int, bool]] = {}
        for number, kind, sequence, payload in batch:
            if kind == BEGIN:
                key, epochs, turn, state, mark, home = payload
                begun.append((number, key, home, epochs, sequence, turn, state, mark))
                heads[key] = epochs, sequence - 1, key == home  # a waiting turn's own log is not claimed
                self._unended[number] = key, epochs
            elif kind == EPOCHS:
                self._unended[number] = self._unended[number][0], payload
            elif kind == END and number in self._unended:
                key, epochs = self._unended[number]
                heads[key] = epochs, sequence, key in heads and heads[key][2]
        return begun, heads

    async def holds(self, number: int) -> bool:
        sql = "SELECT 1 FROM log_batches WHERE node = %s AND number = %s"
        return bool(await self._ask(self._writer, sql, self.licence.node, number))

    async def save(self, stretches: list[Stretch]) -> None:
        async def save(run: Run) -> None:
            for s in stretches:
                over = s.ended is not None
                values = (s.epochs, s.last, s.state, pack(s), self._last_batch, s.ended, over, over, over, s.number)
                if await run(_SAVE, (self.licence.node, *values)):
                    await run(HEAD, (s.key, s.epochs, s.last))
                elif not await run(f"WITH {_LIVES} SELECT id FROM lives", (self.licence.node,)):
                    raise Fenced(_FENCED)  # with a licence: another node has erased the stretch

        await self._within(self._writer, save)
        for s in stretches:
            if s.ended is not None:
                self._unended.pop(s.number, None)

    async def forget(self, *, before: int) -> None:
        await self._write("DELETE FROM log_batches WHERE node = %s AND number < %s", self.licence.node, before)

    async def index(self, key: str) -> Index | None:
        heads = await self._read("SELECT epochs, head FROM log_heads WHERE key = %s AND epochs <> ''", key)
        rows = await self._read(
            "SELECT first, last, number, turn FROM log_stretches WHERE key = %s ORDER BY first", key
        )
        return Index(heads[0][0], heads[0][1], [Place(*row) for row in rows]) if heads else None

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
            return stretch_of(rows[0]) if rows else None
        except (msgspec.MsgspecError, ValueError) as error:
            raise JournalError(f"a stored answer is damaged: {error}") from error

    async def trim(self, *, before: float, now: float) -> list[str]:
        """A time in the future was written when the database's clock was ahead, and is set to now."""
        await self._ask(self._writer, "UPDATE log_stretches SET kept_at = now() WHERE kept_at > now()")
        sql = (
            "DELETE FROM log_stretches WHERE number IN (SELECT number FROM log_stretches WHERE"
            " kept_at < now() - make_interval(secs => %s) LIMIT %s) RETURNING key"
        )
        return [row[0] for row in await self._ask(self._writer, sql, now - before, _TRIM_AT_ONCE)]

    async def erase(self, keys: Sequence[str], unsaved: Sequence[int]) -> None:
        """Needs the licence: a buried node must not erase a log that another node, which adopted it, writes now."""

        async def erase(run: Run) -> None:
            self._require(await run(_LICENCE, (self.licence.node,)))
            gone = (list(keys), list(unsaved))
            await run("DELETE FROM log_stretches WHERE key = ANY(%s) OR number = ANY(%s)", gone)
            await run("DELETE FROM log_heads WHERE key = ANY(%s) AND node IS NULL", gone[:1])
            await run("UPDATE log_heads SET epochs = '', head = 0 WHERE key = ANY(%s)", gone[:1])  # keeps the claim

        await self._within(self._writer, erase)

    async def tidy(self) -> None:
        """PostgreSQL vacuums by itself."""

    async def probe(self) -> None:
        if not await self.licence.renew():
            raise Fenced(_FENCED)

    async def close(self) -> None:
        """Gives the licence back, so that other nodes can adopt what is left at once."""
        with suppress(JournalError):  # without PostgreSQL they adopt it once this node has been silent for too long
            await self.licence.give_back()
        await self._writer.close()
        await self._reader.close()

    # -- asking ---------------------------------------------------------------------------------------------------

    def _require(self, rows: Iterable[Any]) -> None:
        """Raises `Fenced` if a write returned no rows: it did not find this node's licence, and wrote nothing."""
        if not rows:
            raise Fenced(_FENCED)

    async def _read(self, sql: str, *parameters: Any) -> list[Any]:
        return await self._ask(self._reader, sql, *parameters)

    async def _write(self, sql: str, *parameters: Any) -> list[Any]:
        """Raises `Uncertain` if the write may have been done, or may work when it is tried again."""
        try:
            return await self._writer.run(sql, parameters)
        except (NoReply, Error) as error:
            if is_outage(error):
                raise Uncertain(sentence(error)) from error
            raise

    async def _ask(self, line: Line, sql: str, *parameters: Any) -> list[Any]:
        """Runs a statement that may safely be run twice."""
        return await translated(line.run(sql, parameters))

    async def _within(self, line: Line, work: Callable[[Run], Awaitable[T]]) -> T:
        return await translated(line.within(work))

    def __repr__(self) -> str:
        return f"PostgresJournal(node {self.licence.node})"
