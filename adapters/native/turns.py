"""Turns as callers see them: how one stands, and what may be done to it."""

from typing import Any

from msgspec import UNSET

from adapters.edge.auth import Caller, no_such
from adapters.edge.failures import InvalidRequest, Mistake
from adapters.edge.requests import turn_id as checked_turn_id
from adapters.services import Services
from adapters.transports.listening import failed_from
from gateway.errors import Code, GatewayError
from gateway.events import Failed
from gateway.store.rows import ENDED, TurnRow, TurnUpdate
from gateway.turns.live import LiveTurn
from gateway.turns.standing import snapshot

State = TurnRow | TurnUpdate


async def state_of(services: Services, caller: Caller, turn_id: str) -> State:
    """How a turn stands. Raises `not_found`, also for somebody else's."""
    found = await find(services, caller, turn_id)
    if isinstance(found, LiveTurn):
        return snapshot(found, 0.0)
    if (row := await services.store.turn(found.turn_id)) is None:
        raise GatewayError(Code.NOT_FOUND)
    return row


async def find(services: Services, caller: Caller, turn_id: str) -> LiveTurn | TurnRow:
    """The live turn, or what is kept of one that ended, without its texts. Raises `not_found`."""
    turn_id = checked_turn_id(turn_id)
    live = services.runner.live(turn_id)
    if live is not None and caller.may_read(live.order.user_id, live.order.shop_id):
        return live  # somebody else's takes the way of what never existed, and as long
    row = await services.store.turn(turn_id, texts=False)
    if row is None or not caller.may_read(row.user_id, row.shop_id):
        raise no_such(row)
    return row


async def cancel(services: Services, caller: Caller, turn_id: str) -> bool:
    """Ends a turn as cancelled, for good when this returns. False when it was over already. Raises `not_found`."""
    found = await find(services, caller, turn_id)
    if not isinstance(found, LiveTurn) or not services.runner.cancel(found):
        return False
    await services.log.committed()
    return True


async def give_outputs(services: Services, caller: Caller, turn_id: str, outputs: list[tuple[str, str]]) -> None:
    """Answers an `action_required`; kept when this returns.

    Raises `not_found`, or `invalid_request` when the turn doesn't wait for them.
    """
    found = await find(services, caller, turn_id)
    if not isinstance(found, LiveTurn):
        raise InvalidRequest([Mistake("", "the turn is over")])
    try:
        found.give_outputs(outputs)
    except GatewayError as error:
        raise InvalidRequest([Mistake("toolOutputs", error.detail)]) from error
    await services.log.committed()


def view(state: State) -> dict[str, Any]:
    """A turn as JSON: the fields of contract section 2."""
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
    return fields


def failure(state: State) -> Failed | None:
    """The error that the turn ended with, if it did."""
    if state.status != "failed":
        return None
    if isinstance(state, TurnRow):
        return failed_from(state)
    error = state.error or {}
    return Failed(
        error=error.get("error", ""),
        code=error.get("code", Code.INTERNAL.value),
        retryable=error.get("retryable", True),
        conversation_id=state.conversation_id,
        turn_id=state.turn_id,
        content=state.content,
        upstream=error.get("upstream") or UNSET,
    )


def is_over(state: State) -> bool:
    return state.status in ENDED
