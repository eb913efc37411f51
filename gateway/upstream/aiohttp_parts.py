"""aiohttp's private parts, as far as calls to Coze need them: the only module in `gateway` that uses them.

Read in aiohttp 3.14.5; `pyproject.toml` bounds the version, and `tests/test_aiohttp.py` tries each part by itself.

| part | why | what breaks without it |
|---|---|---|
| `TCPConnector._get`, `_release`, `_conns` | aiohttp uses an idle connection again for a fixed time; we learn how long Coze keeps one | a message is written on a connection that Coze is just closing, and nobody knows whether it arrived |
| `TCPConnector._factory` | the only way to give a connection's protocol a class of ours | a flood of heads costs a second and 140 MiB |
| `client_proto.ResponseHandler`, its `_payload` and its length | tells whether a read holds heads or a body, and how many heads wait | the same |
| `Connection.protocol`, a handler that is fed by somebody else | to know when one read is over and when the connection is lost, of which aiohttp tells the body nothing in some cases (a malformed chunk) | bytes are read by a task, with the same result but more slowly |
| `ClientSession._retry_connection` | aiohttp repeats an idempotent request by itself when a used connection ends before its answer | a request that is passed on is done twice |
| `StreamReader.feed_data`, its two marks around each chunk, `_timer`, a class that can be swapped | the parser calls the reader that it made (`_http_parser.pyx`: `cb_on_body`, `_on_message_complete`), so the body's bytes are heard there | the same |
"""  # noqa: E501 - a table's row is one line

from collections import deque
from functools import partial
from typing import Any, Protocol, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader

__all__ = [
    "Connector",
    "Handler",
    "Idle",
    "ResponseHandler",
    "StreamReader",
    "Tap",
    "can_tap",
    "handler_of",
    "repeat_nothing",
    "tap",
]


class Handler(ResponseHandler):
    """aiohttp's protocol of one connection."""

    @property
    def in_body(self) -> bool:
        """Whether the next bytes belong to a response's body."""
        return self._payload is not None and not self._payload.is_eof()

    @property
    def heads(self) -> int:
        """The number of heads that wait to be read."""
        return len(self)

    def fail(self, why: str) -> None:
        """Tells the task that waits for an answer that this is not HTTP."""
        self.set_exception(HttpProcessingError(message=why))


Idle = deque[tuple[ResponseHandler, float]]
"""Idle connections to one host, each with the time (`time.monotonic`) at which it became idle."""


class Connector(aiohttp.TCPConnector):
    """A connector whose subclass chooses the idle connection that is used next, and is told of each that is
    returned."""

    def __init__(self, handler: type[Handler], *, keepalive: float) -> None:
        super().__init__(limit=0, keepalive_timeout=keepalive, resolver=aiohttp.ThreadedResolver())
        self._factory = cast("partial[ResponseHandler]", partial(handler, loop=self._loop))

    def choose(self, idle: Idle) -> bool:
        """Moves the connection that is to be used next to the front. False if a new one is to be made."""
        raise NotImplementedError

    def released(self, protocol: ResponseHandler) -> None:
        """A connection was returned; it may be closed already."""
        raise NotImplementedError

    async def _get(self, key: Any, traces: Any) -> Any:
        idle = self._conns.get(key)
        if idle and self.choose(idle):
            return await super()._get(key, traces)
        if not idle:
            self._conns.pop(key, None)
        return None

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        self.released(protocol)


class Tap(Protocol):
    """Receives what the parser gives to a response's body."""

    parts: list[bytes]
    """The body's bytes are added here."""
    between_chunks: bool
    """Whether the parser stands between two of HTTP's chunks. Set at the marks, where the body has them."""


class _Tapped(StreamReader):
    """A reader that keeps nothing. It has no room of its own: the tap is in `_timer`, which only reading uses."""

    __slots__ = ()
    _timer: Tap  # type: ignore[assignment]

    def feed_data(self, data: bytes, size: int = 0) -> bool:
        self._timer.parts.append(data)
        return False

    def begin_http_chunk_receiving(self) -> None:
        self._timer.between_chunks = False

    def end_http_chunk_receiving(self) -> None:
        self._timer.between_chunks = True


def handler_of(response: aiohttp.ClientResponse) -> ResponseHandler | None:
    """The protocol of the connection over which the response comes; None once it is given back or lost."""
    connection = response.connection
    handler = connection.protocol if connection is not None else None
    return handler if handler is not None and handler.transport is not None else None


def repeat_nothing(session: aiohttp.ClientSession) -> None:
    """From now on the session sends each request once, also a GET or a DELETE whose connection ends before the
    answer."""
    session._retry_connection = False


def can_tap(reader: StreamReader) -> bool:
    """Whether `tap` works for this reader."""
    try:
        object.__setattr__(reader, "__class__", _Tapped)
        object.__setattr__(reader, "__class__", StreamReader)
    except TypeError:
        return False
    return hasattr(reader, "_timer")


def tap(reader: StreamReader, listener: Tap) -> None:
    """From now on the parser's calls go to `listener`. The reader still tells the body's end or failure."""
    object.__setattr__(reader, "__class__", _Tapped)
    cast("Any", reader)._timer = listener
