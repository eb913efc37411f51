"""Erasure: deletes a conversation, with everything that the log and the store hold of it."""

from collections.abc import Sequence

from gateway.ids import ConversationId, LogKey
from gateway.log.log import EventLog
from gateway.store.store import Store
from gateway.turns.readers import Readers
from gateway.turns.runner import Runner
from gateway.waiting import outlived


class Erasure:
    """Deletes conversations while turns run and readers listen.

    Two things remain: the first characters of its turns in a shop's notifications, until their retention is over, and
    whatever Coze itself keeps.
    """

    def __init__(self, runner: Runner, *, log: EventLog, store: Store, readers: Readers) -> None:
        self._runner = runner
        self._log = log
        self._store = store
        self._readers = readers

    async def erase(self, conversation_id: ConversationId) -> None:
        """Cancels running turns, deletes everything, and sends the readers away. When it returns, that is durable.

        Raises `storage_unavailable`; part of it may then be gone, and calling it again deletes the rest. If the caller
        is cancelled, the erasure goes on by itself.
        """
        await outlived(self._runner.track(self._erase(conversation_id)))

    async def _erase(self, conversation_id: ConversationId) -> None:
        """Erases the log first: the next start would write turns that are still in the log into the store again."""
        async with self._runner.gate(conversation_id):
            ours = self._runner.end_all(conversation_id)
            await self._log.committed()
            await self._store.settled()
            keys = [LogKey(conversation_id), *map(LogKey, await self._store.inventory.turns_of(conversation_id))]
            self._send_away(keys)
            await self._log.keeper.erase(keys)
            for live in ours:
                self._runner.disown(live)
            await self._store.erase(conversation_id)
            self._send_away(keys)  # readers that came in the meantime

    def _send_away(self, keys: Sequence[LogKey]) -> None:
        for key in keys:
            if (tail := self._log.shelf.loaded(key)) is not None:
                self._readers.dismiss(tail)
