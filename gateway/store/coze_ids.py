"""Coze's ids: finds the turns and conversations that have them. Rows that wait to be written are not found."""

from gateway.postgres.text import storable
from gateway.store.inventory import CONVERSATION, TURN
from gateway.store.reader import StoreReader
from gateway.store.rows import ConversationRow, TurnRow
from gateway.store.schema import conversations, turns

_MOST = 100
"""How many conversations of the gateway's may go by one name; nearly always it is one for each caller."""


class CozeIds:
    """Looks up by Coze's ids, which may be any text. Methods raise `storage_unavailable`."""

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader

    async def conversations_named(self, name: str) -> list[ConversationRow]:
        """The conversations whose turns went to this conversation at Coze, newest first."""
        named, name = conversations.c.coze_conversation_id, storable("coze_conversation_id", name)
        # The second condition lets SQLite use the index.
        found = CONVERSATION.where(named == name, named != "").order_by(conversations.c.created_at.desc()).limit(_MOST)
        return [ConversationRow(*row) for row in await self._reader.rows(found)]

    async def turns_of_chat(self, name: str, chat_id: str) -> list[TurnRow]:
        """The turns that are this chat in this conversation at Coze; at most one for each caller."""
        ids = [row.id for row in await self.conversations_named(name)]
        is_chat = turns.c.coze_chat_id == storable("coze_chat_id", chat_id)
        found = TURN.where(turns.c.conversation_id.in_(ids), is_chat)
        return [TurnRow(*row) for row in await self._reader.rows(found)] if ids else []
