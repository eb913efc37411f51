"""Newline-delimited JSON: `GET …/ndjson?after=ID`, one event per line, an empty line as heartbeat."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from adapters.plugin import (
    KINDS,
    PORTION,
    SERVICES,
    Closing,
    Code,
    GatewayError,
    Kind,
    caller_of,
    event,
    position_asked,
    subscribe,
    topic_of,
)

_HEADERS = {"Content-Type": "application/x-ndjson", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Ndjson:
    """What the entry point names: a name for metrics, and routes."""

    name = "ndjson"

    def add_routes(self, app: web.Application) -> None:
        for kind in KINDS:
            app.router.add_get(f"/api/coze/{kind}/{{id}}/ndjson", self._route(kind), allow_head=False)

    def _route(self, kind: Kind) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def listen(request: web.Request) -> web.StreamResponse:
            services = request.app[SERVICES]
            settings = services.settings
            caller = caller_of(request)  # 401 for nobody known
            topic = topic_of(request, kind)
            if services.hub.draining:
                raise GatewayError(Code.DRAINING)
            with services.connections.acquire(caller.listener_account):  # 503 and 429 beyond the limits
                subscription = await subscribe(services, caller, topic, position_asked(request), label=self.name)
                connection = services.metrics.connection(self.name)
                reason = Closing.CLIENT_LEFT
                response = web.StreamResponse(headers=_HEADERS)
                try:
                    await response.prepare(request)
                    while not (subscription.over or services.hub.draining):
                        left = services.authenticator.seconds_left(caller)
                        if left == 0:
                            reason = Closing.UNAUTHORIZED
                            return response
                        wait = settings.heartbeat_interval if left is None else min(left, settings.heartbeat_interval)
                        entries = await subscription.next_batch(wait=wait, most=PORTION)
                        lines = [event(subscription.tail, entry) + b"\n" for entry in entries]
                        async with asyncio.timeout(settings.send_timeout):
                            await response.write(b"".join(lines) or b"\n")
                        services.metrics.delivered(self.name).inc(len(entries))
                    reason = Closing.DRAINING if services.hub.draining else Closing.FINISHED
                except TimeoutError:
                    reason = Closing.SLOW
                    response.force_close()
                finally:
                    connection.close(reason)
                    subscription.close()
            return response

        return listen


transport = Ndjson()
