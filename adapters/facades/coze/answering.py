"""Answering: the stream in which a turn is told to the end, and the answer when there can be no stream."""

from types import TracebackType
from typing import NoReturn

from aiohttp import web

from adapters.edge.callers import Caller
from adapters.edge.failures import tell
from adapters.edge.limits import Seat
from adapters.facades.coze.asking import CHATFLOW, OF_RUNS, after
from adapters.facades.coze.cursors import stretch_of
from adapters.facades.coze.failures import INTERNAL, Refusal, failure, success
from adapters.facades.coze.framing import Framer
from adapters.facades.coze.reading import ChatBegun, begun, chat_in, place_after
from adapters.facades.coze.run_framing import RunFramer
from adapters.facades.coze.streaming import TURN, stream
from adapters.services import SERVICES
from gateway.errors import Code, GatewayError
from gateway.events import Failed
from gateway.reading.subscription import Subscription


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


async def go_on(
    request: web.Request, caller: Caller, holding: Holding, *, streamed: bool, start: int = 0
) -> web.StreamResponse:
    """Continues a chat after the text that the caller has."""
    count = after(request)
    subscription = holding.subscription
    assert subscription is not None
    stretch = stretch_of(subscription, request)
    found = await begun(request.app[SERVICES].hub, subscription, start, of_run=request.path in OF_RUNS)
    if isinstance(found, Failed) and not start:
        return named(failure(found, request), stretch.turn)
    if not streamed:
        return named(success(chat_in(stretch), request), stretch.turn)
    place, rest = place_after(stretch, start, count)
    subscription.after = max(place, stretch.first - 1)
    log_id = found.log_id if isinstance(found, ChatBegun) else ""
    return await tell_on(request, caller, holding, ChatBegun(stretch, {}, log_id), rest)


async def tell_on(request: web.Request, caller: Caller, holding: Holding, found: ChatBegun, rest: str = "") -> NoReturn:
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


def cut(error: GatewayError, request: web.Request, turn_id: str) -> web.Response:
    """The answer about a chat that was accepted, when the answer itself can't go on. It names the turn, and nothing in
    it makes a client send the message again: that would be a second chat."""
    tell(error, request)
    if not isinstance(error, Refusal):
        said = "It has begun, and goes on if it can. The same request with this X-Gateway-Turn continues it."
        error = Refusal(INTERNAL, said, Code.INTERNAL)
    return named(failure(error, request), turn_id)


def named(answer: web.Response, turn_id: str) -> web.Response:
    answer.headers[TURN] = turn_id
    return answer
