"""The store: conversations, turns and messages, a projection of the event log."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from sqlalchemy import Select, and_, literal, select
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.errors import Code, GatewayError
from gateway.ids import ConversationId, TurnId
from gateway.store.annotations import Annotations
from gateway.store.coze_ids import CozeIds
from gateway.store.database import open_database
from gateway.store.inventory import CONVERSATION, TURN, Inventory
from gateway.store.listing import Listing
from gateway.store.reader import StoreReader, Values
from gateway.store.rows import Asked, ConversationRow, MessageRow, TurnBegun, TurnRow, TurnUpdate
from gateway.store.schema import conversations, turns
from gateway.store.transcript import Transcript
from gateway.store.writer import CLOSE_SECONDS, StoreWriter
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.waiting import outlived

_TURN_WITHOUT_TEXTS = TURN.with_only_columns(
    *(literal("").label(c.name) if c.name in ("message", "content", "reasoning") else c for c in TURN.selected_columns)
)
_MOST_ASKED = 1000  # how many turns of one user with one body are looked at

_ASKED_AT_ONCE = 500

T = TypeVar("T")


class _Waiting(Protocol[T]):
    """The writes that are queued for a row."""

    @property
    def begun(self) -> TurnBegun | None: ...

    def over(self, row: T | None, /) -> T | None: ...


class Store:
    """Writes are queued and never awaited; each may be repeated after a crash. Reads see queued writes, too.

    Reads raise `storage_unavailable` when the database can't be read. A caller that is cancelled in a read leaves it to
    end by itself, so that no connection is lost.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        ledger: Ledger,
        on_ended: Callable[[TurnId], None] = lambda _: None,
        faults: Faults | None = None,
    ) -> None:
        self._engine = engine
        self._held = ledger.open("store", "gateway.store")
        self._writer = StoreWriter(engine, ledger, on_ended, faults or Faults())
        self._reader = StoreReader(engine)
        self.inventory = Inventory(self._reader)
        self.listing = Listing(self._reader, self._settle, self._is_erased)
        self.annotations = Annotations(self._writer, self._require_open)
        self._transcript = Transcript(self._reader)
        self.coze = CozeIds(self._reader)
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        url: str | URL,
        *,
        ledger: Ledger,
        on_ended: Callable[[TurnId], None] = lambda _: None,
        faults: Faults | None = None,
    ) -> "Store":
        """Opens the database that `url` names and brings its tables up to date; the folder of a file must exist.

        `on_ended` is called for each turn whose end is written for good, or will never be.

        Raises `GatewayError` (`storage_unavailable`) with a sentence for the operator. A caller that is cancelled waits
        until the opening has ended, a few seconds at most, and nothing stays open.
        """
        opening = asyncio.create_task(open_database(url), name="store-open")
        try:
            engine = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # If it were cancelled in the middle, the driver would leave a connection behind, with its lock on the file.
            await asyncio.wait([opening])
            if not opening.cancelled() and opening.exception() is None:
                await opening.result().dispose()
            raise
        return cls(engine, ledger, on_ended, faults)

    def __repr__(self) -> str:
        return f"Store({self._writer!r}, {self._reader!r}, closed={self._closing is not None})"

    def begin(self, turn: TurnBegun) -> None:
        """A turn begins, and so does its conversation if it is new. A known turn or conversation does not change."""
        self._require_open()
        self._writer.queued.begin(turn)
        self._writer.wake()

    def update(self, update: TurnUpdate) -> None:
        """A turn's newest state. It is ignored if the turn never began; an ended turn never runs again."""
        self._require_open()
        self._writer.queued.update(update)
        self._writer.wake()

    def name(self, conversation_id: ConversationId, coze_conversation_id: str, naming: int) -> None:
        """The name of a conversation at Coze. `naming` counts the names: an older one never replaces a newer one."""
        self._require_open()
        self._writer.queued.name(conversation_id, coze_conversation_id, naming)
        self._writer.wake()

    async def erase(self, conversation_id: ConversationId) -> None:
        """Drops a conversation with its turns and messages. That is durable when this returns; from the call on,
        nothing of it is found. Raises `storage_unavailable` if it can't be written now; it is written as soon as
        possible."""
        self._require_open()
        self._writer.queued.erase(conversation_id)
        self._writer.wake()
        await self._writer.settled()

    def look_after_break(self, *, write_again: bool = True) -> None:
        """The database may have lost what was written last: looks, and writes it once more, unless other nodes may have
        changed it since."""
        if write_again:
            self._writer.look_after_break()
        else:
            self._writer.forget_written()

    def erased_elsewhere(self, conversation_id: ConversationId) -> None:
        """Another node has erased a conversation: nothing brings it back."""
        self._writer.erased_elsewhere(conversation_id)

    async def settled(self) -> None:
        """Returns when everything queued before the call is durable.

        Raises `storage_unavailable` if it can't be written now; it stays queued.
        """
        self._require_open()
        await self._writer.settled()

    @property
    def trouble(self) -> str | None:
        """Why the database can't be written, in one sentence without paths; None if it can, as far as is known."""
        return self._writer.trouble

    async def probe(self) -> None:
        """Tries to write, even if nothing is queued; afterwards `trouble` tells the result."""
        self._require_open()
        with suppress(GatewayError):
            await self._writer.touch()

    async def conversation(self, conversation_id: str) -> ConversationRow | None:
        key = ConversationId(conversation_id)
        waiting = [b.conversations.get(key) for b in (self._writer.writing, self._writer.queued)]
        row = await self._one(CONVERSATION.where(conversations.c.id == key), ConversationRow, waiting)
        return None if row is None or self._is_erased(row.id) else row

    async def turn(self, turn_id: str, *, texts: bool = True) -> TurnRow | None:
        """A turn. Without `texts`, the question and the answer, which may be megabytes, may be left out."""
        key = TurnId(turn_id)
        waiting = [b.turns.get(key) for b in (self._writer.writing, self._writer.queued)]
        selected = TURN if texts else _TURN_WITHOUT_TEXTS
        row = await self._one(selected.where(turns.c.id == key), TurnRow, waiting)
        return None if row is None or self._is_erased(row.conversation_id) else row

    def _is_erased(self, conversation_id: ConversationId) -> bool:
        return any(conversation_id in changes.erased for changes in (self._writer.writing, self._writer.queued))

    async def asked(self, digest: str) -> list[Asked]:
        """The newest turns that were started with a certain body by a certain user, oldest first."""
        waiting = [found for b in (self._writer.writing, self._writer.queued) for found in b.asked(digest)]
        of_body = and_(turns.c.digest == digest, turns.c.digest != "")  # the second lets SQLite use the index
        columns = (turns.c.id, turns.c.conversation_id, turns.c.position)
        rows = await self._rows(select(*columns).where(of_body).order_by(turns.c.ordinal.desc()).limit(_MOST_ASKED))
        found = {row[0]: Asked(*row) for row in reversed(rows)}
        return list((found | {turn.turn_id: turn for turn in waiting if turn.turn_id not in found}).values())

    async def missing(self, turn_ids: Sequence[str]) -> list[str]:
        """Those of the given turns that are neither in the database nor queued for it."""
        found: list[str] = []
        for at in range(0, len(turn_ids), _ASKED_AT_ONCE):
            asked = turn_ids[at : at + _ASKED_AT_ONCE]
            known = {row[0] for row in await self._rows(select(turns.c.id).where(turns.c.id.in_(asked)))}
            known |= {str(turn) for changes in (self._writer.writing, self._writer.queued) for turn in changes.turns}
            found += [turn for turn in asked if turn not in known]
        return found

    async def messages(
        self, conversation_id: str, *, before: str | None, limit: int, most: int = 0
    ) -> tuple[list[MessageRow], bool]:
        """The newest `limit` messages before the message `before`, newest last, and whether there are older ones.

        With `most`, fewer messages are returned if they would exceed that number of characters; a single one may be
        longer. Queued writes are committed first; if that fails, the result is what the database holds.
        """
        await self._settle()
        return await self._transcript.page(conversation_id, before=before, limit=limit, most=most)

    async def _settle(self) -> None:
        """Commits queued writes, if possible."""
        self._require_open()
        if self.trouble is None:
            with suppress(GatewayError):
                await self.settled()

    async def close(self) -> None:
        """Writes what is queued, within five seconds, and closes. Goes on if its caller is cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="store-close")
        await outlived(self._closing)

    async def _close(self) -> None:
        await self._writer.close()
        await self._reader.close(CLOSE_SECONDS)
        await self._engine.dispose()
        self._held.close()

    async def _one(
        self, statement: Select[Any], kind: Callable[..., T], waiting: Sequence[_Waiting[T] | None]
    ) -> T | None:
        """The row with its queued writes. Those are looked up first, so that a commit in between is not missed."""
        row = None
        try:
            if rows := await self._rows(statement):
                row = kind(*rows[0])
        except GatewayError:
            if not any(w is not None and w.begun is not None for w in waiting):
                raise
        for pending in waiting:
            row = row if pending is None else pending.over(row)
        return row

    async def _rows(self, statement: Select[Any]) -> list[Values]:
        self._require_open()
        return await self._reader.rows(statement)

    def _require_open(self) -> None:
        if self._closing is not None:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, "the store is closed")
