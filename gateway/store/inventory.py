"""The inventory: which turns and conversations the database holds, whatever is still queued for it."""

from sqlalchemy import func, select

from gateway.ids import ConversationId, TurnId
from gateway.status import ENDED
from gateway.store.reader import StoreReader
from gateway.store.rows import ConversationRow, TurnRow
from gateway.store.schema import conversations, turns

TURN = select(*(turns.c["id" if name == "turn_id" else name] for name in TurnRow.__struct_fields__))
"""A turn's columns, in the order of the row's fields."""

CONVERSATION = select(*(conversations.c[name] for name in ConversationRow.__struct_fields__))
"""A conversation's columns, likewise."""


class Inventory:
    """Lists for the start, and for deleting. Each raises `storage_unavailable` when the database can't be read."""

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader

    async def turns_of(self, conversation_id: str) -> list[TurnId]:
        """The turns of a conversation, in the order they began."""
        found = select(turns.c.id).where(turns.c.conversation_id == conversation_id).order_by(turns.c.ordinal)
        return [TurnId(row[0]) for row in await self._reader.rows(found)]

    async def conversations_of(self, user_id: str, shop_id: str | None) -> list[ConversationId]:
        """A user's conversations: those of one shop, or of all shops with None."""
        found = select(conversations.c.id).where(conversations.c.user_id == user_id)
        if shop_id is not None:
            found = found.where(conversations.c.shop_id == shop_id)
        return [ConversationId(row[0]) for row in await self._reader.rows(found.order_by(conversations.c.created_at))]

    async def unfinished(self) -> list[TurnRow]:
        """The turns that have not ended."""
        return [TurnRow(*row) for row in await self._reader.rows(TURN.where(turns.c.status.not_in(ENDED)))]

    async def newest(self) -> float:
        """When the newest turn began; 0 when there is no turn."""
        return float((await self._reader.rows(select(func.max(turns.c.created_at))))[0][0] or 0.0)
