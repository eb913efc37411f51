"""WebSocket: a socket of its own for each topic."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from adapters.edge.failures import COME_BACK
from adapters.services import SERVICES, Services
from adapters.transports.lastmile import hand_over, released_unless_begun
from adapters.transports.listening import KINDS, Kind, caller_of, take_place
from adapters.transports.sockets import Socket, refuse, shake_hands
from gateway.errors import Code, GatewayError


def socket_route(kind: Kind) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The route that carries a topic over a socket of its own."""

    async def handler(request: web.Request) -> web.StreamResponse:
        services = request.app[SERVICES]
        if not services.settings.use_sse_streaming:
            raise GatewayError(Code.STREAMING_DISABLED)
        try:
            return await _listen(request, services, kind)
        except GatewayError as error:
            if error.code not in COME_BACK:
                raise
            return await refuse(request, error)

    return handler


async def _listen(request: web.Request, services: Services, kind: Kind) -> web.StreamResponse:
    caller = caller_of(request)
    subscription, seat = await take_place(request, services, caller, kind, label="websocket")
    settings = services.settings
    line = Socket(
        services.hub,
        subscription,
        services.metrics.connection("websocket"),
        seat,
        send_timeout=settings.send_timeout,
    )
    with released_unless_begun(line):
        await shake_hands(request)
        line.expire_in(services.authenticator.seconds_left(caller))
        await hand_over(request, line)


def add_routes(app: web.Application) -> None:
    for kind in KINDS:
        app.router.add_get(f"/api/coze/{kind}/{{id}}/ws", socket_route(kind), allow_head=False)
