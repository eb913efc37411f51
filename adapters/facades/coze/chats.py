"""The routes of chats and of workflows' runs: start, retrieve, list, cancel, tool outputs, the answer to an interrupt.
Their turns are the gateway's, like any other."""

from contextlib import closing
from types import TracebackType
from typing import Any, NoReturn

from aiohttp import web

from adapters.edge.callers import Caller
from adapters.edge.delivery import deliver
from adapters.edge.failures import tell
from adapters.edge.limits import Seat
from adapters.edge.query import turn_id as checked_turn_id
from adapters.facades.coze.asking import (
    BAD,
    CHAT,
    CHATFLOW,
    OF_RUNS,
    RESUME,
    RUN,
    after,
    order_of,
    read_object,
    run_order_of,
    run_outputs,
    streams,
    tool_outputs,
)
from adapters.facades.coze.callers import caller_of
from adapters.facades.coze.failures import INTERNAL, Handler, Refusal, failure, in_coze_s_form, success
from adapters.facades.coze.finding import KNOWN, Known
from adapters.facades.coze.framing import Framer
from adapters.facades.coze.passing import may_pass, pass_on
from adapters.facades.coze.reading import Begun, begun, call_of, chat_in, messages_in, newest_call, place_after
from adapters.facades.coze.run_framing import RunFramer
from adapters.facades.coze.starting import learn, start
from adapters.facades.coze.streaming import LABEL, TURN, stream
from adapters.services import SERVICES, Services
from adapters.transports.listening import Topic, subscribe
from gateway.errors import Code, GatewayError
from gateway.events import Failed
from gateway.log.stretch import Stretch
from gateway.reading.subscription import Subscription

_NO_CHAT = 4001
_TOO_LATE = 4104
_NO_RUN, _RUN_OVER = 4314, 4315


class CozeAlone(Refusal):
    """A chat of which the gateway knows nothing, or nothing any more. Coze may know it."""


class Holding:
    """What a request holds, and gives back at its end unless a stream has taken it over."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.subscription: Subscription | None = None
        self._handed = False

    def hand_over(self) -> tuple[Subscription, Seat]:
        assert self.subscription is not None
        self._handed = True
        return self.subscription, self.seat

    def __enter__(self) -> "Holding":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._handed:
            if self.subscription is not None:
                self.subscription.close()
            self.seat.close()


async def chat(request: web.Request) -> web.StreamResponse:
    """Starts a chat or a run, or goes on with the one that the request's head names."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    body = await read_object(request, services)
    order = (run_order_of if request.path == RUN else order_of)(body, request, caller)
    streamed = streams(body, request.path)
    with Holding(services.connections.acquire(caller.account(order.user_id))) as holding:
        if TURN in request.headers:
            holding.subscription = await _subscribe(services, caller, request.headers[TURN])
            return await _go_on(request, caller, holding, streamed=streamed)
        accepted = await start(request, services, caller, order)
        try:
            holding.subscription = await _subscribe(services, caller, accepted.turn_id)
            found = await begun(services.hub, holding.subscription, of_run=request.path == RUN)
        except GatewayError as error:
            return _cut(error, request, accepted.turn_id)
        if isinstance(found, Failed):
            return _named(failure(found, request), accepted.turn_id)
        await learn(request, services, order, accepted, found)
        if not streamed and "id" not in found.chat:
            said = Refusal(INTERNAL, "The chat was canceled before Coze began it.")
            return _named(failure(said, request), accepted.turn_id)
        if streamed:
            await _tell(request, caller, holding, found)
        return _named(success(found.chat | {"status": "in_progress"}, request, log_id=found.log_id), accepted.turn_id)


async def submit(request: web.Request) -> web.StreamResponse:
    """Hands over the outputs of tools; the chat goes on in this answer's stream."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    body = await read_object(request, services)
    outputs = run_outputs(body) if request.path == RESUME else tool_outputs(body)
    turn_id = await _asking(request, services, caller, outputs[0][0])
    streamed = streams(body, request.path)
    with Holding(services.connections.acquire(caller.listener_account)) as holding:
        holding.subscription = subscription = await _subscribe(services, caller, turn_id)
        stretch = _stretch(subscription)
        if TURN in request.headers:
            if not (call := call_of(stretch, (name for name, _ in outputs))):
                raise Refusal(BAD, "This chat asks for no such outputs.")
            await _give_again(services, caller, turn_id, outputs)
            return await _go_on(request, caller, holding, streamed=streamed, start=call)
        call = newest_call(stretch)
        if not await services.turns.give_outputs(turn_id, outputs, owns=caller.may_read):
            raise Refusal(_RUN_OVER if request.path == RESUME else _TOO_LATE, "It is over.")
        if not streamed:
            return success(chat_in(stretch) | {"status": "in_progress"}, request)
        try:
            found = await begun(services.hub, subscription, call, of_run=request.path == RESUME)
        except GatewayError as error:
            return _cut(error, request, turn_id)
        if isinstance(found, Failed):
            return _named(failure(found, request), turn_id)
        subscription.after = call
        return await _tell(request, caller, holding, found)


async def _give_again(services: Services, caller: Caller, turn_id: str, outputs: list[tuple[str, str]]) -> None:
    """Hands over outputs that may have been handed over before."""
    try:
        await services.turns.give_outputs(turn_id, outputs, owns=caller.may_read)
    except GatewayError as error:
        if error.code is not Code.INVALID_REQUEST:  # the chat has them already
            raise


async def retrieve(request: web.Request) -> web.StreamResponse:
    """The chat's state, from our own log: Coze's clients ask every tenth of a second."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    turn_id = await _turn(request, services, caller, dict(request.query))
    with services.connections.acquire(), closing(await _subscribe(services, caller, turn_id)) as subscription:
        chat = chat_in(_stretch(subscription))
    running = services.turns.running(turn_id)
    if chat.get("status") == "requires_action" and running is not None and running.status == "running":
        chat["status"] = "in_progress"  # it has its outputs, and Coze has not said so yet
    return success(chat, request)


async def messages(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    caller = caller_of(request)
    turn_id = await _turn(request, services, caller, dict(request.query))
    with services.connections.acquire():
        with closing(await _subscribe(services, caller, turn_id)) as subscription:
            async with services.hub.unsent.making:
                answer = success(messages_in(_stretch(subscription)), request)
        return await deliver(request, answer)


async def cancel(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    caller = caller_of(request)
    body = await read_object(request, services)
    turn_id = await _turn(request, services, caller, body)
    if not await services.turns.cancel(turn_id, owns=caller.may_read):
        raise Refusal(_TOO_LATE, "The chat cannot be canceled: it is over.")
    with closing(await _subscribe(services, caller, turn_id)) as subscription:
        return success(chat_in(_stretch(subscription)) | {"status": "canceled"}, request)


async def _turn(request: web.Request, services: Services, caller: Caller, ids: dict[str, Any]) -> str:
    """The turn of the chat that the request names by Coze's ids."""
    chat = str(ids.get("conversation_id", "")), str(ids.get("chat_id", ""))
    found = await request.app[KNOWN].turn(chat, caller.may_read)
    if found is None:
        raise CozeAlone(_NO_CHAT, "No such chat in this conversation.", Code.NOT_FOUND)
    return found


async def _asking(request: web.Request, services: Services, caller: Caller, call: str) -> str:
    """The turn whose call the request answers. A run is named by the call, or by the request's head."""
    if request.path != RESUME:
        return await _turn(request, services, caller, dict(request.query))
    if TURN in request.headers:
        return request.headers[TURN]
    found = await services.turns.interrupts.find(call, owns=caller.may_read)
    if found is None:
        raise CozeAlone(_NO_RUN, "No such execution of this workflow.", Code.NOT_FOUND)
    return found


async def _subscribe(services: Services, caller: Caller, turn_id: str) -> Subscription:
    """A cursor over a turn of the caller's. Raises `Refusal`."""
    try:
        return await subscribe(services, caller, Topic("turns", checked_turn_id(turn_id)), None, label=LABEL)
    except GatewayError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        raise Refusal(_NO_CHAT, "No such chat in this conversation.", Code.NOT_FOUND) from error


def _stretch(subscription: Subscription) -> Stretch:
    """The turn's events. Raises `Refusal` if they are not kept any more."""
    span = subscription.span
    if subscription.gone or span is None or span.stretch is None:
        raise CozeAlone(_NO_CHAT, "This chat's events are not kept any more.", Code.NOT_FOUND)
    return span.stretch


async def _go_on(
    request: web.Request, caller: Caller, holding: Holding, *, streamed: bool, start: int = 0
) -> web.StreamResponse:
    """Continues a chat after the text that the caller has."""
    count = after(request)
    subscription = holding.subscription
    assert subscription is not None
    stretch = _stretch(subscription)
    found = await begun(request.app[SERVICES].hub, subscription, start, of_run=request.path in OF_RUNS)
    if isinstance(found, Failed) and not start:
        return failure(found, request)
    if not streamed:
        return success(chat_in(stretch), request)
    place, rest = place_after(stretch, start, count)
    subscription.after = max(place, stretch.first - 1)
    log_id = found.log_id if isinstance(found, Begun) else ""
    return await _tell(request, caller, holding, Begun(stretch, {}, log_id), rest)


async def _tell(request: web.Request, caller: Caller, holding: Holding, found: Begun, rest: str = "") -> NoReturn:
    of_run = request.path in OF_RUNS
    framer = RunFramer(found.stretch) if of_run else Framer(found.stretch, spaced=request.path == CHATFLOW)
    subscription, seat = holding.hand_over()
    await stream(
        request,
        subscription,
        seat,
        turn_id=found.stretch.turn,
        log_id=found.log_id,
        framer=framer,
        seconds=request.app[SERVICES].authenticator.seconds_left(caller),
        first=framer.rest(subscription.after, rest) if rest else b"",
    )


def _cut(error: GatewayError, request: web.Request, turn_id: str) -> web.Response:
    """The answer about a chat that was accepted, when the answer itself can't go on. It names the turn, and nothing in
    it makes a client send the message again: that would be a second chat."""
    tell(error, request)
    if not isinstance(error, Refusal):
        said = "The chat has begun and goes on. The same request with this X-Gateway-Turn continues it."
        error = Refusal(INTERNAL, said, Code.INTERNAL)
    return _named(failure(error, request), turn_id)


def _named(answer: web.Response, turn_id: str) -> web.Response:
    answer.headers[TURN] = turn_id
    return answer


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
    app[KNOWN] = Known(app[SERVICES].store)
    for path in (CHAT, CHATFLOW, RUN):
        app.router.add_post(path, in_coze_s_form(chat))
    app.router.add_get("/v3/chat/retrieve", _or_passed_on(retrieve), allow_head=False)
    app.router.add_post("/v3/chat/retrieve", _or_passed_on(retrieve))
    app.router.add_get("/v3/chat/message/list", _or_passed_on(messages), allow_head=False)
    app.router.add_post("/v3/chat/cancel", _or_passed_on(cancel))
    for path in ("/v3/chat/submit_tool_outputs", RESUME):
        app.router.add_post(path, _or_passed_on(submit))
