"""The list of a user's conversations, the newest first."""

from collections.abc import Awaitable, Callable, Collection
from typing import Final

from sqlalchemy import and_, func, or_, select

from gateway.ids import ConversationId
from gateway.postgres.text import storable
from gateway.store.reader import StoreReader
from gateway.store.rows import Listed
from gateway.store.schema import conversations, turns

TITLE: Final = 80
"""So many characters of its first message are a conversation's title until it gets another one."""

_OF_IT = turns.c.conversation_id == conversations.c.id
# Labelled like the column that it is cut from, so that the reader undoes what PostgreSQL can't store. That may have
# made two characters of each.
_FIRST = (
    select(func.substr(turns.c.message, 1, 2 * TITLE))
    .where(_OF_IT)
    .order_by(turns.c.ordinal)
    .limit(1)
    .scalar_subquery()
    .label("message")
)
_NEWEST = (
    select(turns.c.updated_at).where(_OF_IT).order_by(turns.c.ordinal.desc()).limit(1).scalar_subquery().label("newest")
)
_ENTRY = select(
    conversations.c.id,
    conversations.c.shop_id,
    conversations.c.bot_id,
    conversations.c.created_at,
    _NEWEST,
    conversations.c.title,
    _FIRST,
)


class Listing:
    """Pages of conversations. Raises `storage_unavailable` when the database can't be read. What is queued for it is
    written first, if it can be."""

    def __init__(
        self, reader: StoreReader, settle: Callable[[], Awaitable[None]], is_erased: Callable[[ConversationId], bool]
    ) -> None:
        self._reader = reader
        self._settle = settle
        self._is_erased = is_erased

    async def page(
        self, user_id: str, shops: Collection[str] | None, *, after: tuple[float, str] | None, limit: int
    ) -> tuple[list[Listed], tuple[float, str] | None]:
        """The user's `limit` newest conversations in some shops, or with None in all and in none, and the place after
        which the older ones come, if there are any. `after` is such a place: the time and the id of a conversation.
        Those that are being erased are left out, which may be all of a page."""
        await self._settle()
        created, name = conversations.c.created_at, conversations.c.id
        found = _ENTRY.where(conversations.c.user_id == storable("user_id", user_id))
        if shops is not None:
            found = found.where(conversations.c.shop_id.in_([storable("shop_id", shop) for shop in sorted(shops)]))
        if after is not None:
            time, last = after
            # The first condition is what the index is read by.
            found = found.where(created <= time, or_(created < time, and_(created == time, name < last)))
        rows = await self._reader.rows(found.order_by(created.desc(), name.desc()).limit(limit + 1))
        entries = [
            Listed(id, shop, bot, begun, begun if newest is None else newest, title or (first or "")[:TITLE])
            for id, shop, bot, begun, newest, title, first in rows[:limit]
            if not self._is_erased(id)
        ]
        oldest = rows[limit - 1] if len(rows) > limit else None
        return entries, None if oldest is None else (oldest[3], oldest[0])
