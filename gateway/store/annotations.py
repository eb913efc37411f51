"""Annotations: what users add to what was said, a conversation's title and feedback on an answer."""

from collections.abc import Callable

from gateway.ids import ConversationId, TurnId
from gateway.store.rows import Feedback
from gateway.store.writer import StoreWriter


class Annotations:
    """Each is durable when its method returns. Raises `storage_unavailable`, and it is then written as soon as
    possible. One for what does not exist (any more) changes nothing."""

    def __init__(self, writer: StoreWriter, require_open: Callable[[], None]) -> None:
        self._writer = writer
        self._require_open = require_open

    async def rename(self, conversation_id: ConversationId, title: str | None) -> None:
        """Gives a conversation a title, or takes it away."""
        self._require_open()
        self._writer.queued.rename(conversation_id, title)
        await self._written()

    async def rate(self, turn_id: TurnId, feedback: Feedback) -> None:
        """Keeps what a user thinks of a turn's answer."""
        self._require_open()
        self._writer.queued.rate(turn_id, feedback)
        await self._written()

    async def _written(self) -> None:
        self._writer.wake()
        await self._writer.settled()
