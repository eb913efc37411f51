"""Delivery: brings the news of logs to the outlets that read them."""

import asyncio
from collections.abc import Iterator

from gateway.errors import Code
from gateway.log.tail import Tail
from gateway.reading.delivered import Delivered
from gateway.reading.frames import LARGE, PORTION
from gateway.reading.outlet import Outlet
from gateway.reading.serving import Serving

_WRITES_A_TICK = 1000  # deliveries before new connections and other logs get their turn
_SLICE = 250  # how many of these may be on one log


class Delivery:
    """Knows which outlets read which log. Once per tick of the loop, it serves the outlets of each log that has news.

    Outlets at the same position get the same frame, encoded once. An outlet that is not ready keeps its cursor, and
    gets one joined frame when it is ready.
    """

    def __init__(self, serving: Serving, *, delivered: Delivered, loop: asyncio.AbstractEventLoop) -> None:
        self._serving = serving
        self._delivered = delivered
        self._loop = loop
        self._outlets: dict[Tail, dict[Outlet, None]] = {}
        self._due: dict[Tail, None] = {}
        self._work = self._slices()
        self._scheduled = False

    def add(self, outlet: Outlet) -> None:
        self._put(outlet, outlet.subscription.tail)

    def remove(self, outlet: Outlet) -> None:
        """Idempotent."""
        self._take(outlet, outlet.subscription.tail)

    def _put(self, outlet: Outlet, tail: Tail) -> None:
        self._outlets.setdefault(tail, {})[outlet] = None
        tail.watchers[self] = None

    def _take(self, outlet: Outlet, tail: Tail) -> None:
        outlets = self._outlets.get(tail, {})
        outlets.pop(outlet, None)
        if not outlets and self._outlets.pop(tail, None) is not None:
            tail.watchers.pop(self, None)
            self._serving.drop(tail)

    def redirect(self, turn: str, old: Tail, new: Tail) -> None:
        """The turn will never appear in `old`: its outlets read `new` from now on."""
        for outlet in [one for one in self._outlets.get(old, ()) if one.subscription.turn == turn]:
            self._take(outlet, old)
            self._put(outlet, new)

    def dismiss(self, tail: Tail) -> None:
        """The log is gone: gives its outlets what is left of it, and tells them to go."""
        for outlet in list(self._outlets.get(tail, ())):
            self._serving.serve(outlet)
            if not outlet.subscription.closed:
                outlet.farewell(Code.NOT_FOUND)

    # -- news -----------------------------------------------------------------------------------------------------

    def news(self, tail: Tail) -> None:
        """A log has something new for the attached outlets."""
        self._due[tail] = None
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Serves the outlets that are due, with a bounded number of deliveries per tick."""
        left = _WRITES_A_TICK
        published, label, times = 0.0, "", 0
        for tail, outlets in self._work:
            if tail.published != published or outlets[0].label is not label:
                self._delayed(label, published, times)
                published, label, times = tail.published, outlets[0].label, 0
            try:
                self._serve_all(tail, outlets)
            except Exception:
                for outlet in outlets:  # one by one: an outlet that fails here is cut
                    self._serving.serve(outlet)
            times += len(outlets)
            left -= len(outlets)
            if left <= 0:
                self._loop.call_soon(self._flush)
                break
        else:
            self._work = self._slices()
            self._scheduled = False
        self._delayed(label, published, times)
        self._delivered.report()

    def _slices(self) -> Iterator[tuple[Tail, tuple[Outlet, ...]]]:
        """The outlets to serve, log by log, a bounded number at a time. News that comes in between waits its turn."""
        while self._due:
            due, self._due = self._due, {}
            for tail in due:
                outlets = tuple(self._outlets.get(tail, ()))
                if 0 < len(outlets) <= _SLICE:
                    yield tail, outlets
                    continue
                for at in range(0, len(outlets), _SLICE):
                    yield tail, outlets[at : at + _SLICE]

    def _serve_all(self, tail: Tail, outlets: tuple[Outlet, ...]) -> None:
        """Serves many outlets of one log. Nearly all of them lack only this news, and share one frame."""
        serve = self._serving.serve
        at, stretch, encode, frame, events, whole = -1, None, None, b"", 0, True
        label, given = "", 0
        for outlet in outlets:
            subscription = outlet.subscription
            span = subscription.reading
            if span is None or subscription.preface or (mine := span.stretch) is None or mine.ended is not None:
                serve(outlet)
                continue
            after = subscription.after
            if after >= mine.last:
                continue
            if after < mine.first - 1:  # retention took the events in between; a fetch is under way that will say so
                serve(outlet)
                continue
            if outlet.paused or subscription.closed:
                continue
            if after != at or mine is not stretch or outlet.encode is not encode:
                at, stretch, encode = after, mine, outlet.encode
                entries = mine.read(after=after, most=PORTION)
                frame, events = encode(tail, entries), len(entries)
                whole = entries[-1].sequence == mine.last and len(frame) <= LARGE
            if not whole:
                serve(outlet)
                continue
            if (transport := outlet.transport) is None:
                continue
            transport.write(frame)
            outlet.spoke = True
            subscription.after = mine.last
            if outlet.label is not label:
                if given:
                    self._delivered.add(label, given)
                label, given = outlet.label, 0
            given += events
        if given:
            self._delivered.add(label, given)

    def _delayed(self, label: str, published: float, times: int) -> None:
        if times:
            self._delivered.late(label, self._loop.time() - published, times)

    def __repr__(self) -> str:
        return f"Delivery({len(self._outlets)} logs with outlets, {len(self._due)} due)"
