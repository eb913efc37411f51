"""Epochs: which process wrote which positions of a log, so that one number given twice is never taken for one event."""

from bisect import bisect_right
from typing import Literal

from gateway.ids import Position

MOST = 32
"""Epochs that a log remembers: that many starts of the gateway wrote to it. A reader whose position is of an older one
gets a `reset`."""


class Epochs:
    """The epochs of one log in order, each with its first sequence. Immutable.

    Each start of the gateway has an epoch of its own, and opens it in a log with the first event that it writes there.
    So a position names the event that its reader has, even when a backup was restored, or a power cut took the last
    commits, and another process wrote other events under the same numbers: that one's epoch is another.

    What was before the first event belongs to the log's first epoch, under which nothing need have been written.
    """

    __slots__ = ("_firsts", "_names", "newest", "since", "text")

    def __init__(self, names: tuple[str, ...], firsts: tuple[int, ...]) -> None:
        self._names = names
        self._firsts = firsts
        self.newest = names[-1]
        self.since = firsts[-1]
        self.text = " ".join([names[0], *(f"{n}@{f}" for n, f in zip(names[1:], firsts[1:], strict=True))])
        """As the journal keeps it: `NAME NAME@FIRST …`. One name alone is also what was kept before there were more."""

    @classmethod
    def parse(cls, text: str) -> "Epochs":
        """Reads `text`. Raises `ValueError` for what is damaged."""
        first, *more = text.split(" ")
        pairs = [part.split("@") for part in more]
        return cls((first, *(name for name, _ in pairs)), (0, *(int(at) for _, at in pairs)))

    def then(self, name: str, first: int) -> "Epochs":
        """These, with an epoch that begins at `first`; one in which nothing was written yet gives way.

        Above `MOST` the oldest is forgotten. Its events count as the next one's, under which nobody has them.
        """
        keep = [(n, f) for n, f in zip(self._names, self._firsts, strict=True) if f < first]
        names, firsts = zip(*[*keep, (name, first)][-MOST:], strict=True)
        return Epochs(names, (0, *firsts[1:]))

    def position(self, sequence: int) -> str:
        if sequence >= self.since:
            return f"{self.newest}-{sequence}"
        return f"{self._names[bisect_right(self._firsts, sequence) - 1]}-{sequence}"

    def refuses(self, position: Position) -> Literal["expired", "unknown", "ahead"] | None:
        """Why a position of this log, whose newest event it can't tell, isn't one of its events; None if it may be."""
        if position.epoch not in self._names:
            return "expired"
        at = self._names.index(position.epoch)
        if position.sequence < self._firsts[at]:
            return "unknown"
        if at + 1 < len(self._firsts) and position.sequence >= self._firsts[at + 1]:
            return "ahead"  # of what was left of that epoch when another process went on
        return None

    def __repr__(self) -> str:
        return f"Epochs({self.text})"
