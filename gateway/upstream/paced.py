"""Paced reading: hands a body to a sink in portions, and lets other tasks run in between.

One read brings up to 256 KiB. If these are ordinary records of a chat, they are quickly read; if they are records of a
few bytes, or a packed body, they take a hundred times as long.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import aiohttp

from gateway.upstream.portions import PORTION, Portions
from gateway.upstream.push import BodySink, body_of
from gateway.upstream.unpack import BadPacking, Overflow, Unpacker

_TURN_SECONDS = 0.01
"""How long the event loop may be blocked at a time, in seconds."""

_FREE_SECONDS = 1.0
_SECONDS_PER_BYTE = 1 / 65_536
"""The processor time that a body may cost: a fixed amount, and this much for each byte as received. It is ten times
what a chat's stream costs; a bomb of tiny records could cost a thousand times that, within the bounds on its size."""


class BoundedSink(BodySink, Protocol):
    def overflowed(self) -> None:
        """The body unpacks to more than any honest sender would send; nothing more is called."""


class PacedBody:
    """Implements `Body`, and is the sink of the response's own body. `wanted` says whether the sink still listens.

    `unpacker` is None for a body that is not packed: a small read of such a body is handed on directly.
    """

    __slots__ = (
        "_again",
        "_body",
        "_end",
        "_held_back",
        "_loop",
        "_paused",
        "_sink",
        "_source",
        "_spent",
        "_straight",
        "_wanted",
    )

    def __init__(
        self, response: aiohttp.ClientResponse, sink: BoundedSink, unpacker: Unpacker | None, wanted: Callable[[], bool]
    ) -> None:
        self._sink: BoundedSink | None = sink
        self._source: Unpacker | Portions = Portions() if unpacker is None else unpacker
        self._straight = self._most_straight()  # the largest read that is handed on directly, in bytes
        self._wanted = wanted
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None
        self._end: bool | None = None  # whether the packed body's end was a clean one
        self._paused = False
        self._spent = 0.0
        self._held_back = False  # reading is paused until everything so far is handed on
        self._body = body_of(response, self)

    def start(self) -> None:
        self._body.start()

    def pause(self) -> None:
        self._paused = True
        self._body.pause()

    def resume(self) -> None:
        self._paused = False
        self._go_on()
        if not self._held_back:
            self._body.resume()

    def detach(self) -> None:
        self._sink = None
        if self._again is not None:
            self._again.cancel()
        self._body.detach()

    def received(self, data: bytes) -> None:
        if len(data) <= self._straight:
            if self._sink is not None:
                self._sink.received(data)
        elif self._wanted():
            self._straight = 0
            self._source.feed(data)
            self._go_on()

    def finished(self) -> None:
        self._end = True
        self._go_on()

    def lost(self) -> None:
        self._end = False
        self._go_on()

    def _go_on(self) -> None:
        """Hands on as much as can be read in a moment, and schedules itself for the rest."""
        if self._again is not None or self._paused:
            return
        until = self._loop.time() + _TURN_SECONDS
        began = time.thread_time()
        try:
            while self._sink is not None and self._wanted() and (piece := self._source.step()) is not None:
                if piece:
                    self._sink.received(piece)
                if self._paused:
                    return
                if self._loop.time() >= until:
                    self._spent += time.thread_time() - began
                    if self._spent > _FREE_SECONDS + _SECONDS_PER_BYTE * self._source.taken:
                        raise Overflow
                    self._hold_back()
                    return
        except BadPacking:
            self._tell_end(whole=False)
            return
        except Overflow:
            if (sink := self._sink) is not None:
                self._sink = None
                sink.overflowed()
            return
        if self._end is not None:
            self._tell_end(whole=self._end and (self._source.whole or not self._wanted()))
            return
        self._straight = self._most_straight()
        if self._held_back:
            self._held_back = False
            self._body.resume()

    def _most_straight(self) -> int:
        if not isinstance(self._source, Portions) or self._source.in_long_record:
            return 0
        return PORTION

    def _hold_back(self) -> None:
        if not self._held_back and self._end is None:
            self._held_back = True
            self._body.pause()
        self._again = self._loop.call_soon(self._come_back)

    def _come_back(self) -> None:
        self._again = None
        try:
            self._go_on()
        except BaseException:
            self._tell_end(whole=False)
            raise

    def _tell_end(self, *, whole: bool) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            (sink.finished if whole else sink.lost)()
