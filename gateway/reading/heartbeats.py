"""Heartbeats: one timer for all connections. Connections are also told here when the gateway stops."""

import asyncio

from gateway.errors import Code
from gateway.reading.delivered import Delivered
from gateway.reading.outlet import Cutting, Heart

_BEATS_A_SLICE = 250


class Heartbeats:
    """Beats all hearts twice per interval. A connection that got data since the last beat is skipped once; so none is
    silent for longer than the interval. The deliveries since the last beat are reported at the same time."""

    def __init__(
        self, interval: float, *, cutting: Cutting, delivered: Delivered, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._interval = interval
        self._cutting = cutting
        self._delivered = delivered
        self._loop = loop
        self._hearts: dict[Heart, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    def join(self, heart: Heart) -> None:
        self._hearts[heart] = None
        if self._timer is None:
            self._timer = self._loop.call_later(self._interval / 2, self._beat_all)

    def leave(self, heart: Heart) -> None:
        """Idempotent."""
        self._hearts.pop(heart, None)

    def _beat_all(self) -> None:
        self._timer = self._loop.call_later(self._interval / 2, self._beat_all)
        self._delivered.report()
        self._beat(list(self._hearts), 0)

    def _beat(self, hearts: list[Heart], at: int) -> None:
        """Beats one slice per tick, so that others get their turn. There is no pause between slices, because waking a
        peer that has fallen asleep costs more."""
        now = self._loop.time()
        for heart in hearts[at : at + _BEATS_A_SLICE]:
            if heart in self._hearts:
                try:
                    heart.beat(now)
                except Exception as error:
                    self._cutting.cut(heart, "heartbeat", error)
        if at + _BEATS_A_SLICE < len(hearts) and not self._closing:
            self._loop.call_soon(self._beat, hearts, at + _BEATS_A_SLICE)

    def drain(self, *, also_running: bool) -> None:
        """Tells idle readers to come back; with `also_running`, also readers whose turn still runs."""
        self._closing = also_running
        for heart in list(self._hearts):
            try:
                if also_running or not heart.busy():
                    heart.farewell(Code.DRAINING)
            except Exception as error:
                self._cutting.cut(heart, "deliver", error)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __repr__(self) -> str:
        return f"Heartbeats({len(self._hearts)} every {self._interval} s)"
