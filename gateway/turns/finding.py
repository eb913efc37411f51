"""Finding: the store's rows of turns and conversations, also when the log knows of one before the store does."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.errors import Code, GatewayError, no_such
from gateway.ids import LogKey
from gateway.log.journal import JournalError
from gateway.log.log import EventLog
from gateway.store.rows import ConversationRow, TurnRow
from gateway.store.store import Store
from gateway.turns.asking import until_taken_over
from gateway.turns.others import Others

T = TypeVar("T")


class Finding:
    """A turn's row may come later than its beginning in the log: if the log is not in PostgreSQL, or if PostgreSQL has
    refused the row. If a node dies between the two, the node that goes on with the turn tells the store, and a caller
    that asks for the row meanwhile waits. Methods raise `storage_unavailable`."""

    def __init__(self, store: Store, log: EventLog, others: Others) -> None:
        self._store = store
        self._log = log
        self._others = others

    async def turn(self, turn_id: str) -> TurnRow | None:
        """A turn's row, without its texts."""

        async def in_log() -> bool:
            return await self.key_of(turn_id) is not None

        return await self._found(lambda: self._store.turn(turn_id, texts=False), in_log)

    async def conversation(self, conversation_id: str) -> ConversationRow | None:
        async def in_log() -> bool:
            if conversation_id in self._log.shelf.gone:
                return False
            try:
                tail = await self._log.shelf.tail(LogKey(conversation_id))
            except JournalError as error:
                raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error
            self._log.shelf.drop(tail, None)
            return bool(tail.spans)

        return await self._found(lambda: self._store.conversation(conversation_id), in_log)

    async def conversation_of(
        self, conversation_id: str, *, owns: Callable[[str, str | None], bool]
    ) -> ConversationRow:
        """A conversation of the caller's. Raises `not_found`, also for one that belongs to somebody else."""
        row = await self.conversation(conversation_id)
        if row is None or not owns(row.user_id, row.shop_id):
            raise no_such(row)
        return row

    async def key_of(self, turn_id: str) -> LogKey | None:
        """The log that has a turn's events, None if none has."""
        try:
            tail = await self._log.shelf.find(turn_id)
        except JournalError as error:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error
        if tail is None:
            return None
        self._log.shelf.drop(tail, None)
        return tail.key

    async def _found(self, read: Callable[[], Awaitable[T | None]], in_log: Callable[[], Awaitable[bool]]) -> T | None:
        row = await read()
        if row is not None or not self._others.any:
            return row

        async def attempt() -> tuple[T | None] | None:
            known = await in_log()  # before the store is read: a row that is told is not taken back
            row = await read()
            return None if known and row is None else (row,)

        return (await until_taken_over(attempt))[0]
