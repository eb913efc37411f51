"""A chat's stream that Coze has accepted: from the response's bytes to items, until its end."""

import asyncio
from collections.abc import Callable

import aiohttp

from gateway.ledger import Held
from gateway.upstream.coze_protocol import ChatReader
from gateway.upstream.mask import MaskedLog
from gateway.upstream.protocol import OnItems, StreamEnd
from gateway.upstream.push import Body, body_of
from gateway.upstream.sse import SseDecoder

LINGER_SECONDS = 1.0
"""How long a response may stay open after Coze's last word, for its connection to be used again."""


class CozeStream:
    """Implements `ChatStream`. Everything but `ended` is synchronous and runs inside the socket's read.

    `on_gone` is called once, when the response is closed or given back.
    """

    __slots__ = (
        "_body",
        "_decoder",
        "_ended",
        "_held",
        "_idle_timeout",
        "_last",
        "_log",
        "_loop",
        "_on_gone",
        "_on_items",
        "_over",
        "_paused",
        "_reader",
        "_response",
        "_time",
        "_timer",
        "log_id",
    )

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        reader: ChatReader,
        on_items: OnItems,
        *,
        idle_timeout: float,
        held: Held,
        log: MaskedLog | None,
        log_id: str | None,
        on_gone: Callable[["CozeStream"], object],
    ) -> None:
        self.log_id = log_id
        self._response = response
        self._reader = reader
        self._on_items = on_items
        self._idle_timeout = idle_timeout
        self._held: Held | None = held
        self._log = log
        self._on_gone = on_gone
        self._decoder = SseDecoder()
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._ended: asyncio.Future[StreamEnd] = self._loop.create_future()
        self._over = False
        self._paused = False
        self._last = self._time()
        self._timer: asyncio.TimerHandle | None = None
        self._body: Body = body_of(response, self)

    def start(self, first: bytes = b"") -> None:
        """Begins to push items: those in `first`, which was read already, then what comes."""
        self._watch()
        if first:
            self.received(first)
        if self._held is not None:
            self._body.start()

    async def ended(self) -> StreamEnd:
        return await asyncio.shield(self._ended)

    def pause(self) -> None:
        if not self._paused and not self._over:
            self._paused = True
            self._unwatch()
            self._body.pause()

    def resume(self) -> None:
        if self._paused and not self._over:
            self._paused = False
            self._watch()
            self._body.resume()

    def close(self) -> None:
        if not self._over:
            self._end(StreamEnd.BROKEN)

    def abandon(self) -> None:
        """Closes, without waiting for a connection that may be used again."""
        self.close()
        self._drop()

    def received(self, data: bytes) -> None:
        if self._log is not None:
            self._log.received(data)
        if self._over:
            return
        self._last = self._time()
        if events := self._decoder.feed(data):
            if items := self._reader.items(events):
                self._on_items(items)
            if self._reader.done:
                self._end(StreamEnd.FINISHED)
        if self._decoder.too_large:
            self._end(StreamEnd.TOO_LARGE)

    def finished(self) -> None:
        self._end(StreamEnd.BROKEN if self._decoder.cut else StreamEnd.EOF)
        self._drop()

    def lost(self) -> None:
        self._end(StreamEnd.BROKEN)
        self._drop()

    def _end(self, end: StreamEnd) -> None:
        if self._over:
            return
        self._over = True
        self._ended.set_result(end)
        self._unwatch()
        if end is StreamEnd.FINISHED:
            if self._paused:
                self._body.resume()
            self._timer = self._loop.call_later(LINGER_SECONDS, self._drop)
        else:
            self._drop()

    def _drop(self) -> None:
        """Lets go of the response. aiohttp has taken its connection back already where the body came to its end."""
        if self._held is None:
            return
        self._unwatch()
        self._body.detach()
        self._response.close()
        if self._log is not None:
            self._log.close()
        self._held.close()
        self._held = None
        self._on_gone(self)

    def _watch(self) -> None:
        self._last = self._time()
        self._timer = self._loop.call_at(self._last + self._idle_timeout, self._look)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """One timer a stream, not one a read: it looks when the last byte came, and comes back if it must."""
        due = self._last + self._idle_timeout
        if self._time() >= due:
            self._end(StreamEnd.IDLE)
        else:
            self._timer = self._loop.call_at(due, self._look)

    def __repr__(self) -> str:
        end = self._ended.result().value if self._over else "running"
        return f"CozeStream({end}{', paused' if self._paused else ''}, log_id={self.log_id})"
