"""Turns as callers see them: a turn's state, and the commands on it."""

from typing import Any

from adapters.edge.callers import Caller
from adapters.edge.failures import InvalidRequest, Mistake
from adapters.edge.query import turn_id as checked_turn_id
from adapters.services import Services
from gateway.errors import Code, GatewayError
from gateway.events import Failed
from gateway.status import ENDED
from gateway.store.rows import Feedback
from gateway.turns.failure import told_again
from gateway.turns.turns import State


async def state_of(services: Services, caller: Caller, turn_id: str) -> State:
    """The state of a turn. Raises `not_found`, also for another caller's turn."""
    return await services.turns.state(checked_turn_id(turn_id), owns=caller.may_read)


async def cancel(services: Services, caller: Caller, turn_id: str) -> bool:
    """Ends a turn as cancelled; the end is durable when this returns. False when it was over already. Raises
    `not_found`."""
    return await services.turns.cancel(checked_turn_id(turn_id), owns=caller.may_read)


async def give_outputs(services: Services, caller: Caller, turn_id: str, outputs: list[tuple[str, str]]) -> None:
    """Gives the tool outputs for an `action_required`; they are durable when this returns.

    Raises `not_found`, or `invalid_request` when the turn doesn't wait for tool outputs.
    """
    try:
        waits = await services.turns.give_outputs(checked_turn_id(turn_id), outputs, owns=caller.may_read)
    except GatewayError as error:
        if error.code is not Code.INVALID_REQUEST:
            raise
        raise InvalidRequest([Mistake("toolOutputs", error.detail)]) from error
    if not waits:
        raise InvalidRequest([Mistake("", "the turn is over")])


async def rate(services: Services, caller: Caller, turn_id: str, feedback: Feedback) -> bool:
    """Takes feedback on a turn's answer; it is durable when this returns. Returns whether Coze has it. Raises
    `not_found`, or `invalid_request` when the turn is not over."""
    try:
        return await services.turns.feedback.give(checked_turn_id(turn_id), feedback, owns=caller.may_read)
    except GatewayError as error:
        if error.code is not Code.INVALID_REQUEST:
            raise
        raise InvalidRequest([Mistake("", error.detail)]) from error


def view(state: State) -> dict[str, Any]:
    """A turn as JSON, with the fields of section 2 of the contract."""
    fields: dict[str, Any] = {
        "conversationId": state.conversation_id,
        "turnId": state.turn_id,
        "status": state.status,
        "content": state.content,
        "reasoning": state.reasoning,
        "suggestions": state.suggestions,
        "usage": state.usage,
        "error": state.error,
        "position": state.position,
    }
    if state.status == "action_required":
        fields["toolCalls"] = state.tool_calls
    if state.awaiting_reply:
        fields["awaitingReply"] = True
    return fields


def failure(state: State) -> Failed | None:
    """The error with which the turn ended, or None."""
    return told_again(state) if state.status == "failed" else None


def is_over(state: State) -> bool:
    return state.status in ENDED
