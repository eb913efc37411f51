"""Recovering: after Coze's stream broke, or while the chat waits for tools, Coze's record tells how the answer
continues."""

import asyncio
from collections.abc import Sequence
from typing import Any

from gateway.errors import Code, TooMuch, UpstreamError
from gateway.events import Event, Message
from gateway.telemetry.words import Recovery
from gateway.turns.context import Context
from gateway.turns.pen import Pen
from gateway.turns.sending import Sending
from gateway.upstream.protocol import ChatRef, ChatState

POLL = 1.0
"""Seconds between two polls of a chat; Coze's documentation demands at least that."""

LATE_POLLS = 10
"""How many polls the record of a completed chat may lag behind the streamed text, or be empty."""

REFUSALS = 3
"""How often Coze may refuse to tell about a chat before the turn gives up."""

_HOW = {"completed": Recovery.COMPLETED, "cancelled": Recovery.CANCELLED, "failed": Recovery.FAILED}


class Recovering:
    """Asks for a chat's state and its messages, and waits for tool outputs."""

    def __init__(self, context: Context, pen: Pen, sending: Sending) -> None:
        self._context = context
        self._turn = context.turn
        self._pen = pen
        self._sending = sending
        self._over_at_coze = 0  # how often Coze has said that the chat is complete, or waits
        self._refused = 0

    async def recover(self) -> None:
        """Asks Coze for the chat's outcome, then for its messages, until they tell how the answer continues."""
        turn, loop = self._turn, asyncio.get_running_loop()
        ref = turn.ref
        assert ref is not None, turn
        self._over_at_coze = self._refused = 0
        self._context.course.recoveries += 1
        while turn.phase == "recovering":
            asked = loop.time()
            try:
                await self._ask(ref)
                if turn.phase != "recovering":
                    return
            except TooMuch:
                self._over(Recovery.FAILED)
                self._pen.append(turn.overfill())
                return
            except UpstreamError as error:
                self._take_refusal(error)
            await self._context.waking.pause(max(0.0, asked + POLL - loop.time()), turn)

    async def _ask(self, ref: ChatRef) -> None:
        turn, course, upstream = self._turn, self._context.course, self._context.upstream
        course.address = upstream.address
        state = await upstream.retrieve(ref)
        if state.status == "requires_action" and self._has_outputs_for(state):
            await self._sending.submit()
            return
        over = state.status not in ("created", "in_progress")
        messages = await self._context.upstream.messages(ref) if over and state.status != "failed" else []
        self._over_at_coze += over
        events = turn.recovered(state, messages, final=self._over_at_coze >= LATE_POLLS)
        if events is None:
            course.unfinished(state.status)
            return
        self._pen.append(events)
        self._pen.remember()
        self._report(events)
        if turn.outcome is not None:
            course.told(turn, "Coze's record says")

    def _take_refusal(self, error: UpstreamError) -> None:
        """Coze could not be reached, or refused to answer. Raises the error again if that has happened too often."""
        self._refused += error.code in (Code.UPSTREAM_REJECTED, Code.UPSTREAM_UNAUTHORIZED)
        if self._refused >= REFUSALS:
            self._over(Recovery.FAILED)
            if self._context.note.order.workflow_id and error.code is Code.UPSTREAM_REJECTED:
                # Nothing was wrong with the message: Coze has no record of this chatflow's answer.
                error.code = Code.UPSTREAM_FAILED
            raise error
        self._context.course.failed(error, "asking for Coze's record")
        self._context.means.observer.turn_troubled(self._context.ids, "record_not_readable", error)

    def _has_outputs_for(self, state: ChatState) -> bool:
        """Whether the outputs that were given answer the calls that Coze waits for, not earlier ones."""
        if state.tool_calls or state.question is not None:
            return self._answers_all(state.tool_calls)
        return bool(self._context.note.outputs)  # the record doesn't name what it waits for

    def _answers_all(self, tool_calls: Sequence[dict[str, Any]]) -> bool:
        given = sorted(call_id for call_id, _ in self._context.note.outputs)
        return bool(given) and given == sorted(call.get("id", "") for call in tool_calls)

    def _report(self, events: list[Event]) -> None:
        outcome = self._turn.outcome
        recovery = _HOW[outcome] if outcome is not None else Recovery.ACTION_REQUIRED
        if any(isinstance(event, Message) and event.replace for event in events):
            recovery = Recovery.REPLACED
        self._over(recovery)

    def _over(self, recovery: Recovery) -> None:
        self._context.means.observer.upstream_recovered(self._context.ids, recovery)

    async def wait_for_outputs(self) -> None:
        """Waits until tool outputs are given, then sends them; or until the turn ends."""
        turn = self._turn
        if self._answers_all(turn.tool_calls):  # they were given while Coze's record was read
            self._pen.append(turn.outputs_given())
        while turn.phase == "action_required":
            await asyncio.wait((self._context.waking.changed(),))
        if turn.phase == "streaming":
            await self._context.means.log.committed()
            await self._sending.submit()
