"""Feedback: what a user thinks of an answer. The store keeps it, and Coze is told of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakValueDictionary

from gateway.errors import Code, GatewayError, UpstreamError, no_such
from gateway.status import ENDED
from gateway.store.rows import Feedback, TurnRow, TurnUpdate
from gateway.store.store import Store
from gateway.telemetry.observer import TurnIds
from gateway.turns.context import Means
from gateway.turns.finding import Finding
from gateway.upstream.protocol import Answer, ChatRef

_TELL_WITHIN: Final = 10.0
"""Seconds within which Coze is told."""

Owns = Callable[[str, str | None], bool]


class Feedbacks:
    """Takes feedback. Of several for one turn the last one holds, here and at Coze."""

    def __init__(
        self,
        means: Means,
        *,
        store: Store,
        finding: Finding,
        state: Callable[[str], Awaitable[TurnRow | TurnUpdate]],
    ) -> None:
        """`state` is for a turn that has just ended, of which the store may not know yet."""
        self._means = means
        self._store = store
        self._finding = finding
        self._state = state
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def give(self, turn_id: str, feedback: Feedback, *, owns: Owns) -> bool:
        """Keeps the feedback, durably, and tells Coze. Returns whether Coze has taken it, which nothing depends on.

        Raises `not_found`, `storage_unavailable`, or `invalid_request` for a turn that is not over.
        """
        row = await self._finding.turn(turn_id)
        if row is None or not owns(row.user_id, row.shop_id):
            raise no_such(row)
        ended: TurnRow | TurnUpdate = row if row.status in ENDED else await self._state(turn_id)
        if ended.status not in ENDED:
            raise GatewayError(Code.INVALID_REQUEST, "the turn is not over")
        lock = self._locks.setdefault(turn_id, asyncio.Lock())
        async with lock:
            await self._store.annotations.rate(row.turn_id, feedback)
            if not ended.coze_chat_id:
                return False
            return await self._tell(row, ChatRef(ended.coze_chat_id, ended.coze_conversation_id), feedback)

    async def _tell(self, row: TurnRow, ref: ChatRef, feedback: Feedback) -> bool:
        """Coze takes feedback on a message, and tells the messages of a chat only when it is asked for them."""
        upstreams = self._means.upstream
        try:
            async with asyncio.timeout(_TELL_WITHIN):
                said = await upstreams.on_behalf_of(row.user_id, row.shop_id).messages(ref)
                answers = [item.message_id for item in said if isinstance(item, Answer)]
                if not answers or not answers[-1]:
                    raise UpstreamError(Code.UPSTREAM_REJECTED, "Coze's record of the chat has no answer")
                upstream = upstreams.on_behalf_of(row.user_id, row.shop_id)
                await upstream.feedback(ref.conversation_id, answers[-1], feedback.kind, feedback.comment)
        except (TimeoutError, GatewayError) as error:
            ids = TurnIds(row.turn_id, row.conversation_id, "")
            self._means.observer.turn_troubled(ids, "feedback_not_heard", error)
            return False
        return True

    def __repr__(self) -> str:
        return f"Feedbacks({len(self._locks)} under way)"
