"""Deleting from the command line: conversations of a data folder that no gateway is using."""

import time
from contextlib import AsyncExitStack

from adapters import storage
from gateway.config.settings import Settings
from gateway.errors import Code, GatewayError
from gateway.ids import ConversationId, LogKey
from gateway.log.log import EventLog
from gateway.log.stretch import Stretch
from gateway.store.store import Store
from gateway.telemetry.ledger import Ledger
from gateway.turns.orders import read_note
from gateway.turns.projection import begun, ended


async def delete(
    settings: Settings, *, conversation_id: str | None = None, user_id: str | None = None, shop_id: str | None = None
) -> list[ConversationId]:
    """Deletes one conversation, or all conversations of a user (in one shop, or with None in all shops), completely.

    Returns the ids of what was deleted. Raises `storage_unavailable`, also while a gateway runs on this data folder.
    """
    if missing := [file for file in storage.files(settings) if not file.exists()]:
        raise GatewayError(Code.STORAGE_UNAVAILABLE, f"there is no {missing[0]}: is GATEWAY_DATA_DIR right?")
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        stack.enter_context(storage.held(settings))
        log = EventLog(
            storage.journal(settings, ledger),
            ledger=ledger,
            retention=settings.retention_seconds,
            clock=time.time,
        )
        running = await storage.opened(log)
        stack.push_async_callback(log.close)
        store = await Store.open(storage.database(settings), ledger=ledger)
        stack.push_async_callback(store.close)
        for stretch in [*running, *log.keeper.ended()]:
            if stretch.turn:  # the process that wrote it may have been killed before it told the store
                _tell(store, stretch)
        await store.settled()
        if user_id is not None:
            found = await store.inventory.conversations_of(user_id, shop_id)
        else:
            row = await store.conversation(conversation_id or "")
            found = [row.id] if row is not None else []
        for one in found:
            await log.keeper.erase([LogKey(one), *map(LogKey, await store.inventory.turns_of(one))])
            await store.erase(one)
        return found


def _tell(store: Store, stretch: Stretch) -> None:
    note = read_note(stretch.state)
    store.begin(begun(stretch.turn, note))
    if note.coze_conversation_id or note.naming:
        store.name(ConversationId(note.conversation_id), note.coze_conversation_id, note.naming or 1)
    if stretch.ended is not None and stretch.last >= stretch.first:
        store.update(ended(stretch, note, time.time()))
