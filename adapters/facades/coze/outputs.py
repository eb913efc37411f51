"""Outputs: of tools, for a chat, and the answer to an interrupt, for a run."""

from aiohttp import web

from adapters.edge.callers import Caller
from adapters.facades.coze.answering import Holding, cut, go_on, named, tell_on
from adapters.facades.coze.asking import BAD, RESUME, read_object, run_outputs, streams, tool_outputs
from adapters.facades.coze.callers import caller_of
from adapters.facades.coze.cursors import CozeAlone, cursor, stretch_of, turn_of
from adapters.facades.coze.failures import TOO_LATE, Refusal, failure, success
from adapters.facades.coze.reading import begun, call_of, chat_in, newest_call
from adapters.facades.coze.streaming import TURN
from adapters.services import SERVICES, Services
from gateway.errors import Code, GatewayError
from gateway.events import Failed

_NO_RUN, _RUN_OVER = 4314, 4315


async def submit(request: web.Request) -> web.StreamResponse:
    """Hands over the outputs of tools; the chat goes on in this answer's stream."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    body = await read_object(request, services)
    outputs = run_outputs(body) if request.path == RESUME else tool_outputs(body)
    turn_id = await _asking(request, services, caller, outputs[0][0])
    streamed = streams(body, request.path)
    with Holding(services.connections.acquire(caller.listener_account)) as holding:
        holding.subscription = subscription = await cursor(services, caller, turn_id)
        stretch = stretch_of(subscription, request)
        if TURN in request.headers:
            if not (call := call_of(stretch, (name for name, _ in outputs))):
                raise Refusal(BAD, "This chat asks for no such outputs.")
            await _give_again(services, caller, turn_id, outputs)
            return await go_on(request, caller, holding, streamed=streamed, start=call)
        call = newest_call(stretch)
        await _give(request, caller, turn_id, outputs)
        if not streamed:
            return success(chat_in(stretch) | {"status": "in_progress"}, request)
        try:
            found = await begun(services.hub, subscription, call, of_run=request.path == RESUME)
        except GatewayError as error:
            return cut(error, request, turn_id)
        if isinstance(found, Failed):
            return named(failure(found, request), turn_id)
        subscription.after = call
        return await tell_on(request, caller, holding, found)


async def _give(request: web.Request, caller: Caller, turn_id: str, outputs: list[tuple[str, str]]) -> None:
    """Hands over outputs for the first time. Raises `Refusal`."""
    of_run = request.path == RESUME
    try:
        if not await request.app[SERVICES].turns.give_outputs(turn_id, outputs, owns=caller.may_read, once=True):
            raise Refusal(_RUN_OVER if of_run else TOO_LATE, "It is over.")
    except GatewayError as error:
        if error.code is not Code.INVALID_REQUEST or isinstance(error, Refusal):
            raise
        if of_run:
            raise Refusal(_RUN_OVER, "This question has its answer already.") from error
        raise Refusal(BAD, "The chat does not wait for these tool outputs.") from error


async def _give_again(services: Services, caller: Caller, turn_id: str, outputs: list[tuple[str, str]]) -> None:
    """Hands over outputs that may have been handed over before."""
    try:
        await services.turns.give_outputs(turn_id, outputs, owns=caller.may_read)
    except GatewayError as error:
        if error.code is not Code.INVALID_REQUEST:  # the chat has them already
            raise


async def _asking(request: web.Request, services: Services, caller: Caller, call: str) -> str:
    """The turn whose call the request answers. A run is named by the call, or by the request's head."""
    if request.path != RESUME:
        return await turn_of(request, caller, dict(request.query))
    if TURN in request.headers:
        return request.headers[TURN]
    found = await services.turns.interrupts.find(call, owns=caller.may_read)
    if found is None:
        raise CozeAlone(_NO_RUN, "No such execution of this workflow.", Code.NOT_FOUND)
    return found
