"""A chat's stream: from the response's bytes to items, until its end."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

import aiohttp

from gateway.errors import UpstreamError
from gateway.telemetry.ledger import Held
from gateway.upstream import opening
from gateway.upstream.codes import is_refusal
from gateway.upstream.mask import MaskedLog
from gateway.upstream.paced import PacedBody
from gateway.upstream.protocol import ChatFailed, Item, OnItems, Opened, Skipped, StreamEnd, Verbatim
from gateway.upstream.refusal import log_id_of, refused, refused_in_stream
from gateway.upstream.sse import SseDecoder, SseEvent
from gateway.upstream.unpack import Unpacker

LINGER_SECONDS = 1.0
"""How long a response may stay open after the end of the stream, so that its connection can be reused."""


class Reader(Protocol):
    """Makes items of one stream's records. After `done` there are no more."""

    @property
    def done(self) -> bool: ...

    def items(self, events: Iterable[SseEvent]) -> list[Item]: ...

    def last_items(self, record: SseEvent) -> list[Item] | None:
        """The items of a last record without its blank line, after a clean end; None if the record is cut."""

    def tells_of_failure(self, name: bytes) -> bool:
        """Whether a record of this type reports a failure, whatever its data are."""


class CozeStream:
    """Implements `ChatStream`. Everything except `opened` and `ended` is synchronous and runs inside the socket's read.

    `began` says that Coze has this chat already, so that its failure is not a refusal. `on_gone` is called once, when
    the response is closed or given back.
    """

    __slots__ = (
        "_began",
        "_beginning",
        "_body",
        "_decoder",
        "_ended",
        "_held",
        "_idle_timeout",
        "_is_answer",
        "_labelled",
        "_last",
        "_listener",
        "_log",
        "_loop",
        "_named",
        "_on_gone",
        "_on_items",
        "_opened",
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
        unpacker: Unpacker | None,
        read: Callable[[SseDecoder], Reader],
        on_items: OnItems,
        *,
        began: bool,
        idle_timeout: float,
        held: Held,
        log: MaskedLog | None,
        on_gone: Callable[["CozeStream"], object],
    ) -> None:
        self.log_id = log_id_of(response.headers)
        self._response = response
        self._began = began
        self._listener = on_items
        self._on_items: OnItems = self._first_items  # until Coze has said what happens to the message
        self._labelled = "event-stream" in response.headers.get("Content-Type", "").lower()
        self._beginning: bytes | None = b""  # held until it is clear whether this is an event stream at all
        self._is_answer = False  # it is not an event stream
        self._named = False
        self._idle_timeout = idle_timeout
        self._held: Held | None = held
        self._log = log
        self._on_gone = on_gone
        self._decoder = SseDecoder()
        self._reader = read(self._decoder)
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._opened: asyncio.Future[UpstreamError | None] = self._loop.create_future()
        self._ended: asyncio.Future[StreamEnd] = self._loop.create_future()
        self._over = False
        self._paused = False
        self._last = self._time()
        self._timer: asyncio.TimerHandle | None = None
        self._body = PacedBody(response, self, unpacker, lambda: not self._over)

    def start(self) -> None:
        self._watch()
        self._body.start()

    async def opened(self) -> None:
        """Waits until Coze tells what happens to the message, or for the end. Raises a refusal as an
        `UpstreamError`."""
        if (error := await asyncio.shield(self._opened)) is not None:
            raise error

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
        """Closes the response, without waiting for its connection to become reusable."""
        self.close()
        self._drop()

    def received(self, data: bytes) -> None:
        if self._log is not None:
            self._log.received(data)
        if self._over:
            return
        self._last = self._time()
        if self._beginning is not None and not (data := self._begin(data)):
            return
        if events := self._decoder.feed(data):
            items = self._reader.items(events)
            del events  # one of them may have megabytes
            if items:
                self._on_items(items)
            if self._reader.done:
                self._stop(StreamEnd.FINISHED)
        if self._decoder.too_large:
            self._stop(StreamEnd.TOO_LARGE)

    def finished(self) -> None:
        self._stop(StreamEnd.EOF)
        self._drop()

    def lost(self) -> None:
        self._stop(StreamEnd.BROKEN)
        self._drop()

    def overflowed(self) -> None:
        self._stop(StreamEnd.TOO_LARGE)
        self._drop()

    # -- what this answer is, and whether it is a refusal -------------------------------------------------------

    def _begin(self, data: bytes) -> bytes:
        """The bytes to decode, once it is clear that this is an event stream; until then the bytes are held."""
        text = self._beginning + data if self._beginning else data
        match opening.opened(text, labelled=self._labelled):
            case "stream":
                self._beginning = None
                return text
            case "answer" if len(text) > opening.LIMIT:
                self._refuse(refused(200, self._response.headers, text))
            case "answer" if not self._is_answer:
                self._is_answer = True
                self._unwatch()
                self._timer = self._loop.call_later(opening.ANSWER_SECONDS, self._look)
        self._beginning = text
        return b""

    def _first_items(self, items: list[Item]) -> None:
        """Takes the stream's items until one of them tells what happened to the message."""
        first = next((item for item in items if not isinstance(item, Skipped | Verbatim)), None)
        refusal = first if isinstance(first, ChatFailed) and self._is_refusal(first) else None
        if refusal is not None:
            items = [item for item in items if isinstance(item, Skipped)]
        elif first is not None:
            self._on_items = self._listener
            self._opened.set_result(None)
        self._name_it(items)
        if refusal is not None:
            self._refuse(refused_in_stream(self._response.headers, refusal))

    def _is_refusal(self, failed: ChatFailed) -> bool:
        """Whether this is a failure of the request, or of a chat for which Coze had no capacity."""
        return not failed.exists or (not self._began and is_refusal(failed.coze_code))

    def _name_it(self, items: list[Item]) -> None:
        """Hands on items, and before the first of them the stream's log id."""
        if self.log_id and not self._named:
            self._named = True
            items = [Opened(self.log_id), *items]
        if items:
            self._listener(items)

    def _refuse(self, error: UpstreamError) -> None:
        self._opened.set_result(error)
        self._end(StreamEnd.BROKEN)

    def _stop(self, end: StreamEnd) -> None:
        """Ends the stream with this reason, which closing it later does not change."""
        if self._over:
            return
        if self._beginning is not None and not (self._labelled and not self._is_answer):
            self._refuse(refused(200, self._response.headers, self._beginning))
            return
        tells_of_failure = self._reader.tells_of_failure(self._decoder.open_event)
        if end is StreamEnd.EOF:
            end = self._last_record()
        if end in (StreamEnd.BROKEN, StreamEnd.IDLE) and tells_of_failure:
            end = StreamEnd.FAILING
        if not self._opened.done():
            self._name_it([])
        self._end(end)

    def _last_record(self) -> StreamEnd:
        """Takes the last record, if it lacks its blank line but is complete, after a clean end of the body."""
        if not self._decoder.cut:
            return StreamEnd.EOF
        record = self._decoder.open_record()
        items = self._reader.last_items(record) if record is not None else None
        if items is None:
            return StreamEnd.BROKEN
        if items:
            self._on_items(items)
        return StreamEnd.FINISHED if self._reader.done else StreamEnd.EOF

    def _end(self, end: StreamEnd) -> None:
        if self._over:
            return
        self._over = True
        if not self._opened.done():
            self._opened.set_result(None)
        self._ended.set_result(end)
        self._unwatch()
        if end is StreamEnd.FINISHED:
            if self._paused:
                self._body.resume()
            self._timer = self._loop.call_later(LINGER_SECONDS, self._drop)
        else:
            self._drop()

    def _drop(self) -> None:
        """Releases the response. If the body came to its end, aiohttp has already taken its connection back."""
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
        """The idle timer. There is one per stream, not one per read: it checks when the last byte came, and
        reschedules."""
        due = self._last + self._idle_timeout
        if self._is_answer or self._time() >= due:
            self._stop(StreamEnd.IDLE)
        else:
            self._timer = self._loop.call_at(due, self._look)

    def __repr__(self) -> str:
        end = self._ended.result().value if self._over else "running"
        return f"CozeStream({end}{', paused' if self._paused else ''}, log_id={self.log_id})"
