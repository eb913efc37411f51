"""aiohttp's private parts, as far as serving needs them. In `adapters` only this module knows them.

Read in aiohttp 3.14.5; `pyproject.toml` bounds the version, and `tests/test_aiohttp.py` tries each part by itself.

| part | why | what breaks without it |
|---|---|---|
| `AppRunner._make_server`, `Server._kwargs`, `request_factory`, `RequestHandler.handle_error` | aiohttp has no setting for the class that answers requests that it can't parse | the answer repeats the client's bytes, and lacks the headers that protect it |
| the message that a request is made of, `_replace` | `Expect` is checked before anything else sees the request | aiohttp repeats a strange `Expect` to the client before any check |
| `BaseRequest.writer.output_size` | whether an answer has begun | a failure in the middle of a stream is answered with a second head |
| `web_response.SERVER_SOFTWARE` | the header `Server` of every answer, even if no route answers | every answer shows the versions of aiohttp and Python |
| `http_parser.HttpRequestParser` | whether the parser is the one in C | nobody learns that requests are parsed slowly |
| `http_exceptions.HttpProcessingError` | the exception for a body that breaks HTTP's rules, from the parser in Python | a bad chunk counts as our own failure |
| `StreamResponse._length_check`, `_send_headers_immediately`, `_payload_writer`, its `_headers_buf` | the head and the first events are sent in one write, without chunks | an SSE stream is framed wrongly, or costs one more system call and packet |
| `BaseRequest.protocol`, its `transport`, `connection_lost` | a taken-over connection needs no handler that waits | an idle listener holds 10 KiB instead of 3, or its connection is closed when it is taken over |
| `_websocket.reader`: the reader, its queue and the queue's `_buffer` | a client's messages are read without a task | no message on a WebSocket is read |
"""  # noqa: E501 - a table's row is one line

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import WSMessage, http_parser, web, web_response
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_websocket import WebSocketError
from multidict import CIMultiDictProxy

__all__ = [
    "DeferredHead",
    "HttpProcessingError",
    "JudgingRunner",
    "Make",
    "Messages",
    "has_begun",
    "name_server",
    "parses_slowly",
    "take_transport",
]

Headers = CIMultiDictProxy[str]
Make = Callable[[Headers], web.BaseRequest]
Judge = Callable[[Headers, Make], web.BaseRequest]
"""Makes the request: calls its second argument with the headers that were read, or with others."""
Answer = Callable[[web.BaseRequest, int], web.StreamResponse]
"""Answers a request that could not be parsed (400), or a failure below the routes. Nothing was sent yet."""


# -- the server under the routes --------------------------------------------------------------------------------------


class JudgingRunner(web.AppRunner):
    """An application's runner. `judge` makes each request, `answer` the answers that aiohttp would make itself."""

    def __init__(self, app: web.Application, *, judge: Judge, answer: Answer, **options: Any) -> None:
        super().__init__(app, **options)
        self._judge = judge
        self._answer = answer

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            self._answer,
            made.request_handler,
            request_factory=_judged(made.request_factory, self._judge),
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,
        )


def _judged(make: Callable[..., web.BaseRequest], judge: Judge) -> Callable[..., web.BaseRequest]:
    def make_request(message: Any, *rest: Any) -> web.BaseRequest:
        def made(headers: Headers) -> web.BaseRequest:
            return make(message if headers is message.headers else message._replace(headers=headers), *rest)

        return judge(message.headers, made)

    return make_request


class _Server(web.Server):
    def __init__(self, answer: Answer, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._answer = answer

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self._answer, self, loop=self._loop, **self._kwargs)


class _Protocol(web.RequestHandler):
    __slots__ = ("_answer",)

    def __init__(self, answer: Answer, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._answer = answer

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        self.log_exception("refused", exc_info=exc)
        if has_begun(request):
            raise ConnectionError("the answer had begun")
        answer = self._answer(request, status)
        answer.force_close()
        return answer


def has_begun(request: web.BaseRequest) -> bool:
    """Whether a part of the answer was written."""
    return request.writer.output_size > 0


def name_server(name: str) -> None:
    """Sets the header `Server` of every answer of this process."""
    web_response.SERVER_SOFTWARE = name  # type: ignore[attr-defined]


def parses_slowly() -> bool:
    """Whether aiohttp parses requests in Python, because its C extensions are missing."""
    return http_parser.HttpRequestParser is http_parser.HttpRequestParserPy


# -- a connection that is taken over ----------------------------------------------------------------------------------


class DeferredHead(web.StreamResponse):
    """A response whose body is written without aiohttp. As in aiohttp's WebSocketResponse, there is no length and there
    are no chunks; as in its Response, the head is not sent at once."""

    _length_check = False
    _send_headers_immediately = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Makes the head, and skips what base classes between add to that."""
        return await web.StreamResponse.prepare(self, request)

    def take(self) -> bytes:
        """The head's bytes, which the caller has to send; b"" if aiohttp has sent them already."""
        writer = self._payload_writer
        head: bytes | None = getattr(writer, "_headers_buf", None)
        if head is not None:
            writer._headers_buf = None  # type: ignore[union-attr]
        return head or b""


def take_transport(request: web.Request, protocol: asyncio.Protocol) -> asyncio.Transport | None:
    """Takes the request's transport for `protocol`; None when it is closing. In the next tick the handler is cancelled.

    aiohttp's protocol closes its transport when it is told that the connection is over, so the transport is taken from
    it first. When told, the protocol also cancels the handler (the server runs with `handler_cancellation`).
    """
    served, transport = request.protocol, request.transport
    if transport is None or transport.is_closing():
        return None
    transport.set_protocol(protocol)
    served.transport = None
    asyncio.get_running_loop().call_soon(served.connection_lost, None)
    return transport


class Messages:
    """The messages of a WebSocket's client, read by aiohttp's own reader without a task. Frames are not compressed."""

    __slots__ = ("_queue", "_reader")

    def __init__(self, most_bytes: int) -> None:
        self._queue = WebSocketDataQueue(_Flow(), 2**16, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
        self._reader = WebSocketReader(self._queue, most_bytes, compress=False, decode_text=True)

    def feed(self, data: bytes) -> None:
        self._reader.feed_data(data)

    def __len__(self) -> int:
        """How many messages were read and not taken."""
        return len(self._queue._buffer)

    def clear(self) -> None:
        self._queue._buffer.clear()

    def take(self) -> WSMessage:
        """The next message. There must be one, because then the queue's `read` never waits."""
        reading: Any = self._queue.read()
        try:
            reading.send(None)
        except StopIteration as done:
            message: WSMessage = done.value
            return message
        reading.close()
        raise RuntimeError("the queue had nothing to read")

    @property
    def error(self) -> WebSocketError | None:
        """How the client has broken the protocol; then nothing more is read."""
        error = self._queue.exception()
        return error if isinstance(error, WebSocketError) else None


class _Flow:
    """Stands for the protocol that the queue may pause. It pauses nothing: what has arrived is read to its end."""

    __slots__ = ("_reading_paused",)

    def __init__(self) -> None:
        self._reading_paused = False

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self, resume_parser: bool = True) -> bool:
        self._reading_paused = False
        return False
