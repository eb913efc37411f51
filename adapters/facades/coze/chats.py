"""The routes of chats and of workflows' runs. Their turns are the gateway's, like any other."""

from contextlib import closing

from aiohttp import web

from adapters.edge.delivery import deliver
from adapters.facades.coze.answering import Holding, cut, go_on, named, tell_on
from adapters.facades.coze.asking import (
    CHAT,
    CHATFLOW,
    RESUME,
    RUN,
    order_of,
    read_object,
    run_order_of,
    streams,
)
from adapters.facades.coze.callers import caller_of
from adapters.facades.coze.cursors import CozeAlone, cursor, stretch_of, turn_of
from adapters.facades.coze.failures import INTERNAL, TOO_LATE, Handler, Refusal, failure, in_coze_s_form, success
from adapters.facades.coze.finding import KNOWN, KnownChats
from adapters.facades.coze.outputs import submit
from adapters.facades.coze.passing import may_pass, pass_on
from adapters.facades.coze.reading import begun, chat_in, messages_in
from adapters.facades.coze.starting import learn, start
from adapters.facades.coze.streaming import TURN
from adapters.services import SERVICES
from gateway.errors import GatewayError
from gateway.events import Failed


async def chat(request: web.Request) -> web.StreamResponse:
    """Starts a chat or a run, or goes on with the one that the request's head names."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    body = await read_object(request, services)
    order = (run_order_of if request.path == RUN else order_of)(body, request, caller)
    streamed = streams(body, request.path)
    with Holding(services.connections.acquire(caller.account(order.user_id))) as holding:
        if TURN in request.headers:
            holding.subscription = await cursor(services, caller, request.headers[TURN])
            return await go_on(request, caller, holding, streamed=streamed)
        accepted = await start(request, services, caller, order)
        try:
            holding.subscription = await cursor(services, caller, accepted.turn_id)
            found = await begun(services.hub, holding.subscription, of_run=request.path == RUN)
        except GatewayError as error:
            return cut(error, request, accepted.turn_id)
        if isinstance(found, Failed):
            return named(failure(found, request), accepted.turn_id)
        await learn(request, services, order, accepted, found)
        if not streamed and "id" not in found.chat:
            said = Refusal(INTERNAL, "The chat was canceled before Coze began it.")
            return named(failure(said, request), accepted.turn_id)
        if streamed:
            await tell_on(request, caller, holding, found)
        return named(success(found.chat | {"status": "in_progress"}, request, log_id=found.log_id), accepted.turn_id)


async def retrieve(request: web.Request) -> web.StreamResponse:
    """The chat's state, from our own log: Coze's clients ask every tenth of a second."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    turn_id = await turn_of(request, caller, dict(request.query))
    with services.connections.acquire(), closing(await cursor(services, caller, turn_id)) as subscription:
        chat = chat_in(stretch_of(subscription, request))
    running = services.turns.running(turn_id)
    if chat.get("status") == "requires_action" and running is not None and running.status == "running":
        chat["status"] = "in_progress"  # it has its outputs, and Coze has not said so yet
    return success(chat, request)


async def messages(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    caller = caller_of(request)
    turn_id = await turn_of(request, caller, dict(request.query))
    with services.connections.acquire():
        with closing(await cursor(services, caller, turn_id)) as subscription:
            async with services.hub.unsent.making:
                answer = success(messages_in(stretch_of(subscription, request)), request)
        return await deliver(request, answer)


async def cancel(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    caller = caller_of(request)
    body = await read_object(request, services)
    turn_id = await turn_of(request, caller, body)
    with closing(await cursor(services, caller, turn_id)) as subscription:
        stretch = stretch_of(subscription, request)
        over = chat_in(stretch).get("status") == "completed"  # the turn may still wait for late audio
        if over or not await services.turns.cancel(turn_id, owns=caller.may_read):
            raise Refusal(TOO_LATE, "The chat cannot be canceled: it is over.")
        return success(chat_in(stretch) | {"status": "canceled"}, request)


def _or_passed_on(handler: Handler) -> Handler:
    """The route, which asks Coze about chats that the gateway does not know."""

    async def answered(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except CozeAlone:
            if not may_pass(request.app[SERVICES], caller := caller_of(request)):
                raise
            return await pass_on(request, caller)

    return in_coze_s_form(answered)


def add_routes(app: web.Application) -> None:
    app[KNOWN] = KnownChats(app[SERVICES].store)
    for path in (CHAT, CHATFLOW, RUN):
        app.router.add_post(path, in_coze_s_form(chat))
    app.router.add_get("/v3/chat/retrieve", _or_passed_on(retrieve), allow_head=False)
    app.router.add_post("/v3/chat/retrieve", _or_passed_on(retrieve))
    app.router.add_get("/v3/chat/message/list", _or_passed_on(messages), allow_head=False)
    app.router.add_post("/v3/chat/cancel", _or_passed_on(cancel))
    for path in ("/v3/chat/submit_tool_outputs", RESUME):
        app.router.add_post(path, _or_passed_on(submit))
