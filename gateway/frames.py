"""Frames: encoded pieces of a log, made once for all readers who are at the same position."""

from collections import OrderedDict
from typing import Any
from weakref import WeakValueDictionary

from gateway.unsent import Hold

LARGE = 256 * 1024
"""Bytes above which a frame is handed to a connection in slices, and counted as waiting for as long as it exists."""

_KEPT = 4 * 1024 * 1024
"""Bytes of frames kept for readers who may come to the same position: a few dozen slices."""


class Frame:
    """Bytes for a transport, how many events they hold, and the position to which they bring a reader."""

    __slots__ = ("__weakref__", "_hold", "data", "events", "last")

    def __init__(self, data: bytes, events: int, last: int, hold: Hold | None = None) -> None:
        self.data = data
        self.events = events
        self.last = last
        self._hold = hold

    def __del__(self) -> None:
        if self._hold is not None:
            self._hold.close()


class Frames:
    """Small frames are kept up to a bound in bytes, the newest ones; large ones as long as some reader holds them."""

    def __init__(self) -> None:
        self._small: OrderedDict[Any, Frame] = OrderedDict()
        self._large: WeakValueDictionary[Any, Frame] = WeakValueDictionary()
        self.size = 0

    def get(self, key: Any) -> Frame | None:
        return self._small.get(key) or self._large.get(key)

    def keep(self, key: Any, frame: Frame) -> Frame:
        size = len(frame.data)
        if size > LARGE:
            self._large[key] = frame
            return frame
        self._small[key] = frame
        self.size += size
        while self.size > _KEPT:
            _, old = self._small.popitem(last=False)
            self.size -= len(old.data)
        return frame

    def __repr__(self) -> str:
        return f"Frames({len(self._small)} of {self.size} bytes, {len(self._large)} large)"
