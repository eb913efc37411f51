"""Resets: the events that tell a reader to replace what it shows."""

from typing import Literal
from weakref import WeakKeyDictionary

from gateway.events import Reset
from gateway.log.entry import Entry
from gateway.log.outline import outline
from gateway.log.stretch import Stretch
from gateway.log.tail import Tail

ResetReason = Literal["expired", "unknown", "ahead"]

_KEPT = 4
"""How many resets of one log are kept for readers who need the same one: one for each reason, and one more."""

_Key = tuple[int, int, ResetReason]


class Resets:
    """Makes each reset once for all readers who need it. A log's resets are kept until it has news, or until nobody
    reads it any more."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Tail, dict[_Key, Entry]] = WeakKeyDictionary()

    def of(self, tail: Tail, stretch: Stretch, at: int, reason: ResetReason) -> Entry:
        """The reset that shows the whole stretch, and after which a reader continues at the position `at`."""
        kept = self._kept.get(tail, {})
        key = stretch.number, at, reason
        if (told := kept.get(key)) is None:
            found = outline(stretch)
            status = found.status if stretch.turn else ""  # a shop's log belongs to no turn
            told = Entry.of(at, Reset(reason, stretch.turn, status, found.content))
            if len(kept) >= _KEPT:
                kept.clear()
            kept[key] = told
            self._kept[tail] = kept
            tail.watchers[self] = None
        return told

    def news(self, tail: Tail) -> None:
        """The resets of this log are out of date."""
        self._kept.pop(tail, None)

    def drop(self, tail: Tail) -> None:
        """Nobody reads the log any more."""
        self._kept.pop(tail, None)
        tail.watchers.pop(self, None)

    def __repr__(self) -> str:
        return f"Resets({sum(len(kept) for kept in self._kept.values())} of {len(self._kept)} logs)"
