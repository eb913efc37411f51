"""Hands a response's bytes on as they arrive, without waking a task for each read.

aiohttp gives a response's body through a reader that a coroutine awaits. So once the response's head has arrived, this
module puts itself between the transport and aiohttp's protocol (`Transport.set_protocol`, public) and in place of the
body (`aiohttp_parts.tap`), and leaves all of HTTP to aiohttp. The tap uses private parts, so it is tried first; if it
does not work, a task reads instead, with the same result but more slowly.

The module does one thing itself: if a read is exactly one chunk, and the parser is between two chunks, as is so for
nearly every read of a chat, the read bypasses the parser, which is then still between two chunks.
"""

import asyncio
import socket
from typing import Protocol, cast

import aiohttp

from gateway.upstream.aiohttp_parts import ResponseHandler, StreamReader, can_tap, handler_of, tap


class BodySink(Protocol):
    """Receives the bytes. After `finished` or `lost` nothing more is called."""

    def received(self, data: bytes) -> None:
        """The body's bytes of one read, never empty."""

    def finished(self) -> None:
        """The body has ended, and is complete as far as HTTP can tell; its connection is returned to the pool."""

    def lost(self) -> None:
        """The connection broke, or its data are not HTTP."""


class Body(Protocol):
    """A response's body on its way into a sink."""

    def start(self) -> None:
        """Starts; data that have already arrived are handed over before this returns. Call once."""

    def pause(self) -> None:
        """Stops reading from the socket. The data of the last read may still be handed over."""

    def resume(self) -> None: ...

    def detach(self) -> None:
        """Stops calling the sink. The response's owner must still close it."""


def body_of(response: aiohttp.ClientResponse, sink: BodySink) -> Body:
    """The response's body, pushed if possible. Nobody else may read the response."""
    reader, handler = response.content, handler_of(response)
    if handler is None or not can_tap(reader):
        return ReadBody(reader, sink)
    return PushedBody(handler, reader, sink, plain="Content-Encoding" not in response.headers)


class PushedBody(asyncio.Protocol):
    """Stands between a transport and aiohttp's protocol until the body is over.

    `plain` says that the body is not compressed, so that its bytes are exactly those of the chunks.
    """

    __slots__ = (
        "_breathes",
        "_handler",
        "_over",
        "_paused",
        "_plain",
        "_reader",
        "_sink",
        "_transport",
        "between_chunks",
        "parts",
    )

    def __init__(self, handler: ResponseHandler, reader: StreamReader, sink: BodySink, *, plain: bool) -> None:
        self._handler = handler
        self._reader = reader
        self._sink: BodySink | None = sink
        self._transport = cast("asyncio.Transport", handler.transport)
        self._plain = plain
        self._over = False
        self._paused = False
        self._breathes = False  # reading goes on in the loop's next round
        self.parts: list[bytes] = []
        self.between_chunks = False

    def start(self) -> None:
        while not self._reader.exception() and (data := self._reader.read_nowait()):
            self.parts.append(data)
        tap(self._reader, self)
        _acknowledge_later(self._transport)
        self._transport.set_protocol(self)
        self._hand_over()

    def pause(self) -> None:
        self._paused = True
        self._flow()

    def resume(self) -> None:
        self._paused = False
        self._flow()

    def _flow(self) -> None:
        """Resumes or pauses reading from the socket. After the body's end, the connection may belong to somebody
        else."""
        if self._over or self._transport.is_closing():
            return
        if self._paused or self._breathes:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def detach(self) -> None:
        self._sink = None

    def data_received(self, data: bytes) -> None:
        if len(data) > _LARGE:
            self._breathe()
        if self.between_chunks and (content := _one_chunk(data)):
            if self._sink is not None:
                self._sink.received(content)
            return
        self._handler.data_received(data)
        # If the parser last saw the end of a chunk, only a part of a chunk's size can have come after it.
        self.between_chunks = self.between_chunks and self._plain and data.endswith(b"\r\n")
        self._hand_over()

    def eof_received(self) -> None:
        self._handler.eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._handler.connection_lost(exc)
        if self.parts:
            self._hand_over()
        if self._sink is not None:
            self._end(whole=exc is None and self._reader.is_eof() and self._reader.exception() is None)

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def _hand_over(self) -> None:
        """Gives the sink the data of this read: the body's bytes, and perhaps its end."""
        if self.parts:
            data = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
            self.parts.clear()
            if self._sink is not None:
                self._sink.received(data)
        if self._reader.is_eof():
            self._end(whole=True)
        elif self._reader.exception() is not None:
            self._end(whole=False)

    def _breathe(self) -> None:
        """Lets others have their turn after this read: libuv would read 32 times in one go while there is more."""
        if not self._breathes:
            self._breathes = True
            self._flow()
            asyncio.get_running_loop().call_soon(self._breathed)

    def _breathed(self) -> None:
        self._breathes = False
        self._flow()

    def _end(self, *, whole: bool) -> None:
        self._paused = self._breathes = False
        self._flow()
        self._over = True
        if whole and self._handler.transport is not None:
            # aiohttp has put the connection back into its pool: it is no longer ours, and whoever takes it has to hear.
            self._transport.set_protocol(self._handler)
        sink, self._sink = self._sink, None
        if sink is not None:
            (sink.finished if whole else sink.lost)()


def _acknowledge_later(transport: asyncio.Transport) -> None:
    """Lets the kernel acknowledge two pieces at once instead of each one, which saves a packet.

    If no second piece comes in time, Linux returns to its usual way by itself (tcp(7), `TCP_QUICKACK`).
    """
    sock = transport.get_extra_info("socket")
    if sock is not None and hasattr(socket, "TCP_QUICKACK"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)


_SIZE_DIGITS = 8

_LARGE = 64 * 1024
"""Bytes of a read after which there is probably more to read."""


def _one_chunk(data: bytes) -> bytes | None:
    """The content of `data`, if they are exactly one whole chunk (RFC 9112, 7.1); None for anything else."""
    digits = data.find(b"\r\n", 1, _SIZE_DIGITS + 2)
    if digits < 0 or not data.endswith(b"\r\n") or not data[:digits].isalnum():
        return None
    try:
        size = int(data[:digits], 16)
    except ValueError:
        return None
    return data[digits + 2 : -2] if size and len(data) == digits + size + 4 else None


class ReadBody:
    """The same with a task that reads."""

    __slots__ = ("_flowing", "_reader", "_sink", "_task")

    def __init__(self, reader: StreamReader, sink: BodySink) -> None:
        self._reader = reader
        self._sink: BodySink | None = sink
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._read())

    def pause(self) -> None:
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def detach(self) -> None:
        self._sink = None
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def _read(self) -> None:
        whole = True
        try:
            while self._sink is not None and (data := await self._reader.readany()):
                await self._flowing.wait()
                if self._sink is not None:
                    self._sink.received(data)
        except (aiohttp.ClientError, OSError):
            whole = False
        sink, self._sink = self._sink, None
        if sink is not None:
            (sink.finished if whole else sink.lost)()
