"""A small application with the edge's pieces around a few routes: real HTTP, no core."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer

from adapters.edge import body as json_body
from adapters.edge import fields
from adapters.edge.auth import Authenticator
from adapters.edge.failures import request_id
from adapters.edge.forms import read_form
from adapters.edge.guard import Guard
from adapters.edge.server import WebRunner
from gateway.config.settings import Settings
from gateway.errors import Code, GatewayError

Client = TestClient[web.Request, web.Application]
Serve = Callable[..., Awaitable[Client]]


def small_app(settings: Settings, **guard: Any) -> web.Application:
    """Routes that only show how the edge understood a request."""
    app = web.Application()
    who = Authenticator.from_settings(settings)

    async def chat(request: web.Request) -> web.Response:
        body = await fields.read_chat(request, settings, who.authenticate(request))
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")

    async def files(request: web.Request) -> web.Response:
        form = await read_form(request, settings.max_upload_bytes)
        body = b"".join([piece async for piece in form])
        return web.Response(body=body, headers={"Content-Type": form.content_type, "X-Form-Length": str(form.length)})

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        await response.write(b": hello\n\n")
        if request.query.get("then") == "break":
            raise RuntimeError("sk-secret-token")
        if request.query.get("then") == "refuse":
            raise GatewayError(Code.STORAGE_UNAVAILABLE)
        return response

    async def broken(request: web.Request) -> web.Response:
        if (code := request.query.get("code")) is not None:
            raise GatewayError(Code(code))
        raise RuntimeError("sk-secret-token and what the user wrote")

    async def socket(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse(max_msg_size=4096)
        await response.prepare(request)
        async for message in response:
            await response.send_str(message.data)
        return response

    async def named(request: web.Request) -> web.Response:
        return web.Response(text=request_id(request))

    app.router.add_post("/chat", chat)
    app.router.add_post("/files", files)
    app.router.add_get("/stream", stream)
    app.router.add_get("/broken", broken)
    app.router.add_get("/ws", socket)
    for path in ("/metrics", "/debug/ledger", "/sse-stream-test.html", "/client/coze-gateway.js", "/named"):
        app.router.add_get(path, named)
    Guard(settings, **guard).install(app)
    return app


class Served(TestServer):
    """aiohttp's test server, which runs the application as in production."""

    async def _make_runner(self, **_: Any) -> WebRunner:
        return WebRunner(self.app, shutdown_timeout=1.0)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(allowed_origins="https://shop.example")`: a client of a small app with these settings."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*, body_deadline: float | None = None, **settings: Any) -> Client:
            app = small_app(Settings(**settings))
            if body_deadline is not None:
                app[json_body.BODY_DEADLINE] = body_deadline
            server = Served(app)
            await server.start_server()
            return await stack.enter_async_context(TestClient(server))

        yield start


async def talk(client: Client, sent: bytes) -> bytes:
    """Sends raw bytes and reads until the server closes, or until it has answered and is quiet for a moment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    try:
        writer.write(sent)
        await writer.drain()
        got = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(5):
                while part := await reader.read(65536):
                    got += part
                    head, _, body = got.partition(b"\r\n\r\n")
                    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                    if got.endswith(b"\r\n\r\n") and got.split(b" ")[1:2] in ([b"101"], [b"204"]):
                        break
                    if length and len(body) >= int(length[0].split(b":")[1]):
                        break
        return got
    finally:
        writer.close()


__all__ = ["Client", "ClientSession", "Serve", "small_app", "talk"]
