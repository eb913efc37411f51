"""Long-poll: a request that is answered once there are events, for clients behind a proxy that buffers."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from adapters.edge.delivery import deliver
from adapters.edge.query import poll_query, position_asked
from adapters.services import SERVICES
from adapters.transports import wire
from adapters.transports.listening import KINDS, Kind, caller_of, subscribe, topic_of
from gateway.errors import Code, GatewayError
from gateway.reading.frames import PORTION
from gateway.telemetry.words import Closing

_HEADERS = {"Cache-Control": "no-store", "Content-Type": "application/json"}


def poll(kind: Kind) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The route that answers with the next events of a topic."""

    async def handler(request: web.Request) -> web.StreamResponse:
        services = request.app[SERVICES]
        caller = caller_of(request)
        topic = topic_of(request, kind)
        wait, limit = poll_query(request)
        if services.hub.draining:
            raise GatewayError(Code.DRAINING)
        asked = position_asked(request)
        left = services.authenticator.seconds_left(caller)
        with services.connections.acquire(caller.listener_account):
            subscription = await subscribe(services, caller, topic, asked, label="longpoll")
            connection = services.metrics.connection("longpoll")
            reason = Closing.CLIENT_LEFT
            try:
                patience = wait if left is None else min(wait, left)
                entries = await subscription.next_batch(wait=patience, limit=limit, most=PORTION)
                if not entries and left is not None and services.authenticator.seconds_left(caller) == 0:
                    reason = Closing.UNAUTHORIZED
                    raise GatewayError(Code.UNAUTHORIZED)
                tail = subscription.tail
                body = wire.poll(tail, entries, after=tail.position(subscription.after), ended=subscription.over)
                services.observer.events_delivered("longpoll", len(entries))
                entries.clear()
                subscription.close()  # while a slow client takes the answer, it holds nothing but the answer
                answer = await deliver(request, web.Response(body=body, headers=_HEADERS))
                reason = Closing.FINISHED
            finally:
                connection.close(reason)
                subscription.close()
        return answer

    return handler


def add_routes(app: web.Application) -> None:
    for kind in KINDS:
        app.router.add_get(f"/api/coze/{kind}/{{id}}/poll", poll(kind), allow_head=False)
