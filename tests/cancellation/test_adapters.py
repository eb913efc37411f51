"""Every route cancelled at every await, as it is when its client leaves: seats, cursors and sockets are given back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from adapters.composition import make_app
from adapters.edge.server import WebRunner
from adapters.services import Services
from gateway.simulator import whole_text
from gateway.turns.orders import Order
from tests.cancellation.conftest import OpenCore, balanced
from tests.cancellation.steps import Cut
from tests.faults.reading import GONE, Reader, client

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ROUTES = (
    "GET turns/{turn}/events",
    "GET turns/{turn}/ws",
    "GET turns/{turn}/poll?wait=1",
    "GET conversations/{conversation}/events",
    "GET conversations/{conversation}/ws",
    "GET conversations/{conversation}/poll?wait=0",
    "GET conversations/{conversation}/messages",
    "GET shops/shop-1/events",
    "GET turns/{turn}",
    "POST turns/{turn}/cancel",
    "GET ws",
    "POST chat/stream",
    "POST chat",
)
NEVER_WAIT = ("turns/{turn}", "turns/{turn}/cancel", "turns/{turn}/poll?wait=1")
"""Of a running turn: all that they need is in memory."""


@asynccontextmanager
async def _listening(services: Services, cuts: list[Cut]) -> AsyncIterator[str]:
    """The routes over real sockets. The last cut is made in the next request's handler."""

    @web.middleware
    async def cutting(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not cuts:
            return await handler(request)
        answer: web.StreamResponse = await cuts.pop().run(handler(request))  # type: ignore[arg-type]
        return answer

    app = make_app(services.settings, services)
    app.middlewares.append(cutting)
    runner = WebRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("route", ROUTES)
async def test_a_route_cancelled_at_any_await_gives_everything_back(open_core: OpenCore, route: str) -> None:
    method, path = route.split(" ")
    async with open_core(port=0) as services, client() as session:
        cuts: list[Cut] = []
        async with _listening(services, cuts) as url:
            order = Order(user_id="u1", bot_id="b1", message="/fault plain pieces:300 rate:20", shop_id="shop-1")
            known = await services.turns.start(order, owns=lambda *_: True)
            where = f"{url}/api/coze/{path.format(turn=known.turn_id, conversation=known.conversation_id)}"
            body = {"userId": "u1", "botId": "b1", "message": "/fault plain pieces:2 -- quick"}
            for at in range(1, 40):
                here = Cut(at)
                cuts.append(here)
                with contextlib.suppress(*GONE):
                    async with asyncio.timeout(0.4):
                        if path.endswith("ws"):
                            async with session.ws_connect(where) as socket:
                                await socket.receive()
                        else:
                            given = body if method == "POST" and path.startswith("chat") else None
                            async with session.request(method, where, json=given) as response:
                                await response.content.readany()
                cuts.clear()
                await balanced(services, "connection", "websocket", "subscription")
                assert services.connections.open == 0
                if not here.reached:
                    break
            else:
                pytest.fail("it never came to its end")
            assert at > 1 or path in NEVER_WAIT
            reader = Reader()
            await reader.ask(session, url, "/fault plain pieces:2 -- still there?")
            assert reader.text == whole_text("/fault plain pieces:2 -- still there?")
            if (live := services.turns._runner.turns.get(known.turn_id)) is not None:
                services.turns._runner.cancel(live)
            await balanced(services)


async def test_a_client_that_leaves_at_any_moment_of_an_opening_leaves_nothing(open_core: OpenCore) -> None:
    async with open_core(port=0) as services, client() as session, _listening(services, []) as url:
        order = Order(user_id="u1", bot_id="b1", message="/fault plain pieces:300 rate:20")
        known = await services.turns.start(order, owns=lambda *_: True)
        for kind in ("events", "ws", "poll?wait=5"):
            for number in range(40):
                where = f"{url}/api/coze/turns/{known.turn_id}/{kind}"

                async def listen(where: str = where) -> None:
                    if where.endswith("ws"):
                        async with session.ws_connect(where) as socket:
                            await socket.receive()
                    else:
                        async with session.get(where) as response:
                            await response.content.readany()

                task = asyncio.create_task(listen())
                for _ in range(number):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, aiohttp.ClientError):
                    await task
        live = services.turns._runner.turns.get(known.turn_id)
        assert live is not None
        services.turns._runner.cancel(live)
        await balanced(services)
        assert services.connections.open == 0
