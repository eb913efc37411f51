"""A stall: the time in which a reader's socket accepts nothing, watched until bytes move or the reader is cut off."""

import asyncio
import socket
import struct
from typing import Protocol

from gateway.reading.unsent import Hold, Unsent
from gateway.telemetry.words import Closing

_LAST_ACK = struct.Struct("@56xI")  # tcpi_last_ack_recv of Linux's struct tcp_info: milliseconds


class Stallable(Protocol):
    """The connection that stalls."""

    send_timeout: float

    def cut(self, reason: Closing) -> None:
        """Ends the connection at once."""

    def flows(self) -> None:
        """Nothing is unsent any more: the stall is over, and the reader closes it."""


class Stall:
    """Cuts the reader off if no byte moves for its send time-out, or if others need the room that its bytes take."""

    __slots__ = ("_look", "_reader", "_room", "_since", "_size", "_transport", "_unsent")

    def __init__(self, reader: Stallable, transport: asyncio.Transport, unsent: Unsent) -> None:
        loop = asyncio.get_running_loop()
        self._reader = reader
        self._transport = transport
        self._unsent = unsent
        self._room: Hold | None = None  # what the unsent bytes take of the bound for all clients
        self._size = transport.get_write_buffer_size()
        self._since = loop.time()
        self._look = loop.call_later(reader.send_timeout / 4, self._look_at_it)

    def goes_on(self) -> None:
        """The socket accepts nothing, for the first time or again: counts the unsent bytes."""
        if self._room is None:
            self._room = self._unsent.note(self._transport.get_write_buffer_size(), self._make_room)

    def moved(self) -> None:
        """The peer has accepted so much that the transport takes more. If it stalls again, its time begins anew."""
        self._give_room_back()
        self._since = asyncio.get_running_loop().time()
        self._size = self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Ends the watch. Idempotent."""
        self._give_room_back()
        self._look.cancel()  # the timer would keep the reader, and everything that it holds, in memory

    def _give_room_back(self) -> None:
        if self._room is not None:
            self._room.close()
            self._room = None

    def _make_room(self) -> None:
        self._reader.cut(Closing.SLOW)

    def _look_at_it(self) -> None:
        loop = asyncio.get_running_loop()
        size = self._transport.get_write_buffer_size()
        if not size:
            self._reader.flows()
            return
        if size < self._size:
            self._since = loop.time()
        self._size = size
        if loop.time() - self._since >= self._reader.send_timeout:
            self._reader.cut(Closing.SLOW)
            return
        self._look = loop.call_later(self._reader.send_timeout / 4, self._look_at_it)


def acknowledges(transport: asyncio.Transport, within: float) -> bool:
    """Whether the peer has acknowledged anything in the last `within` seconds.

    A client that reads nothing still answers the kernel's probes; one that is gone does not.
    """
    if not hasattr(socket, "TCP_INFO"):
        return False
    sock = transport.get_extra_info("socket")
    try:
        (ago,) = _LAST_ACK.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK.size))
    except (OSError, struct.error):
        return False
    return bool(ago < within * 1000)
