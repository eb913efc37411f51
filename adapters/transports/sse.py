"""Server-sent events: a stream of its own for each reader."""

import random
from collections.abc import Awaitable, Callable
from typing import NoReturn

from aiohttp import web
from aiohttp_sse import EventSourceResponse

from adapters.edge.aiohttp_parts import DeferredHead
from adapters.edge.browser_pages import navigates, not_a_page
from adapters.edge.failures import COME_BACK, spread, sse_farewell, tell
from adapters.edge.limits import Seat
from adapters.services import SERVICES, Services
from adapters.transports import wire
from adapters.transports.lastmile import Closable, Line, hand_over, released_unless_begun
from adapters.transports.listening import KINDS, Kind, caller_of, take_place
from gateway.errors import Code, GatewayError
from gateway.reading.hub import Hub
from gateway.reading.subscription import Subscription
from gateway.telemetry.metrics import Connection
from gateway.telemetry.words import Closing

_CONTENT_TYPE = "text/event-stream; charset=utf-8"
_CACHE_CONTROL = "no-cache, no-transform"


class EventStreamHead(DeferredHead, EventSourceResponse):
    """The head of an event stream whose body a `Line` writes: without chunks, so that it ends with the connection.

    `EventSourceResponse` alone would also set options that our listening socket has set already, and start a task that
    pings; the hub's timer does that for all streams.
    """

    def __init__(self) -> None:
        super().__init__(allow_all_methods=True)
        self.headers["Content-Type"] = _CONTENT_TYPE
        self.headers["Cache-Control"] = _CACHE_CONTROL
        self.headers["Connection"] = "close"


class SseLine(Line):
    """A reader of server-sent events."""

    __slots__ = ("retry_ms",)
    label = "sse"
    encode = staticmethod(wire.sse)

    def __init__(
        self,
        hub: Hub,
        subscription: Subscription,
        connection: Connection,
        seat: Closable,
        *,
        send_timeout: float,
        retry_ms: int,
    ) -> None:
        super().__init__(hub, subscription, connection, seat, send_timeout)
        self.retry_ms = retry_ms
        self.greeting = wire.retry(spread(retry_ms, chance=random.random))

    def heartbeat(self, now: float) -> None:
        self.write(wire.HEARTBEAT)

    def farewell(self, code: Code) -> None:
        if code in (Code.UNAUTHORIZED, Code.NOT_FOUND):
            self.write(f": {code}\n\n".encode())
            self.end(Closing.UNAUTHORIZED if code is Code.UNAUTHORIZED else Closing.FINISHED)
        else:
            self.write(sse_farewell(code, self.retry_ms))
            self.end(Closing.DRAINING if code is Code.DRAINING else Closing.ERROR)


async def stream(
    request: web.Request, subscription: Subscription, seat: Seat, seconds: float | None, headers: dict[str, str]
) -> NoReturn:
    """Sends the head and hands the connection over. Owns the subscription and the seat from the call on, even if it
    raises."""
    services = request.app[SERVICES]
    settings = services.settings
    line = SseLine(
        services.hub,
        subscription,
        services.metrics.connection("sse"),
        seat,
        send_timeout=settings.send_timeout,
        retry_ms=settings.retry_ms,
    )
    with released_unless_begun(line):
        head = EventStreamHead()
        head.headers.update(headers)
        await head.prepare(request)
        line.greeting = head.take() + line.greeting
        line.expire_in(seconds)
        await hand_over(request, line)


def events(kind: Kind) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The route that streams a topic's events."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if navigates(request):
            return not_a_page(request)
        services = request.app[SERVICES]
        if not services.settings.use_sse_streaming:
            raise GatewayError(Code.STREAMING_DISABLED)
        try:
            return await _listen(request, services, kind)
        except GatewayError as error:
            if error.code not in COME_BACK:
                raise
            tell(error, request)
            # A native EventSource never comes back after an error status.
            retry_ms = max(services.settings.retry_ms, (error.retry_after or 0) * 1000)
            farewell = sse_farewell(error.code, retry_ms)
            headers = {"Content-Type": _CONTENT_TYPE, "Cache-Control": _CACHE_CONTROL, "X-Accel-Buffering": "no"}
            return web.Response(body=farewell, headers=headers)

    return handler


async def _listen(request: web.Request, services: Services, kind: Kind) -> web.StreamResponse:
    caller = caller_of(request)
    subscription, seat = await take_place(request, services, caller, kind, label="sse")
    if subscription.over:
        subscription.close()
        seat.close()
        return web.Response(status=204)
    await stream(request, subscription, seat, services.authenticator.seconds_left(caller), {})


def add_routes(app: web.Application) -> None:
    for kind in KINDS:
        app.router.add_get(f"/api/coze/{kind}/{{id}}/events", events(kind), allow_head=False)
