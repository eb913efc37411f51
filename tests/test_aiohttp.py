"""Each private part of aiohttp that the gateway uses, tried by itself: a failure names what a new aiohttp has broken.

The two modules `aiohttp_parts.py` say why each is needed. A new part goes there, and gets a test here.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, http_parser, web, web_response
from aiohttp_sse import EventSourceResponse

from adapters.edge import aiohttp_parts as served
from gateway.upstream import aiohttp_parts as called

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def part(name: str, feature: str) -> Iterator[None]:
    """Says which part is not as it was, and what of the gateway depends on it."""
    try:
        yield
    except Exception as error:
        pytest.fail(f"aiohttp {aiohttp.__version__}: {name} is not as it was, so {feature} ({error!r})", pytrace=True)


# -- calling Coze -----------------------------------------------------------------------------------------------------


class Choosing(called.Connector):
    """Uses every idle connection again, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(called.Handler, keepalive=10)
        self.chosen: list[tuple[Any, float]] = []
        self.back: list[Any] = []

    def choose(self, idle: called.Idle) -> bool:
        self.chosen += idle
        return True

    def released(self, protocol: called.ResponseHandler) -> None:
        self.back.append(protocol)


class Plain(Choosing):
    """Uses connections as aiohttp does, so that only their class is ours."""

    _get = aiohttp.TCPConnector._get
    _release = aiohttp.TCPConnector._release


@asynccontextmanager
async def coze(
    answer: bytes, connector: aiohttp.TCPConnector | None = None
) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """A server that gives this answer to each request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with asyncio.timeout(10), server, aiohttp.ClientSession(connector=connector) as session:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", session


async def test_the_connector_asks_which_idle_connection_is_used_and_tells_of_each_that_comes_back() -> None:
    feature = "connections to Coze that it is about to close are used again"
    with part("TCPConnector._get, _release or _conns", feature):
        connector = Choosing()
        async with coze(ANSWER, connector) as (url, session):
            for _ in range(2):
                async with session.get(url) as response:
                    assert await response.read() == b"ok"
            assert len(connector.back) == 2
            assert connector.back[0] is connector.back[1], "the connection was not used again"
            ((protocol, since),) = connector.chosen
            assert protocol is connector.back[0]
            assert 0 <= time.monotonic() - since < 10


async def test_the_connectors_connections_are_of_the_class_that_it_was_given() -> None:
    with part("TCPConnector._factory", "a flood of heads is not bounded"):
        async with coze(CHUNKED, Plain()) as (url, session), session.get(url) as response:
            assert response.connection is not None
            assert type(response.connection.protocol) is called.Handler


def fed(data: bytes) -> called.Handler:
    """A handler without a connection."""
    handler = called.Handler(asyncio.get_running_loop())
    handler.set_response_params()
    handler.data_received(data)
    return handler


async def test_a_handler_tells_heads_from_a_body() -> None:
    with part("ResponseHandler._payload, or its length", "a flood of heads is not bounded"):
        handler = fed(b"HTTP/1.1 100 Continue\r\n\r\n" * 3)
        assert (handler.heads, handler.in_body) == (3, False)
        handler = fed(CHUNKED)
        assert (handler.heads, handler.in_body) == (1, True)
        handler.data_received(b"0\r\n\r\n")
        assert not handler.in_body
        handler.fail("too many")
        assert isinstance(handler.exception(), served.HttpProcessingError)


class Listener:
    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.marks: list[bool] = []

    @property
    def between_chunks(self) -> bool:
        return self.marks[-1]

    @between_chunks.setter
    def between_chunks(self, value: bool) -> None:
        self.marks.append(value)


async def test_the_parser_gives_a_bodys_bytes_to_the_tap_and_marks_each_chunk() -> None:
    feature = "Coze's bytes are read by a task for each piece, which costs half as much again"
    with part("StreamReader.feed_data, its marks around chunks, or its class", feature):
        listener, handler = Listener(), fed(CHUNKED)
        _, body = await handler.read()
        assert called.can_tap(body)
        called.tap(body, listener)
        handler.data_received(b"3\r\nabc\r\n")
        assert listener.parts == [b"abc"]
        assert listener.marks == [False, True]
        assert not body.is_eof()
        handler.data_received(b"0\r\n\r\n")
        assert body.is_eof()


async def test_a_response_names_the_protocol_of_its_connection_which_anybody_may_feed() -> None:
    with part("Connection.protocol", "Coze's bytes are read by a task for each piece"):
        async with coze(CHUNKED) as (url, session), session.get(url) as response:
            handler = called.handler_of(response)
            assert handler is not None
            handler.data_received(b"3\r\nabc\r\n0\r\n\r\n")
            assert response.connection is None, "the connection did not come back at the body's end"
            assert await response.read() == b"abc"


@pytest.mark.parametrize(("once", "times"), [(False, 2), (True, 1)])
async def test_a_session_can_be_told_to_repeat_nothing(once: bool, times: int) -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(ANSWER)
        with contextlib.suppress(asyncio.IncompleteReadError):
            asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    with part("ClientSession._retry_connection", "what is passed on to Coze is sent twice"):
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with asyncio.timeout(10), server, aiohttp.ClientSession() as session:
            if once:
                called.repeat_nothing(session)
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with session.delete(url) as response:
                assert await response.read() == b"ok"
            try:
                async with session.delete(url) as response:
                    assert await response.read() == b"ok"
            except aiohttp.ServerDisconnectedError:
                assert once
            assert len(asked) == 1 + times


# -- serving ----------------------------------------------------------------------------------------------------------

Handle = Callable[[web.Request], Any]
STRANGE = web.RequestKey("strange", bool)


def judge(headers: Any, make: Any) -> web.BaseRequest:
    if "Strange" not in headers:
        request: web.BaseRequest = make(headers)
        return request
    changed = headers.copy()
    del changed["Strange"]
    request = make(changed)
    request[STRANGE] = True
    return request


def answer(_: web.BaseRequest, status: int) -> web.StreamResponse:
    return web.Response(status=status, text="ours")


@asynccontextmanager
async def gateway(
    handle: Handle, *, ours: bool = False
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server that answers every GET of `/` with `handle`: aiohttp's own, or with our runner."""
    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    if ours:
        runner = served.JudgingRunner(app, judge=judge, answer=answer, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
            try:
                yield reader, writer
            finally:
                writer.close()
    finally:
        await runner.cleanup()


async def head_of(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\r\n\r\n")).decode()


GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


async def nothing(_: web.Request) -> web.Response:
    return web.Response()


async def test_a_request_that_cannot_be_parsed_gets_our_own_answer() -> None:
    feature = "bytes of a client that are no HTTP are repeated to it"
    with part("AppRunner._make_server, Server._kwargs or RequestHandler.handle_error", feature):
        async with gateway(nothing, ours=True) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
            whole = await reader.read()
            assert whole.split(b" ")[1] == b"400"
            assert whole.endswith(b"ours")


async def test_each_request_is_made_by_our_judge() -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.get(STRANGE)} {'Strange' in request.headers}")

    with part("Server.request_factory, or the message's _replace", "a strange Expect is repeated to the client"):
        async with gateway(handle, ours=True) as (reader, writer):
            writer.write(GET.replace(b"\r\n\r\n", b"\r\nStrange: 1\r\n\r\n"))
            await head_of(reader)
            assert await reader.read(10) == b"True False"


async def test_whether_an_answer_has_begun_is_known() -> None:
    seen: list[bool] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append(served.has_begun(request))
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        seen.append(served.has_begun(request))
        return response

    with part("BaseRequest.writer.output_size", "a stream that fails in its middle gets a second head"):
        async with gateway(handle) as (reader, writer):
            writer.write(GET)
            await head_of(reader)
            await reader.read(1)
            assert seen == [False, True]


async def test_the_servers_name_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with part("web_response.SERVER_SOFTWARE", "answers tell which aiohttp and which Python run"):
        monkeypatch.setattr(web_response, "SERVER_SOFTWARE", "another")
        served.name_server("a name of ours")
        async with gateway(nothing) as (reader, writer):
            writer.write(GET)
            assert "\r\nServer: a name of ours\r\n" in await head_of(reader)


def test_the_parser_in_c_is_told_from_the_one_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    with part("http_parser.HttpRequestParser", "nobody is told that requests are parsed slowly"):
        assert not served.parses_slowly()
        monkeypatch.setattr(http_parser, "HttpRequestParser", http_parser.HttpRequestParserPy)
        assert served.parses_slowly()


async def test_a_body_that_breaks_https_rules_raises_what_we_catch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser in C cuts the handler off instead."""
    caught: list[str] = []
    begun = asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        begun.set()
        try:
            await request.read()
        except (served.HttpProcessingError, web.RequestPayloadError) as error:
            caught.append(type(error).__name__)
        return web.Response()

    with part("http_exceptions.HttpProcessingError", "a bad chunk of a client counts as a fault of ours"):
        monkeypatch.setattr("aiohttp.web_protocol.HttpRequestParser", http_parser.HttpRequestParserPy)
        async with gateway(handle) as (reader, writer):
            writer.write(GET.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"))
            await begun.wait()
            writer.write(b"zz\r\n")
            await reader.read()
            assert caught, "something else was raised"


class Head(served.DeferredHead, EventSourceResponse):
    pass


async def test_a_head_can_be_taken_and_nothing_is_sent() -> None:
    taken: list[bytes] = []
    begun: list[bool] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        head = Head()
        await head.prepare(request)
        taken.append(head.take())
        begun.append(served.has_begun(request))
        request.transport.write(taken[0] + b"body")  # type: ignore[union-attr]
        request.transport.close()  # type: ignore[union-attr]
        return head

    with part("StreamResponse._length_check, _send_headers_immediately, _payload_writer or _headers_buf", "SSE breaks"):
        async with gateway(handle) as (reader, writer):
            writer.write(GET)
            whole = await reader.read()
            assert taken[0].startswith(b"HTTP/1.1 200 OK\r\n")
            assert taken[0].endswith(b"\r\n\r\n")
            assert b"chunked" not in taken[0].lower()
            assert b"content-length" not in taken[0].lower()
            assert begun == [False], "aiohttp had sent the head itself"
            assert whole == taken[0] + b"body"


class Echo(asyncio.Protocol):
    transport: asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"heard " + data)


async def test_a_connection_can_be_taken_and_its_handler_ends() -> None:
    ended = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        echo = Echo()
        transport = served.take_transport(request, echo)
        assert transport is not None
        echo.transport = transport
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()
        raise AssertionError

    feature = "an idle listener keeps a parked handler, or its connection is closed as it is taken"
    with part("BaseRequest.protocol, its transport or its connection_lost", feature):
        async with gateway(handle) as (reader, writer):
            writer.write(GET)
            await ended.wait()
            writer.write(b"hello")
            assert await reader.readexactly(11) == b"heard hello"


async def test_a_websockets_messages_are_read_without_a_task() -> None:
    def frame(opcode: int, text: bytes) -> bytes:
        return bytes([0x80 | opcode, 0x80 | len(text), 0, 0, 0, 0]) + text

    with part("_websocket.reader", "nothing that is said on a WebSocket is heard"):
        messages = served.Messages(100)
        messages.feed(frame(1, b"hello") + frame(9, b"?")[:3])
        assert len(messages) == 1
        message = messages.take()
        assert (message.type, message.data) == (WSMsgType.TEXT, "hello")
        messages.feed(frame(9, b"?")[3:])
        assert messages.take().type is WSMsgType.PING
        assert messages.error is None
        messages.feed(frame(1, b"x") * 600)
        assert len(messages) == 600, "a flood is not seen"
        messages.clear()
        assert not len(messages)
        messages.feed(frame(3, b""))
        assert messages.error is not None
        assert messages.error.code == 1002
