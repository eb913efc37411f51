"""The messages of a conversation, a page at a time."""

from bisect import bisect_right
from itertools import accumulate
from typing import Any

from msgspec.structs import replace
from sqlalchemy import ColumnElement, and_, func, or_, select

from gateway.errors import Code, GatewayError
from gateway.postgres.text import storable
from gateway.store.reader import StoreReader
from gateway.store.rows import Feedback, MessageRow
from gateway.store.schema import messages, turns

_FIELDS = [name for name in MessageRow.__struct_fields__ if name != "feedback"]
# With a join SQLite would make the whole view first.
_OPINION = [
    select(column).where(turns.c.id == messages.c.turn_id).scalar_subquery().label(column.name)
    for column in (turns.c.feedback, turns.c.feedback_comment)
]
_MESSAGE = select(*(messages.c[name] for name in _FIELDS), *_OPINION)


class Transcript:
    """Raises `storage_unavailable` when the database can't be read."""

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader

    async def page(
        self, conversation_id: str, *, before: str | None, limit: int, most: int
    ) -> tuple[list[MessageRow], bool]:
        """See `Store.messages`."""
        of_conversation = turns.c.conversation_id == conversation_id
        # Each turn has a message, so the newest turns contain the page. In one query, SQLite would sort all messages.
        near = select(turns.c.ordinal).where(of_conversation).order_by(turns.c.ordinal.desc()).limit(limit + 2)
        page = _MESSAGE.where(messages.c.conversation_id == conversation_id)
        if before is not None:
            ordinal, role = await self._place(of_conversation, before)
            near = near.where(turns.c.ordinal <= ordinal)
            same = and_(messages.c.ordinal == ordinal, messages.c.role > role)
            page = page.where(or_(messages.c.ordinal < ordinal, same))
        if not (ordinals := await self._reader.rows(near)):
            return [], False
        page = page.where(messages.c.ordinal >= ordinals[-1][0])
        page = page.order_by(messages.c.ordinal.desc(), messages.c.role)
        if most:
            sizes = await self._reader.rows(page.with_only_columns(func.length(messages.c.content)).limit(limit))
            limit = max(1, bisect_right(list(accumulate(size for (size,) in sizes)), most))
        rows = await self._reader.rows(page.limit(limit + 1))
        return [_message(*row) for row in rows[:limit]][::-1], len(rows) > limit

    async def _place(self, of_conversation: ColumnElement[bool], message_id: str) -> tuple[int, str]:
        turn_id, _, role = message_id.rpartition(".")
        place = select(turns.c.ordinal).where(turns.c.id == storable("id", turn_id), of_conversation)
        rows = await self._reader.rows(place) if role in {"user", "assistant"} else []
        if not rows:
            raise GatewayError(Code.INVALID_REQUEST, f"before: no message {message_id[:80]!r} in this conversation")
        return rows[0][0], role


def _message(*values: Any) -> MessageRow:
    *fields, kind, comment = values
    found = MessageRow(*fields)
    if kind is None or found.role == "user":
        return found
    return replace(found, feedback=Feedback(kind, comment or ""))
