"""The routes of chats: a chat without streaming; a turn's state, cancel, tool outputs and
feedback."""

import contextlib

from aiohttp import web

from adapters.edge.delivery import deliver
from adapters.edge.fields import FeedbackBody, read_fields, read_tool_outputs
from adapters.edge.query import prefer_wait, turn_id
from adapters.native import turns
from adapters.native.answers import json_answer
from adapters.native.replying import answered
from adapters.native.starting import read_order
from adapters.services import SERVICES
from adapters.transports.listening import caller_of
from gateway.errors import GatewayError
from gateway.store.rows import Feedback


async def chat(request: web.Request) -> web.StreamResponse:
    """Chat without streaming: waits for the turn and answers once, with `Prefer: wait=N` after N seconds at the
    latest."""
    services = request.app[SERVICES]
    order = await read_order(request, services, caller_of(request))
    return await answered(request, order, prefer_wait(request))


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
