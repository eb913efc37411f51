"""The player: writes one response's cues to its connection when they are due."""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator

from gateway.simulator.cues import Cue, End

_WRITES_A_TICK = 64
"""Cues taken in one go: many responses share one loop, and an unbounded one must not block it."""

_BUFFERED = 262_144
"""Bytes that may wait for a reader that is behind; beyond that, the player waits, as real senders do."""

_BEHIND_SECONDS = 0.01
_LINGER_NONE = struct.pack("ii", 1, 0)


class Player:
    """One timer, no task. `done` gets the end that was reached, or RESET if the client left before.

    `joined`: cues due at the same moment go out in one write. A clean end is left to the caller, who owns the HTTP
    response; all other ends are made here.
    """

    __slots__ = ("_begins", "_chunked", "_clock", "_cue", "_cues", "_joined", "_loop", "_timer", "_transport", "done")

    def __init__(
        self,
        transport: asyncio.Transport,
        cues: Iterator[Cue],
        *,
        begins: float,
        clock: Callable[[], float],
        chunked: bool,
        joined: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._cues = cues
        self._cue = next(cues)
        self._begins = begins
        self._clock = clock
        self._chunked = chunked
        self._joined = joined
        self.done: asyncio.Future[End] = self._loop.create_future()
        self._timer: asyncio.Handle = self._loop.call_soon(self._tick)

    def stop(self) -> None:
        """Writes nothing more. What was written stays, and the connection too."""
        self._timer.cancel()
        if not self.done.done():
            self.done.set_result(End.RESET)

    def cut(self) -> None:
        """Closes the connection at once, as a server that goes away does."""
        self._transport.abort()
        self.stop()

    def _tick(self) -> None:
        if self._transport.is_closing():
            self.stop()
            return
        if self._transport.get_write_buffer_size() > _BUFFERED:
            self._timer = self._loop.call_later(_BEHIND_SECONDS, self._tick)
            return
        now = self._clock() - self._begins
        due: list[bytes] = []
        for _ in range(_WRITES_A_TICK):
            cue = self._cue
            if cue.at > now:
                break
            if cue.end is not None:
                if cue.data:
                    due.append(cue.data)
                self._write(due, cut=cue.end is End.CUT_CHUNK)
                self._finish(cue.end)
                return
            due.append(cue.data)
            self._cue = next(self._cues)
        self._write(due)
        # A wait of nothing still lets the others run first.
        self._timer = self._loop.call_later(max(0.0, self._cue.at - now), self._tick)

    def _write(self, due: list[bytes], *, cut: bool = False) -> None:
        if not due:
            return
        for data in [b"".join(due)] if self._joined else due:
            if self._chunked:
                size = len(data) * 2 if cut else len(data)
                self._transport.write(b"%x\r\n%b" % (size, data if cut else data + b"\r\n"))
            else:
                self._transport.write(data)

    def _finish(self, end: End) -> None:
        match end:
            case End.STALL:
                return  # `done` waits for `stop`
            case End.DROP | End.CUT_CHUNK:
                self._transport.close()
            case End.RESET:
                reset(self._transport)
            case End.EOF:
                pass
        self.done.set_result(end)


def reset(transport: asyncio.Transport) -> None:
    """Ends the connection with RST instead of FIN, and drops unsent data."""
    if (sock := transport.get_extra_info("socket")) is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    transport.abort()
