"""The routes of chats: a chat without streaming; a turn's state, cancel, tool outputs and
feedback."""

import asyncio
import contextlib

from aiohttp import web

from adapters.edge.callers import Caller
from adapters.edge.delivery import deliver
from adapters.edge.failures import problem, refusal
from adapters.edge.fields import FeedbackBody, read_fields, read_tool_outputs
from adapters.edge.query import position_asked, prefer_wait, turn_id
from adapters.native import turns
from adapters.native.answers import json_answer
from adapters.native.starting import named, read_order, seat_for, start
from adapters.services import SERVICES, Services
from adapters.transports.listening import Topic, caller_of, subscribe
from gateway.errors import Code, GatewayError
from gateway.reading.subscription import Subscription
from gateway.store.rows import Feedback
from gateway.turns.starting import Accepted
from gateway.turns.turns import State


async def chat(request: web.Request) -> web.StreamResponse:
    """Chat without streaming: waits for the turn and answers once, with `Prefer: wait=N` after N seconds at the
    latest."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    order = await read_order(request, services, caller)
    wait = prefer_wait(request)
    with seat_for(services, caller, order):
        accepted = await start(services, caller, order, position=position_asked(request))
        try:
            subscription = await subscribe(services, caller, Topic("turns", accepted.turn_id), None, label="longpoll")
        except GatewayError as error:
            return named(refusal(error, request), accepted)
        try:
            await _until_answered(services, caller, subscription, accepted, wait)
            subscription.close()
            answer = _outcome(request, services, await turns.state_of(services, caller, accepted.turn_id), accepted)
            return await deliver(request, named(answer, accepted))
        except GatewayError as error:
            return named(refusal(error, request), accepted)
        finally:
            subscription.close()


def _outcome(request: web.Request, services: Services, state: State, accepted: Accepted) -> web.Response:
    """The answer of a chat without streaming, once the wait is over."""
    if (failed := turns.failure(state)) is not None:
        return problem(failed, request)
    if turns.is_over(state) or state.status == "action_required":
        return json_answer(turns.view(state))
    if services.hub.draining:
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
        if subscription.over or services.hub.closing:
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


async def turn(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    caller = caller_of(request)
    with services.connections.acquire():
        async with services.hub.unsent.making:
            answer = json_answer(turns.view(await turns.state_of(services, caller, request.match_info["id"])))
        return await deliver(request, answer)


async def cancel(request: web.Request) -> web.StreamResponse:
    """202 when this request ended the turn, 200 when the turn was over already."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    name = request.match_info["id"]
    ended = await turns.cancel(services, caller, name)
    if not ended:
        with contextlib.suppress(GatewayError):  # if the commit fails, the turn's state says so
            await services.log.committed()  # the turn's end may be decided but not visible yet
    state = await turns.state_of(services, caller, name)
    status = "cancelled" if ended else state.status
    return await deliver(request, json_answer({**turns.view(state), "status": status}, 202 if ended else 200))


async def tool_outputs(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    caller = caller_of(request)
    body = await read_tool_outputs(request, services.settings)
    outputs = [(given.tool_call_id, given.output) for given in body.tool_outputs]
    await turns.give_outputs(services, caller, request.match_info["id"], outputs)
    state = await turns.state_of(services, caller, request.match_info["id"])
    return await deliver(request, json_answer({**turns.view(state), "status": "running"}, 202))


async def feedback(request: web.Request) -> web.StreamResponse:
    """What the user thinks of the turn's answer. Says whether Coze has taken it, too."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    name = turn_id(request.match_info["id"])
    body = await read_fields(request, services.settings, FeedbackBody)
    given = Feedback(body.feedback, body.comment if body.feedback != "none" else "")
    with services.connections.acquire():
        at_coze = await turns.rate(services, caller, name, given)
        fields = {"turnId": name, "feedback": given.kind, "comment": given.comment, "atCoze": at_coze}
        return await deliver(request, json_answer(fields))


def add_routes(app: web.Application) -> None:
    app.router.add_post("/api/coze/chat", chat)
    app.router.add_get("/api/coze/turns/{id}", turn, allow_head=False)
    app.router.add_post("/api/coze/turns/{id}/cancel", cancel)
    app.router.add_post("/api/coze/turns/{id}/tool-outputs", tool_outputs)
    app.router.add_put("/api/coze/turns/{id}/feedback", feedback)
