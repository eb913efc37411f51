"""Streaming: the connection over which a turn is told as one of Coze's event streams."""

import asyncio
from typing import NoReturn

from aiohttp import HttpVersion11, web

from adapters.edge.aiohttp_parts import DeferredHead
from adapters.edge.limits import Seat
from adapters.facades.coze.failures import LOG_ID, code_of
from adapters.facades.coze.framing import BETWEEN, Framer
from adapters.facades.coze.run_framing import RunFramer
from adapters.services import SERVICES
from adapters.transports.lastmile import Closable, Line, hand_over, released_unless_begun
from gateway.errors import Code, GatewayError
from gateway.log.entry import Entry
from gateway.log.tail import Tail
from gateway.reading.hub import Hub
from gateway.reading.subscription import Subscription
from gateway.sentences import sentence
from gateway.telemetry.metrics import Connection
from gateway.telemetry.words import Closing

LABEL = "coze"
TURN = "X-Gateway-Turn"
"""The header that names the turn: in an answer's head, and in a request that continues it."""


class CozeLine(Line):
    """A reader of Coze's event stream. The response is chunked, so that Coze's SDKs notice when it is cut."""

    __slots__ = ("_chunked", "_framer", "_over")
    label = LABEL

    def __init__(
        self,
        hub: Hub,
        subscription: Subscription,
        connection: Connection,
        seat: Closable,
        *,
        send_timeout: float,
        framer: Framer | RunFramer,
        chunked: bool,
    ) -> None:
        super().__init__(hub, subscription, connection, seat, send_timeout)
        self._framer = framer
        self._chunked = chunked
        self._over = False

    def encode(self, tail: Tail, entries: list[Entry]) -> bytes:
        """The same entries may be asked for again, until they are written and the subscription has moved on."""
        if self._over:
            return b""
        frames, ends = self._framer.frames(self.subscription.after, entries)
        if ends:
            asyncio.get_running_loop().call_soon(self._end_at, entries[-1].sequence)
        return self.chunk(frames)

    def _end_at(self, sequence: int) -> None:
        """Ends the stream once its last record was written; the turn may go on, as after `requires_action`."""
        if self.subscription.after >= sequence:
            self._over = True
            self.finish()

    def chunk(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data

    def heartbeat(self, now: float) -> None:
        self.write(self.chunk(BETWEEN))

    def finish(self) -> None:
        self._close_body()
        self.end(Closing.FINISHED)

    def farewell(self, code: Code) -> None:
        """Coze's clients can't be sent away to come back, so they are told that this stream has failed."""
        self.write(self.chunk(self._framer.failed(code_of(GatewayError(code)), sentence(code, "en"))))
        self._close_body()
        match code:
            case Code.UNAUTHORIZED:
                self.end(Closing.UNAUTHORIZED)
            case Code.DRAINING:
                self.end(Closing.DRAINING)
            case _:
                self.end(Closing.ERROR)

    def _close_body(self) -> None:
        if self._chunked:
            self._chunked = False
            self.write(b"0\r\n\r\n")


class CozeHead(DeferredHead):
    def __init__(self, headers: dict[str, str], *, chunked: bool) -> None:
        super().__init__(headers=headers)
        self.headers["Content-Type"] = "text/event-stream"
        self.headers["Cache-Control"] = "no-cache, no-transform"
        self.headers["X-Accel-Buffering"] = "no"
        self.headers["Connection"] = "close"
        if chunked:
            self.headers["Transfer-Encoding"] = "chunked"


async def stream(
    request: web.Request,
    subscription: Subscription,
    seat: Seat,
    *,
    turn_id: str,
    log_id: str,
    framer: Framer | RunFramer,
    seconds: float | None,
    first: bytes = b"",
) -> NoReturn:
    """Sends the head, then `first`, and hands the connection over. Owns the subscription and the seat from the call
    on, even if it raises."""
    services = request.app[SERVICES]
    chunked = request.version >= HttpVersion11
    line = CozeLine(
        services.hub,
        subscription,
        services.metrics.connection(LABEL),
        seat,
        send_timeout=services.settings.send_timeout,
        framer=framer,
        chunked=chunked,
    )
    with released_unless_begun(line):
        head = CozeHead({TURN: turn_id} | ({LOG_ID: log_id} if log_id else {}), chunked=chunked)
        await head.prepare(request)
        line.greeting = head.take() + line.chunk(first)
        line.expire_in(seconds)
        await hand_over(request, line)
