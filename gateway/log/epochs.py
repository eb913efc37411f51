"""Epochs: which process wrote which positions of a log, so that one number given twice is never taken for one event."""

import math
from bisect import bisect_right
from typing import Literal

from gateway.ids import Position

MOST = 1000
"""Changes of epoch that a log remembers: that many starts of the gateway went on in it, or turns that another node ran
than the one before. A reader whose position is of an older epoch gets a `reset`."""


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
        self.text = _written(names, firsts)
        """As the journal keeps it: `NAME NAME@FIRST …`. The Nth different name, from 0, is `=N` when it comes again."""

    @classmethod
    def parse(cls, text: str) -> "Epochs":
        """Reads `text`. Raises `ValueError` for what is damaged."""
        names: list[str] = []
        firsts: list[int] = []
        known: list[str] = []
        for part in text.split(" "):
            name, _, first = part.partition("@")
            if name.startswith("="):
                name = known[int(name[1:])] if int(name[1:]) < len(known) else ""
            else:
                known.append(name)
            if not name or bool(first) != bool(names):
                raise ValueError(f"not the epochs of a log: {text!r}")
            names.append(name)
            firsts.append(int(first or 0))
        return cls(tuple(names), tuple(firsts))

    def then(self, name: str, first: int) -> "Epochs":
        """These, with an epoch that begins at `first`; one in which nothing was written yet gives way.

        Above `MOST` the oldest is forgotten. Its events count as the next one's, under which nobody has them.
        """
        keep = [(n, f) for n, f in zip(self._names, self._firsts, strict=True) if f < first]
        if not keep or keep[-1][0] != name:
            keep.append((name, first))
        names, firsts = zip(*keep[-MOST:], strict=True)
        return Epochs(names, (0, *firsts[1:]))

    def position(self, sequence: int) -> str:
        if sequence >= self.since:
            return f"{self.newest}-{sequence}"
        return f"{self._names[bisect_right(self._firsts, sequence) - 1]}-{sequence}"

    def refuses(self, position: Position) -> Literal["expired", "unknown", "ahead"] | None:
        """Why a position of this log, whose newest event it can't tell, isn't one of its events; None if it may be."""
        if position.epoch not in self._names:
            return "expired"
        ends = [*self._firsts[1:], math.inf]
        for name, first, end in zip(self._names, self._firsts, ends, strict=True):  # nodes take turns in a log
            if name == position.epoch and first <= position.sequence < end:
                return None
        if position.sequence < self._firsts[self._names.index(position.epoch)]:
            return "unknown"
        return "ahead"  # of what was left of that epoch when another process went on

    def __repr__(self) -> str:
        return f"Epochs({self.text})"


def _written(names: tuple[str, ...], firsts: tuple[int, ...]) -> str:
    known: dict[str, int] = {}
    parts: list[str] = []
    for name, first in zip(names, firsts, strict=True):
        shown = f"={known[name]}" if name in known else name
        known.setdefault(name, len(known))
        parts.append(f"{shown}@{first}" if parts else shown)
    return " ".join(parts)
