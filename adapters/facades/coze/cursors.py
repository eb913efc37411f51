"""Cursors: over the events of a caller's turn that came through this door."""

from typing import Any

from aiohttp import web

from adapters.edge.callers import Caller
from adapters.edge.query import turn_id as checked_turn_id
from adapters.facades.coze.asking import OF_RUNS
from adapters.facades.coze.failures import Refusal
from adapters.facades.coze.finding import KNOWN
from adapters.facades.coze.streaming import LABEL
from adapters.services import Services
from adapters.transports.listening import Topic, subscribe
from gateway.errors import Code, GatewayError
from gateway.log.stretch import Stretch
from gateway.reading.subscription import Subscription
from gateway.turns.orders import read_note

_NO_CHAT = 4001


class CozeAlone(Refusal):
    """A chat of which the gateway knows nothing, or nothing any more. Coze may know it."""


async def turn_of(request: web.Request, caller: Caller, ids: dict[str, Any]) -> str:
    """The turn of the chat that the request names by Coze's ids."""
    chat = str(ids.get("conversation_id", "")), str(ids.get("chat_id", ""))
    found = await request.app[KNOWN].turn(chat, caller.may_read)
    if found is None:
        raise CozeAlone(_NO_CHAT, "No such chat in this conversation.", Code.NOT_FOUND)
    return found


async def cursor(services: Services, caller: Caller, turn_id: str) -> Subscription:
    """A cursor over a turn of the caller's. Raises `Refusal`."""
    try:
        return await subscribe(services, caller, Topic("turns", checked_turn_id(turn_id)), None, label=LABEL)
    except GatewayError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        raise Refusal(_NO_CHAT, "No such chat in this conversation.", Code.NOT_FOUND) from error


def stretch_of(subscription: Subscription, request: web.Request) -> Stretch:
    """The turn's events. Raises `CozeAlone` if they are not kept any more, or are not in the form of this route: the
    caller's turn may have come through another door, or be a run where a chat is asked for."""
    span = subscription.span
    if subscription.gone or span is None or span.stretch is None:
        raise CozeAlone(_NO_CHAT, "This chat's events are not kept any more.", Code.NOT_FOUND)
    order = read_note(span.stretch.state).order
    if order.coze is None or (order.kind == "run") is not (request.path in OF_RUNS):
        raise CozeAlone(_NO_CHAT, "No such chat in this conversation.", Code.NOT_FOUND)
    return span.stretch
