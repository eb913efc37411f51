"""Frames: encoded pieces of a log, made once for all readers who are at the same position."""

from collections import OrderedDict
from typing import Any
from weakref import WeakValueDictionary

from gateway.reading.unsent import Hold

LARGE = 256 * 1024
"""Bytes above which a frame is handed to a connection in slices, and counted as waiting for as long as it exists."""

PORTION = 64 * 1024
"""Characters of a long answer that are read and encoded at once."""

_KEPT = 4 * 1024 * 1024
"""Bytes of frames that are kept for readers who may reach the same position: a few dozen slices."""


class Frame:
    """Bytes for a transport, the number of events in them, and the position of a reader who has read them."""

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
    """Keeps the newest small frames, up to a bound in bytes, and large frames as long as some reader holds them.

    A small frame belongs to an owner, its log, and is dropped with that log's last reader.
    """

    def __init__(self) -> None:
        self._small: OrderedDict[Any, Frame] = OrderedDict()
        self._owned: dict[object, dict[Any, None]] = {}
        self._owners: dict[Any, object] = {}
        self._large: WeakValueDictionary[Any, Frame] = WeakValueDictionary()
        self.size = 0

    def get(self, key: Any) -> Frame | None:
        return self._small.get(key) or self._large.get(key)

    def keep(self, owner: object, key: Any, frame: Frame) -> Frame:
        """Keeps a frame that `get` did not find."""
        size = len(frame.data)
        if size > LARGE:
            self._large[key] = frame
            return frame
        self._small[key] = frame
        self._owned.setdefault(owner, {})[key] = None
        self._owners[key] = owner
        self.size += size
        while self.size > _KEPT:
            self._drop(next(iter(self._small)))
        return frame

    def drop(self, owner: object) -> None:
        """Drops the frames of a log that nobody reads any more."""
        for key in list(self._owned.get(owner, ())):
            self._drop(key)

    def _drop(self, key: Any) -> None:
        self.size -= len(self._small.pop(key).data)
        owner = self._owners.pop(key)
        del self._owned[owner][key]
        if not self._owned[owner]:
            del self._owned[owner]

    def __repr__(self) -> str:
        return f"Frames({len(self._small)} of {self.size} bytes, {len(self._large)} large)"
