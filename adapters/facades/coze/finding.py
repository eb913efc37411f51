"""Finding: which turn and which conversation of the gateway's are meant by Coze's ids."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from aiohttp import web

from gateway.ids import ConversationId, TurnId
from gateway.store.store import Store

_MOST = 10_000
"""How many chats are remembered, about 5 MB. Older ones are looked up in the database."""

_Owner = tuple[str, str | None]
"""A user and a shop."""

Owns = Callable[[str, str | None], bool]


class KnownChats:
    """Remembers the newest chats, so that most questions need no look-up. A chat is found for its owner alone;
    under the same ids Coze may have one of another caller's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turns: OrderedDict[tuple[str, str], tuple[TurnId, _Owner]] = OrderedDict()
        self._conversations: OrderedDict[tuple[str, _Owner], ConversationId] = OrderedDict()

    def learn(
        self, chat: tuple[str, str], turn_id: TurnId, conversation: ConversationId, user: str, shop: str | None
    ) -> None:
        """`chat` are Coze's ids of the conversation and of the chat, `user` and `shop` their owner."""
        _keep(self._turns, chat, (turn_id, (user, shop)))
        _keep(self._conversations, (chat[0], (user, shop)), conversation)

    async def turn(self, chat: tuple[str, str], owns: Owns) -> TurnId | None:
        """The turn of a chat, if it is the caller's."""
        if (known := self._turns.get(chat)) is not None and owns(*known[1]):
            return known[0]
        for found in await self._store.coze.turns_of_chat(*chat):
            if owns(found.user_id, found.shop_id):
                return found.turn_id
        return None

    async def conversation(self, name: str, user: str, shop: str | None, owns: Owns) -> ConversationId | None:
        """The newest of the gateway's conversations whose turns of this owner went to the conversation at Coze. Without
        a shop it may be of any shop of the caller's."""
        if (known := self._conversations.get((name, (user, shop)))) is not None and owns(user, shop):
            return known
        for found in await self._store.coze.conversations_named(name):
            if found.user_id == user and shop in (None, found.shop_id) and owns(found.user_id, found.shop_id):
                return found.id
        return None

    def forget(self, name: str, user: str, shop: str | None) -> None:
        """That conversation does not exist any more."""
        self._conversations.pop((name, (user, shop)), None)


KNOWN = web.AppKey("coze_chats", KnownChats)


def _keep(kept: "OrderedDict[Any, Any]", key: Any, value: Any) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _MOST:
        kept.popitem(last=False)
