"""Sockets: the server's side of a WebSocket on a taken-over transport, for one topic or for many."""

import asyncio

import msgspec
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from adapters.edge.aiohttp_parts import Messages
from adapters.edge.failures import COME_BACK_CLOSE_CODE, InvalidRequest, Mistake, close_code_of, tell
from adapters.transports import wire
from adapters.transports.lastmile import Closable, Line
from gateway.errors import Code, GatewayError
from gateway.reading.hub import Hub
from gateway.reading.subscription import Subscription
from gateway.telemetry.metrics import Connection
from gateway.telemetry.words import Closing

MOST_MESSAGE = 64 * 1024
"""Bytes that a message on a topic's own socket may have. Only a `ping` is allowed there."""

_CLOSE_WAIT = 2.0
_FLOOD = 500  # messages and pings in one read: no client that waits for answers sends so many
_LARGE_READ = 32 * 1024  # bytes in one read, after which other connections get their turn
_PONG = wire.frame(wire.TEXT, b'{"type":"pong"}')
_HANDSHAKE = ("Upgrade", "Connection", "Sec-WebSocket-Version", "Sec-WebSocket-Key", "Sec-WebSocket-Protocol")


class Socket(Line):
    """The server's side of a WebSocket on a transport that was taken over. aiohttp's own reader reads the frames.

    The reader is made when the client first sends something: a socket whose client only listens has none.
    """

    __slots__ = ("_goodbye", "_messages", "_pinged", "_waits_for_close")
    label = "websocket"
    encode = staticmethod(wire.websocket)

    def __init__(
        self,
        hub: Hub,
        subscription: Subscription | None,
        connection: Connection,
        seat: Closable,
        *,
        send_timeout: float,
    ) -> None:
        super().__init__(hub, subscription, connection, seat, send_timeout)
        self._goodbye: asyncio.TimerHandle | None = None
        self._pinged: float | None = None
        self._messages: Messages | None = None
        self._waits_for_close = False

    @property
    def most_message(self) -> int:
        """Bytes that one message from the client may have."""
        return MOST_MESSAGE

    # -- what the client says -------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._pinged = None
        messages = self._messages
        if messages is None:
            messages = self._messages = Messages(self.most_message)
        messages.feed(data)
        if len(messages) > _FLOOD:
            messages.clear()
            self._messages = None
            self.goodbye(WSCloseCode.POLICY_VIOLATION, Closing.PROTOCOL)
            if self.transport is not None:
                self.transport.close()
            return
        while messages:
            self._hear(messages.take())
        if len(data) >= _LARGE_READ and self.transport is not None and self.transport.is_reading():
            self.transport.pause_reading()  # uvloop would read on at once, while other connections wait
            asyncio.get_running_loop().call_soon(self.read_on)
        if (error := messages.error) is not None:
            self.goodbye(error.code, Closing.PROTOCOL)

    def read_on(self) -> None:
        """Reads again, unless the connection is closing."""
        transport = self.transport
        if transport is not None and not transport.is_closing() and not transport.is_reading():
            transport.resume_reading()

    def _hear(self, message: WSMessage) -> None:
        if message.type is WSMsgType.CLOSE:
            if not self._waits_for_close:
                self.write(wire.close(message.data or WSCloseCode.OK))
            self.end(Closing.CLIENT_LEFT)
            if self.transport is not None:
                self.transport.close()
        elif self._reason is not None:
            return
        elif message.type is WSMsgType.PING:
            if not self.paused:
                self.write(wire.frame(wire.PONG, message.data))
        elif message.type is WSMsgType.TEXT:
            self.heard(message.data)
        elif message.type is WSMsgType.BINARY:
            self.goodbye(WSCloseCode.POLICY_VIOLATION, Closing.PROTOCOL)

    def heard(self, text: str) -> None:
        """A text message came."""
        if _is_ping(text):
            if not self.paused:
                self.write(_PONG)
        else:
            self.goodbye(WSCloseCode.POLICY_VIOLATION, Closing.PROTOCOL)

    # -- from the hub ---------------------------------------------------------------------------------------------

    def heartbeat(self, now: float) -> None:
        if self._pinged is None:
            self._pinged = now
            self.write(wire.PING)

    def beat(self, now: float) -> None:
        if self._pinged is not None and now - self._pinged >= self.send_timeout:
            self.cut(Closing.SLOW if self.paused and self.acknowledges() else Closing.HALF_OPEN)
            return
        super().beat(now)

    def finish(self) -> None:
        self.goodbye(WSCloseCode.OK, Closing.FINISHED)

    def farewell(self, code: Code) -> None:
        if code is Code.DRAINING:
            self.goodbye(COME_BACK_CLOSE_CODE, Closing.DRAINING)
        else:
            known = {Code.UNAUTHORIZED: Closing.UNAUTHORIZED, Code.NOT_FOUND: Closing.FINISHED}
            closing = known.get(code, Closing.ERROR)
            self.goodbye(close_code_of(code), closing, code.value)

    def goodbye(self, code: int, reason: Closing, words: str = "") -> None:
        """Tells the client why the socket closes, and closes it once the client has answered, or after `_CLOSE_WAIT`
        seconds. Idempotent."""
        if self._leave(reason) and self.transport is not None:
            self.write(wire.close(code, words))
            self._waits_for_close = True
            self._close_soon()

    def _close_soon(self) -> None:
        self._goodbye = asyncio.get_running_loop().call_later(_CLOSE_WAIT, self._close_now)

    def _close_now(self) -> None:
        """Closes without the client's answer. A client that has yet to read what was sent before it gets more time."""
        if self.transport is None:
            return
        if self._large is not None or self.transport.get_write_buffer_size():
            self.watch_stall()
            self._close_soon()
        else:
            self.transport.abort()

    def release(self, reason: Closing) -> None:
        if self._goodbye is not None:
            self._goodbye.cancel()
            self._goodbye = None
        super().release(reason)


def _is_ping(text: str) -> bool:
    try:
        return bool(msgspec.json.decode(text) == {"type": "ping"})
    except (msgspec.DecodeError, RecursionError):
        return False


async def shake_hands(request: web.Request) -> None:
    """Upgrades the connection. Raises `invalid_request` (400) if the request is no WebSocket handshake."""
    await _upgrade(request, web.WebSocketResponse(compress=False, autoping=False, autoclose=False))


async def _upgrade(request: web.Request, socket: web.WebSocketResponse) -> None:
    """Upgrades, after checks that aiohttp lacks: it fails at headers that are not ASCII, and its own refusal repeats
    wrong ones to the client."""
    headers = request.headers
    for name in _HANDSHAKE:
        if not all(map(str.isascii, headers.getall(name, ()))):
            raise InvalidRequest([Mistake(name, "is not ASCII")], status=400)
    try:
        await socket.prepare(request)
    except web.HTTPBadRequest:
        raise InvalidRequest([Mistake("", "is not a WebSocket handshake (RFC 6455, 4.1)")], status=400) from None


async def refuse(request: web.Request, error: GatewayError) -> web.StreamResponse:
    """Upgrades only to close with the error's close code, because a browser's WebSocket can't see an HTTP status."""
    tell(error, request)
    code = error.code
    socket = web.WebSocketResponse(compress=False)
    await _upgrade(request, socket)
    await socket.close(code=close_code_of(code), message=code.value.encode())
    return socket
