"""Abandonment: a turn with `onDisconnect: "cancel"` is cancelled when all its listeners have left."""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable

from msgspec import Struct

from gateway.ids import LogKey

Elsewhere = Callable[[LogKey, str], Awaitable[float | None]]
"""How many seconds ago a turn last had a listener at another node, 0 if it has one; None if that is too long ago."""


_ASK_AGAIN = 0.5
"""The shortest time in seconds between two questions to other nodes."""


class _Watched(Struct, eq=False):
    turn: str
    key: LogKey
    cancel: Callable[[], object]
    timer: asyncio.TimerHandle | None = None
    asking: asyncio.Task[None] | None = None


class Abandonment:
    """Counts the listeners of turns and logs, and cancels a watched turn `seconds` after its last listener has left.

    With `elsewhere` it first asks other nodes whether they have listeners. `heard` answers their questions.
    """

    def __init__(self, seconds: float, elsewhere: Elsewhere | None = None) -> None:
        self._seconds = seconds
        self._elsewhere = elsewhere
        self._left: dict[tuple[str, str], float] = {}  # when the last listener left, as long as other nodes may ask
        self._watched: dict[str, _Watched] = {}
        self._listeners: Counter[tuple[str, str]] = Counter()  # by topic: a turn, or a whole log

    def joined(self, key: LogKey, turn: str | None) -> None:
        """Somebody listens to a turn, or, if `turn` is None, to the whole log."""
        self._listeners[_topic(key, turn)] += 1
        for watched in self._concerned(key, turn):
            self._stop(watched)

    def left(self, key: LogKey, turn: str | None) -> None:
        """Somebody who joined with these arguments has left."""
        topic = _topic(key, turn)
        self._listeners[topic] -= 1
        if not self._listeners[topic]:
            del self._listeners[topic]
            if self._elsewhere is not None:
                self._remember(topic)
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
            if watched.asking is not None and watched.asking is not asyncio.current_task():
                watched.asking.cancel()

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
        if self._is_heard(watched):
            return
        if self._elsewhere is None:
            watched.cancel()
        elif watched.asking is None:
            watched.asking = asyncio.get_running_loop().create_task(self._ask(watched, self._elsewhere))

    async def _ask(self, watched: _Watched, elsewhere: Elsewhere) -> None:
        """Cancels the turn, unless it has a listener at another node, or had one too short a time ago."""
        try:
            ago = await elsewhere(watched.key, watched.turn)
        finally:
            watched.asking = None
        if self._watched.get(watched.turn) is not watched or watched.timer is not None or self._is_heard(watched):
            return
        if ago is None:
            watched.cancel()
        else:
            self._start(watched, max(self._seconds - ago, _ASK_AGAIN))

    def heard(self, key: LogKey, turn: str) -> float | None:
        """How many seconds ago the turn last had a listener at this node, as `elsewhere` of other nodes asks."""
        topics = _topic(key, turn), _topic(key, None)
        if any(self._listeners[topic] for topic in topics):
            return 0.0
        since = asyncio.get_running_loop().time() - max(self._left.get(topic, -math.inf) for topic in topics)
        return since if since < self._seconds else None

    def _remember(self, topic: tuple[str, str]) -> None:
        """Notes that the topic's last listener leaves now. Forgets notes that are older than `seconds`."""
        now = asyncio.get_running_loop().time()
        self._left.pop(topic, None)
        self._left[topic] = now  # the newest is last
        while self._left[oldest := next(iter(self._left))] <= now - self._seconds and oldest != topic:
            del self._left[oldest]

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
