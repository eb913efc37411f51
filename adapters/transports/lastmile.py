"""The last mile: a connection that aiohttp has served up to its head, and that a small object serves from then on.

aiohttp parses the request, routes it and sends the head. Then its protocol is taken off the transport and told that
the connection is over, so that its task and everything else that belongs to the request is freed: all that an idle
listener holds is a transport, a cursor and a `Line`. A transport that was taken over has to be closed, its end has to
be noticed, its buffer bounded, and the ledger has to know it. All of that happens here and nowhere else.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol

from aiohttp import web

from adapters.edge.aiohttp_parts import take_transport
from adapters.transports.stall import Stall, acknowledges
from gateway.errors import Code
from gateway.reading.frames import Frame
from gateway.reading.hub import Hub
from gateway.reading.outlet import Encode
from gateway.reading.subscription import Subscription
from gateway.telemetry.metrics import Connection
from gateway.telemetry.words import Closing

HIGH_WATER = 64 * 1024
"""Bytes that may wait for a reader's socket. Beyond that its cursor stands still."""

_PART = 64 * 1024  # bytes of a large frame that are written at once
_MOST_AT_ONCE = 256 * 1024  # bytes of it that are written before other connections get their turn


class Closable(Protocol):
    """What a line holds for as long as it is open: its seat."""

    def close(self) -> object: ...


class Line(asyncio.Protocol):
    """One client at the end of a transport that was taken over. Subclasses speak SSE or WebSocket.

    A line with a subscription is an outlet of the hub. A line without one is only a heart; its topics are the outlets.

    open -> ending (detached from the hub, but what was written is still sent) -> lost (everything is given back).
    """

    __slots__ = (
        "_afterwards",
        "_closes",
        "_connection",
        "_expiry",
        "_full",
        "_given",
        "_large",
        "_reads",
        "_reason",
        "_seat",
        "_stall",
        "greeting",
        "hub",
        "paused",
        "send_timeout",
        "spoke",
        "subscription",
        "transport",
    )
    label: str
    encode: Encode

    def __init__(
        self, hub: Hub, subscription: Subscription | None, connection: Connection, seat: Closable, send_timeout: float
    ) -> None:
        self.hub = hub
        if subscription is not None:
            self.subscription = subscription
        self._reads = subscription is not None
        self.send_timeout = send_timeout
        self.transport: asyncio.Transport | None = None
        self.greeting = b""  # sent before the first event
        self.paused = False
        self.spoke = False
        self._connection = connection
        self._seat = seat
        self._reason: Closing | None = None
        self._stall: Stall | None = None  # while bytes wait for the peer and it accepts none
        self._expiry: asyncio.TimerHandle | None = None
        self._full = False  # whether the transport's buffer is
        self._large: Frame | None = None  # the frame that is being sent: `_given` bytes of it are written
        self._given = 0
        self._afterwards = b""  # small frames that follow the large one
        self._closes = False  # whether the transport is closed once everything is written

    # -- from the transport ---------------------------------------------------------------------------------------

    def begin(self, transport: asyncio.Transport) -> None:
        """Takes over the transport. From now on the hub serves this line."""
        self.transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        if self._reads:
            self.hub.attach(self)
        else:
            self.hub.join(self)

    def data_received(self, data: bytes) -> None:
        pass  # an SSE client has nothing to say: what it sends is dropped

    def eof_received(self) -> bool:
        """A client that closes its half of the connection has left."""
        self._forget_large()
        self.end(Closing.CLIENT_LEFT)
        return False

    def pause_writing(self) -> None:
        self.paused = self._full = True
        self.watch_stall()

    def resume_writing(self) -> None:
        self._full = False
        if self._stall is not None:
            self._stall.moved()
        self._send_large()

    def ready(self) -> None:
        """The line has room again: the hub goes on serving it."""
        if self._reason is None and self._reads:
            self.hub.serve(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        if not isinstance(exc, TimeoutError):
            self.release(Closing.CLIENT_LEFT)
        else:  # the kernel's time-out, TCP_USER_TIMEOUT, also ends a peer that is alive but accepts nothing
            self.release(Closing.SLOW if self.acknowledges() else Closing.HALF_OPEN)

    # -- from the hub ---------------------------------------------------------------------------------------------

    def write(self, frame: bytes) -> None:
        """Sends a small frame, after a large one that is being sent."""
        if self.greeting:
            frame, self.greeting = self.greeting + frame, b""
        if self._large is not None:
            self._afterwards += frame
        elif self.transport is not None:
            self.transport.write(frame)

    def hand(self, frame: Frame) -> None:
        self._large, self._given = frame, 0
        self.paused = True
        self._send_large()

    def _send_large(self) -> None:
        """Writes as much more of the large frame as the transport takes. After its end, and after the small frames that
        follow it, the line is ready."""
        transport = self.transport
        if transport is None or self._full:
            return
        most = self._given + _MOST_AT_ONCE
        while (frame := self._large) is not None:
            part = frame.data[self._given : self._given + _PART]
            self._given += len(part)
            if self._given >= len(frame.data):
                self._large = None
                part += self._afterwards
                self._afterwards = b""
            transport.write(part)
            if self._full:
                break
            if self._large is not None and self._given >= most:
                asyncio.get_running_loop().call_soon(self._send_large)
                return
        if self._large is not None:
            return
        if self._closes:
            self._close()
        elif not self._full:
            self.paused = False
            self.ready()

    def _forget_large(self) -> None:
        self._large = None
        self._afterwards = b""

    def finish(self) -> None:
        self.end(Closing.FINISHED)

    def beat(self, now: float) -> None:
        if self.spoke:
            self.spoke = False
        elif not self.paused:
            self.heartbeat(now)
            self.spoke = True  # skips the next beat: beats come twice per interval
        if self._stall is None and self.transport is not None and self.transport.get_write_buffer_size():
            self.watch_stall()

    def heartbeat(self, now: float) -> None:
        raise NotImplementedError

    def farewell(self, code: Code) -> None:
        raise NotImplementedError

    def busy(self) -> bool:
        return self.subscription.hears_running

    # -- the end --------------------------------------------------------------------------------------------------

    def expire_in(self, seconds: float | None) -> None:
        """Ends the line when its caller's token expires; None means never."""
        if seconds is not None:
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(max(0.0, seconds), self.farewell, Code.UNAUTHORIZED)

    def end(self, reason: Closing) -> None:
        """Closes the connection once everything that was given to it is written. Idempotent."""
        if self._leave(reason):
            self._closes = True
            if self._large is None:
                self._close()

    def _close(self) -> None:
        if (transport := self.transport) is not None:
            transport.close()
            if transport.get_write_buffer_size():
                self.watch_stall()  # closing waits until the buffer is empty, which a dead peer's never is

    def _leave(self, reason: Closing) -> bool:
        """Ends the hub's service. False if it had ended before."""
        if self._reason is not None:
            return False
        self._reason = reason
        if self._reads:
            self.hub.detach(self)
        else:
            self.hub.leave(self)
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        return True

    def release(self, reason: Closing) -> None:
        """The connection is gone: gives everything back. Idempotent."""
        self._leave(reason)
        if self._reads:
            self.subscription.close()  # even if the line never began
        self._forget_large()
        self.flows()
        self.transport = None
        self._connection.close(self._reason or reason)
        self._seat.close()

    def acknowledges(self) -> bool:
        """Whether the peer's machine has acknowledged anything lately. The peer itself may still read nothing."""
        return self.transport is not None and acknowledges(self.transport, self.send_timeout * 0.75)

    def watch_stall(self) -> None:
        """Watches a peer for which bytes wait, and cuts it off when it accepts none for the send time-out."""
        if self.transport is None:
            return
        if self._stall is None:
            self._stall = Stall(self, self.transport, self.hub.unsent)
        self._stall.goes_on()

    def flows(self) -> None:
        """The stall, if there is one, is over."""
        if self._stall is not None:
            self._stall.close()
            self._stall = None

    def cut(self, reason: Closing) -> None:
        """Ends the connection at once and drops what is still unsent, because the peer accepts nothing."""
        self._leave(reason)
        self._forget_large()
        self.flows()
        if self.transport is not None:
            self.transport.abort()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.subscription!r}{', paused' if self.paused else ''})"


@contextmanager
def released_unless_begun(line: Line) -> Iterator[None]:
    """Releases the line if the work within fails, or is cancelled, before the line has its connection."""
    try:
        yield
    except BaseException:
        if line.transport is None:
            line.release(Closing.CLIENT_LEFT)
        raise


async def hand_over(request: web.Request, line: Line) -> NoReturn:
    """Gives the request's transport to `line`. The head must have been sent. The handler ends by being cancelled."""
    if (transport := take_transport(request, line)) is None:
        line.release(Closing.CLIENT_LEFT)
        raise ConnectionResetError("the client left before its stream began")
    line.begin(transport)
    await asyncio.get_running_loop().create_future()  # waits to be cancelled, in the next tick
    raise AssertionError("unreachable")
