"""The routes of chats: a chat without streaming; a turn's state, cancel and tool outputs; a conversation's messages."""

import asyncio
import contextlib
from typing import Any

import msgspec
import structlog
from aiohttp import web

from adapters.edge.callers import Caller
from adapters.edge.delivery import deliver
from adapters.edge.failures import InvalidRequest, Mistake, problem, refusal
from adapters.edge.fields import read_tool_outputs
from adapters.edge.query import Page, conversation_id, page_query, position_asked, prefer_wait
from adapters.native import turns
from adapters.native.starting import named, read_order, seat_for, start
from adapters.services import SERVICES, Services
from adapters.transports.listening import Topic, caller_of, subscribe
from gateway.errors import Code, GatewayError
from gateway.ids import ConversationId
from gateway.reading.subscription import Subscription
from gateway.turns.starting import Accepted
from gateway.turns.turns import State

logger = structlog.get_logger()
_PAGE = 256 * 1024
"""The most characters on a page of messages, unless a single message is longer."""

_NO_STORE = {"Cache-Control": "no-store"}


def _json(fields: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(fields),
        status=status,
        content_type="application/json",
        headers={**_NO_STORE, **(headers or {})},
    )


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
        return _json(turns.view(state))
    if services.hub.draining:
        return refusal(GatewayError(Code.DRAINING), request)
    return _json(turns.view(state), 202, {"Location": f"/api/coze/turns/{accepted.turn_id}"})


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
            answer = _json(turns.view(await turns.state_of(services, caller, request.match_info["id"])))
        return await deliver(request, answer)


async def cancel(request: web.Request) -> web.StreamResponse:
    """202 when this request ended the turn, 200 when the turn was over already."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    turn_id = request.match_info["id"]
    ended = await turns.cancel(services, caller, turn_id)
    if not ended:
        with contextlib.suppress(GatewayError):  # if the commit fails, the turn's state says so
            await services.log.committed()  # the turn's end may be decided but not visible yet
    state = await turns.state_of(services, caller, turn_id)
    status = "cancelled" if ended else state.status
    return await deliver(request, _json({**turns.view(state), "status": status}, 202 if ended else 200))


async def tool_outputs(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    caller = caller_of(request)
    body = await read_tool_outputs(request, services.settings)
    outputs = [(given.tool_call_id, given.output) for given in body.tool_outputs]
    await turns.give_outputs(services, caller, request.match_info["id"], outputs)
    state = await turns.state_of(services, caller, request.match_info["id"])
    return await deliver(request, _json({**turns.view(state), "status": "running"}, 202))


async def messages(request: web.Request) -> web.StreamResponse:
    """The messages of a conversation that the database holds, newest last."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    name = conversation_id(request.match_info["id"])
    page = page_query(request)
    await services.turns.finding.conversation_of(name, owns=caller.may_read)
    with services.connections.acquire():
        async with services.hub.unsent.making:
            answer = await _page(services, name, page)
        return await deliver(request, answer)


async def _page(services: Services, name: ConversationId, page: Page) -> web.Response:
    try:
        found, more = await services.store.messages(name, before=page.before, limit=page.limit, most=_PAGE)
    except GatewayError as error:
        if error.code is Code.INVALID_REQUEST:
            raise InvalidRequest([Mistake("before", "is no message of this conversation")]) from error
        raise
    return _json(
        {
            "messages": [
                {
                    "id": message.id,
                    "turnId": message.turn_id,
                    "role": message.role,
                    "content": message.content,
                    "status": message.status,
                    "createdAt": message.created_at,
                }
                for message in found
            ],
            "hasMore": more,
        }
    )


async def delete(request: web.Request) -> web.StreamResponse:
    """Deletes a conversation with everything that is kept of it, after cancelling its running turns."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    name = conversation_id(request.match_info["id"])
    row = await services.turns.finding.conversation_of(name, owns=caller.may_read)
    await services.turns.erase(row.id)
    logger.info("conversation.deleted", conversationId=row.id, userId=row.user_id)
    return web.Response(status=204, headers=_NO_STORE)


def add_routes(app: web.Application) -> None:
    app.router.add_post("/api/coze/chat", chat)
    app.router.add_get("/api/coze/turns/{id}", turn, allow_head=False)
    app.router.add_post("/api/coze/turns/{id}/cancel", cancel)
    app.router.add_post("/api/coze/turns/{id}/tool-outputs", tool_outputs)
    app.router.add_delete("/api/coze/conversations/{id}", delete)
    app.router.add_get("/api/coze/conversations/{id}/messages", messages, allow_head=False)
