"""Replying: the two ways to answer a request that starts a turn, with the turn's event stream, or once."""

import asyncio

from aiohttp import web

from adapters.edge.callers import Caller
from adapters.edge.delivery import deliver
from adapters.edge.failures import problem, refusal
from adapters.edge.query import position_asked
from adapters.native import turns
from adapters.native.answers import json_answer
from adapters.native.starting import named, seat_for, start
from adapters.services import SERVICES, Services
from adapters.transports.listening import Topic, caller_of, subscribe
from adapters.transports.sse import stream
from gateway.errors import Code, GatewayError
from gateway.reading.subscription import Subscription
from gateway.turns.orders import Order
from gateway.turns.starting import Accepted
from gateway.turns.turns import State


def require_streaming(services: Services) -> None:
    """Raises `streaming_disabled`, before a body is read for nothing."""
    if not services.settings.use_sse_streaming:
        raise GatewayError(Code.STREAMING_DISABLED)


async def streamed(request: web.Request, order: Order) -> web.StreamResponse:
    """Starts the turn and answers with its event stream."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    seat = seat_for(services, caller, order)
    accepted = None
    try:
        position = position_asked(request)
        accepted = await start(services, caller, order, position=position)
        asked = position if accepted.again else None
        subscription = await subscribe(services, caller, Topic("turns", accepted.turn_id), asked, label="sse")
    except BaseException as error:
        seat.close()
        if accepted is not None and isinstance(error, GatewayError):
            return named(refusal(error, request), accepted)  # the turn goes on
        raise
    headers = {"X-Conversation-Id": accepted.conversation_id, "X-Turn-Id": accepted.turn_id}
    await stream(request, subscription, seat, services.authenticator.seconds_left(caller), headers)


async def answered(request: web.Request, order: Order, wait: float | None) -> web.StreamResponse:
    """Starts the turn, waits for it and answers once, after `wait` seconds at the latest."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    with seat_for(services, caller, order):
        accepted = await start(services, caller, order, position=position_asked(request))
        try:
            subscription = await subscribe(services, caller, Topic("turns", accepted.turn_id), None, label="longpoll")
        except GatewayError as error:
            return named(refusal(error, request), accepted)
        try:
            await _until_answered(services, caller, subscription, accepted, wait)
            subscription.close()
            state = await turns.state_of(services, caller, accepted.turn_id)
            answer = _outcome(request, services, state, accepted, patient=wait is None)
            return await deliver(request, named(answer, accepted))
        except GatewayError as error:
            return named(refusal(error, request), accepted)
        finally:
            subscription.close()


def _outcome(
    request: web.Request, services: Services, state: State, accepted: Accepted, *, patient: bool
) -> web.Response:
    """The answer of a chat without streaming, once the wait is over. A `patient` caller wants the whole answer or
    nothing."""
    if (failed := turns.failure(state)) is not None:
        return problem(failed, request)
    if turns.is_over(state) or state.status == "action_required":
        return json_answer(turns.view(state))
    if patient and services.hub.draining:
        return refusal(GatewayError(Code.DRAINING), request)
    return json_answer(turns.view(state), 202, {"Location": f"/api/coze/turns/{accepted.turn_id}"})


async def _until_answered(
    services: Services, caller: Caller, subscription: Subscription, accepted: Accepted, wait: float | None
) -> None:
    """Waits until the turn ends or asks for tool outputs, or until `wait` seconds have passed.

    Raises `unauthorized` when the caller's token expires first. The turn goes on.
    """
    loop = asyncio.get_running_loop()
    allowed = services.authenticator.seconds_left(caller)
    first = min((seconds for seconds in (wait, allowed) if seconds is not None), default=None)
    deadline = None if first is None else loop.time() + first
    while True:
        news = subscription.tail.changed()
        while await subscription.take():
            pass
        running = services.turns.running(accepted.turn_id)
        if subscription.over or subscription.behind or services.hub.closing:
            return
        if running is not None and running.status == "action_required":
            await services.log.committed()  # the status changes before the event is durable
            return
        left = None if deadline is None else deadline - loop.time()
        if left is not None and left <= 0:
            if first == allowed:
                raise GatewayError(Code.UNAUTHORIZED)
            return
        await asyncio.wait([news], timeout=left)
