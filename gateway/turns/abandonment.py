"""Abandonment: a turn with `onDisconnect: "cancel"` is cancelled when all its listeners have left."""

import asyncio
from collections import Counter
from collections.abc import Callable

from msgspec import Struct

from gateway.ids import LogKey


class _Watched(Struct):
    turn: str
    key: LogKey
    cancel: Callable[[], object]
    timer: asyncio.TimerHandle | None = None


class Abandonment:
    """Counts the listeners of turns and logs, and cancels a watched turn `seconds` after its last listener has left."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._watched: dict[str, _Watched] = {}
        self._listeners: Counter[tuple[str, str]] = Counter()  # by what they listen to: a turn, or all of a log

    def joined(self, key: LogKey, turn: str | None) -> None:
        """Somebody listens to a turn, or, with None, to the whole log."""
        self._listeners[_topic(key, turn)] += 1
        for watched in self._concerned(key, turn):
            self._stop(watched)

    def left(self, key: LogKey, turn: str | None) -> None:
        """Somebody who joined with these arguments has left."""
        topic = _topic(key, turn)
        self._listeners[topic] -= 1
        if not self._listeners[topic]:
            del self._listeners[topic]
        for watched in self._concerned(key, turn):
            self._start(watched, self._seconds)

    def watch(self, turn: str, key: LogKey, cancel: Callable[[], object], *, at_least: float) -> None:
        """Calls `cancel` once nobody listens. The first listener has at least `at_least` seconds to arrive."""
        watched = self._watched[turn] = _Watched(turn, key, cancel)
        self._start(watched, max(self._seconds, at_least))

    def forget(self, turn: str) -> None:
        """The turn is over."""
        if (watched := self._watched.pop(turn, None)) is not None:
            self._stop(watched)

    def close(self) -> None:
        for turn in list(self._watched):
            self.forget(turn)

    def _concerned(self, key: LogKey, turn: str | None) -> list[_Watched]:
        if turn is None:
            return [watched for watched in self._watched.values() if watched.key == key]
        return [self._watched[turn]] if turn in self._watched else []

    def _start(self, watched: _Watched, seconds: float) -> None:
        if watched.timer is None and not self._is_heard(watched):
            watched.timer = asyncio.get_running_loop().call_later(seconds, self._due, watched)

    def _due(self, watched: _Watched) -> None:
        watched.timer = None
        if not self._is_heard(watched):
            watched.cancel()

    def _stop(self, watched: _Watched) -> None:
        if watched.timer is not None:
            watched.timer.cancel()
            watched.timer = None

    def _is_heard(self, watched: _Watched) -> bool:
        return bool(self._listeners[_topic(watched.key, watched.turn)] or self._listeners[_topic(watched.key, None)])

    def __repr__(self) -> str:
        return f"Abandonment({len(self._watched)} watched)"


def _topic(key: LogKey, turn: str | None) -> tuple[str, str]:
    return ("log", key) if turn is None else ("turn", turn)
