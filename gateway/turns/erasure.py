"""Erasure: a conversation is deleted, with all that the log and the store hold of it."""

from collections.abc import Sequence

from gateway.ids import ConversationId, LogKey
from gateway.log.log import EventLog
from gateway.store.store import Store
from gateway.turns.readers import Readers
from gateway.turns.runner import Runner
from gateway.waiting import outlived


class Erasure:
    """Deletes conversations while turns run and readers listen.

    What stays: the first characters of its turns in a shop's notifications, until retention takes them; and whatever
    Coze itself keeps.
    """

    def __init__(self, runner: Runner, *, log: EventLog, store: Store, readers: Readers) -> None:
        self._runner = runner
        self._log = log
        self._store = store
        self._readers = readers

    async def erase(self, conversation_id: ConversationId) -> None:
        """Cancels what runs, deletes all, and sends the readers away; for good when it returns.

        Raises `storage_unavailable`; then some of it may be gone, and doing it again does the rest. A caller that is
        cancelled leaves it to go on by itself.
        """
        await outlived(self._runner.track(self._erase(conversation_id)))

    async def _erase(self, conversation_id: ConversationId) -> None:
        """The log goes first: what is in it would be put into the store again by the next start."""
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
            self._send_away(keys)  # whoever came meanwhile

    def _send_away(self, keys: Sequence[LogKey]) -> None:
        for key in keys:
            if (tail := self._log.shelf.loaded(key)) is not None:
                self._readers.dismiss(tail)
