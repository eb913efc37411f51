"""The last mile: a connection that aiohttp has served up to its head, carried on by an object of a few slots.

aiohttp parses the request, routes it and sends the head. Then its protocol is taken off the transport and told that
the connection is over, so that its task and all that belongs to the request can go; what is left of an idle listener
is a transport, a cursor and a `Line`. Whoever takes a transport closes it, notices its end, bounds its buffer and
holds it in the ledger: all of that is here and nowhere else.
"""

import asyncio
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
"""Bytes of ours that may wait for a reader's socket; beyond, its cursor stands still."""

_PART = 64 * 1024  # of a large frame, written at once
_MOST_AT_ONCE = 256 * 1024  # of it, before others get their turn


class Place(Protocol):
    """Something held for as long as the line is open."""

    def close(self) -> object: ...


class Line(asyncio.Protocol):
    """One client at the end of a taken-over transport. Subclasses speak a transport's words.

    With a subscription it is an outlet of the hub; without one it is a heart only, and its topics are the outlets.

    open -> ending (detached from the hub, what was written still goes out) -> lost (everything given back).
    """

    __slots__ = (
        "_afterwards",
        "_closes",
        "_connection",
        "_expiry",
        "_full",
        "_given",
        "_large",
        "_place",
        "_reads",
        "_reason",
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
        self, hub: Hub, subscription: Subscription | None, connection: Connection, place: Place, send_timeout: float
    ) -> None:
        self.hub = hub
        if subscription is not None:
            self.subscription = subscription
        self._reads = subscription is not None
        self.send_timeout = send_timeout
        self.transport: asyncio.Transport | None = None
        self.greeting = b""  # goes out before the first event
        self.paused = False
        self.spoke = False
        self._connection = connection
        self._place = place
        self._reason: Closing | None = None
        self._stall: Stall | None = None  # while the peer has something to accept and does not
        self._expiry: asyncio.TimerHandle | None = None
        self._full = False  # the transport wants no more
        self._large: Frame | None = None  # it is on its way: `_given` bytes of it are written
        self._given = 0
        self._afterwards = b""  # small things that were said meanwhile
        self._closes = False  # once all is written

    # -- from the transport ---------------------------------------------------------------------------------------

    def begin(self, transport: asyncio.Transport) -> None:
        """The transport is ours: from now on the hub serves this line."""
        self.transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        if self._reads:
            self.hub.attach(self)
        else:
            self.hub.join(self)

    def data_received(self, data: bytes) -> None:
        pass  # an SSE client has nothing to say; what it says costs nothing

    def eof_received(self) -> bool:
        """A client that closes its half has left."""
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
        """The line takes more: what it is subscribed to goes on."""
        if self._reason is None and self._reads:
            self.hub.serve(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        if not isinstance(exc, TimeoutError):
            self.release(Closing.CLIENT_LEFT)
        else:  # of the kernel: also a peer that is there and accepts nothing (TCP_USER_TIMEOUT)
            self.release(Closing.SLOW if self.acknowledges() else Closing.HALF_OPEN)

    # -- from the hub ---------------------------------------------------------------------------------------------

    def write(self, frame: bytes) -> None:
        """Sends something small."""
        if self._large is not None:
            self._afterwards += frame
        elif self.transport is not None:
            self.transport.write(frame)

    def hand(self, frame: Frame) -> None:
        self._large, self._given = frame, 0
        self.paused = True
        self._send_large()

    def _send_large(self) -> None:
        """Writes on at a large frame as far as the transport takes it, then what was said meanwhile, then is ready."""
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
            self.spoke = True  # the next beat comes after half an interval
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
        """Ends the line when its caller's token does."""
        if seconds is not None:
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(max(0.0, seconds), self.farewell, Code.UNAUTHORIZED)

    def end(self, reason: Closing) -> None:
        """Closes the connection after all that was given to it. Idempotent."""
        if self._leave(reason):
            self._closes = True
            if self._large is None:
                self._close()

    def _close(self) -> None:
        if (transport := self.transport) is not None:
            transport.close()
            if transport.get_write_buffer_size():
                self.watch_stall()  # a close waits for the buffer, and a dead peer never empties it

    def _leave(self, reason: Closing) -> bool:
        """Nothing more is served. Whether this was the first to say so."""
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
        """The connection is no more: gives everything back. Idempotent."""
        self._leave(reason)
        if self._reads:
            self.subscription.close()  # also of a line that never began
        self._forget_large()
        self.flows()
        self.transport = None
        self._connection.close(self._reason or reason)
        self._place.close()

    def acknowledges(self) -> bool:
        """Whether the peer has acknowledged anything lately, though it may read nothing."""
        return self.transport is not None and acknowledges(self.transport, self.send_timeout * 0.75)

    def watch_stall(self) -> None:
        """Watches a peer that has something to accept, and cuts it off when nothing moves for the send time-out."""
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
        """Ends the connection at once, whatever is still unsent: the peer accepts nothing."""
        self._leave(reason)
        self._forget_large()
        self.flows()
        if self.transport is not None:
            self.transport.abort()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.subscription!r}{', paused' if self.paused else ''})"


async def hand_over(request: web.Request, line: Line) -> NoReturn:
    """Takes the request's transport for `line`. The head must have been sent. Ends the handler by cancelling it."""
    if (transport := take_transport(request, line)) is None:
        line.release(Closing.CLIENT_LEFT)
        raise ConnectionResetError("the client left before its stream began")
    line.begin(transport)
    await asyncio.get_running_loop().create_future()  # until cancelled, in the next tick
    raise AssertionError("unreachable")
