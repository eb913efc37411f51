"""Serving: gives one outlet the events that it lacks."""

import asyncio
from typing import Any

import structlog

from gateway.errors import Code, GatewayError
from gateway.log.entry import Entry
from gateway.log.journal import JournalError
from gateway.log.stretch import Stretch
from gateway.log.tail import Span, Tail
from gateway.reading.delivered import Delivered
from gateway.reading.frames import LARGE, PORTION, Frame, Frames
from gateway.reading.outlet import Cutting, Outlet
from gateway.reading.unsent import Unsent
from gateway.telemetry.ledger import Ledger

logger = structlog.get_logger()

_MOST_AT_ONCE = 256 * 1024  # bytes given to one outlet before others get their turn
_LOOK_FOR_ROOM = 0.25


class Serving:
    """Serves one outlet at a time, from the outlet's own cursor: nothing is queued for anybody.

    If an outlet needs events that are not in memory, it is served again once they were read; if there is no room for
    its next frame, it is served again once there is. An outlet at which our own code fails is cut.
    """

    def __init__(
        self,
        *,
        unsent: Unsent,
        ledger: Ledger,
        delivered: Delivered,
        cutting: Cutting,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._unsent = unsent
        self._ledger = ledger
        self._delivered = delivered
        self._cutting = cutting
        self._loop = loop
        self._frames = Frames()
        self._fetching: dict[Outlet, asyncio.Task[None]] = {}
        self._crowded_out: dict[Outlet, None] = {}  # the outlets for whose next frame there is no room
        self._room_timer: asyncio.TimerHandle | None = None

    def serve(self, outlet: Outlet) -> None:
        """Gives one outlet the events that it lacks, in one write: as many as it is ready for, up to a bound."""
        try:
            self._serve(outlet)
        except Exception as error:
            self._cutting.cut(outlet, "deliver", error)

    def forget(self, outlet: Outlet) -> None:
        """Prepares nothing for the outlet any more. Idempotent."""
        self._crowded_out.pop(outlet, None)
        if (task := self._fetching.pop(outlet, None)) is not None:
            task.cancel()

    def drop(self, tail: Tail) -> None:
        """No outlet reads the log any more."""
        self._frames.drop(tail)

    def _serve(self, outlet: Outlet) -> None:
        subscription = outlet.subscription
        if outlet.paused or subscription.closed or outlet in self._crowded_out:
            return
        parts: list[bytes] = [outlet.greeting] if outlet.greeting else []
        given = size = 0
        large: Frame | None = None
        while size < _MOST_AT_ONCE and large is None:
            if subscription.behind:
                outlet.farewell(Code.OVERLOADED)
                return
            if subscription.preface:
                frame = self._preface(outlet)
            elif subscription.ahead:
                if subscription.gone:
                    outlet.farewell(Code.NOT_FOUND)
                    return
                self._fetch(outlet, None)
                break
            elif (span := subscription.span) is None or subscription.after >= span.last:
                break
            elif span.stretch is None or subscription.outrun:
                self._fetch(outlet, span)
                break
            else:
                frame = self._slice(outlet, span.stretch)
            if frame is None:
                self._wait_for_room(outlet)
                break
            given += frame.events
            size += len(frame.data)
            if len(frame.data) > LARGE:
                large = frame
            else:
                parts.append(frame.data)
        if (parts or large is not None) and outlet.transport is not None:
            outlet.greeting = b""
            outlet.spoke = True
            if parts:
                outlet.transport.write(parts[0] if len(parts) == 1 else b"".join(parts))
            if large is not None:
                outlet.hand(large)
            self._delivered.add(outlet.label, given)
        if subscription.turn is not None and subscription.over:
            outlet.finish()
        elif size >= _MOST_AT_ONCE:
            self._loop.call_soon(self.serve, outlet)

    # -- frames ---------------------------------------------------------------------------------------------------

    def _preface(self, outlet: Outlet) -> Frame | None:
        """The frame with the reader's preface; None if there is no room for it now."""
        subscription = outlet.subscription
        entries = subscription.preface
        key = outlet.encode, subscription.tail.position(entries[-1].sequence), *entries
        frame = self._frame(key, outlet, entries)
        if frame is not None:
            subscription.preface = []
            subscription.give_room_back()
        return frame

    def _slice(self, outlet: Outlet, stretch: Stretch) -> Frame | None:
        """The frame with the events after the outlet's position; None if there is no room for it now."""
        subscription = outlet.subscription
        after = subscription.after
        # With the epoch: after a failover the same positions of a stretch may have another text.
        key = stretch.number, outlet.encode, after, stretch.last, subscription.tail.epochs.newest
        if (frame := self._frames.get(key)) is None:
            frame = self._frame(key, outlet, stretch.read(after=after, most=PORTION))
        if frame is not None:
            subscription.after = frame.last
        return frame

    def _frame(self, key: Any, outlet: Outlet, entries: list[Entry]) -> Frame | None:
        """The frame, made once for all outlets at the same position; a large one is counted while it exists."""
        if (made := self._frames.get(key)) is not None:
            return made
        data = outlet.encode(outlet.subscription.tail, entries)
        try:
            hold = self._unsent.reserve(len(data)) if len(data) > LARGE else None
        except GatewayError:
            return None
        return self._frames.keep(outlet.subscription.tail, key, Frame(data, len(entries), entries[-1].sequence, hold))

    # -- what has to wait -----------------------------------------------------------------------------------------

    def _wait_for_room(self, outlet: Outlet) -> None:
        self._crowded_out[outlet] = None
        if self._room_timer is None:
            self._room_timer = self._loop.call_later(_LOOK_FOR_ROOM, self._look_for_room)

    def _look_for_room(self) -> None:
        """Serves the outlets that wait for room, in their order, as far as there is room."""
        self._room_timer = None
        for outlet in list(self._crowded_out):
            del self._crowded_out[outlet]
            self.serve(outlet)
            if outlet in self._crowded_out:
                break
        if self._crowded_out and self._room_timer is None:
            self._room_timer = self._loop.call_later(_LOOK_FOR_ROOM, self._look_for_room)

    def _fetch(self, outlet: Outlet, span: Span | None) -> None:
        """Reads a stored stretch for an outlet that is behind what is in memory, then goes on serving it."""

        async def fetch() -> None:
            with self._ledger.open("task", "hub.fetch"):
                try:
                    await outlet.subscription.fetch(span)
                except JournalError as error:
                    logger.warning("hub.fetch_failed", reason=str(error))
                    del self._fetching[outlet]
                    outlet.farewell(Code.STORAGE_UNAVAILABLE)
                    return
                except Exception as error:
                    del self._fetching[outlet]
                    self._cutting.cut(outlet, "deliver", error)
                    return
                del self._fetching[outlet]
                self.serve(outlet)

        if outlet not in self._fetching:
            self._fetching[outlet] = self._loop.create_task(fetch())

    async def close(self) -> None:
        if self._room_timer is not None:
            self._room_timer.cancel()
            self._room_timer = None
        fetching = list(self._fetching.values())
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)
        self._fetching.clear()

    def __repr__(self) -> str:
        return f"Serving({len(self._fetching)} fetching, {len(self._crowded_out)} wait for room, {self._frames})"
