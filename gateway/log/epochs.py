"""Epochs: which process wrote which positions of a log, so that two events with the same number are told apart."""

import hashlib
import math
from bisect import bisect_right
from typing import Literal

from gateway.ids import LogKey, Position

MOST = 1000
"""How many changes of epoch a log remembers. The epoch changes when the gateway was started anew, or when a turn runs
at another node than the turn before. A reader whose position is of an older epoch gets a `reset`."""


class Epochs:
    """The epochs of one log in order, each with its first sequence. Immutable.

    Each start of the gateway has an epoch of its own, which begins in a log with the first event that it writes there.
    So a position always names the event that its reader has. If a backup was restored, or a power failure took the last
    commits, another process may write other events under the same numbers, but under another epoch.

    The position before the first event belongs to the log's first epoch, under which there may be no event at all.
    """

    __slots__ = ("_firsts", "_names", "newest", "since", "text")

    def __init__(self, names: tuple[str, ...], firsts: tuple[int, ...]) -> None:
        self._names = names
        self._firsts = firsts
        self.newest = names[-1]
        self.since = firsts[-1]
        self.text = _written(names, firsts)
        """As the journal keeps them: `NAME NAME@FIRST …`. `=N` repeats the Nth different name, counted from 0."""

    @classmethod
    def parse(cls, text: str) -> "Epochs":
        """Reads `text`. Raises `ValueError` if it is damaged."""
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
        """These epochs and one more that begins at `first`. It replaces an epoch in which nothing was written yet.

        Beyond `MOST` the oldest epoch is forgotten. Its events then count as the next epoch's, but no reader has their
        positions under that name.
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

    def parts(self, other: "Epochs", last: int) -> int | None:
        """Compares two histories of one log, both of which reach `last`. Returns the last position up to which they are
        the same, None if they are the same up to `last`. A log has two histories when a database has lost its last
        moments, and a node went on without them."""
        at = last
        while at > 0 and self.position(at) != other.position(at):
            at = max(first for one in (self, other) for first in (*one._firsts, 1) if first <= at) - 1
        return None if at == last else at

    def refuses(self, position: Position) -> Literal["expired", "unknown", "ahead"] | None:
        """Why the position can't be an event's of this log; None if it can be, as far as the epochs show."""
        if position.epoch not in self._names:
            return "expired"
        ends = [*self._firsts[1:], math.inf]
        for name, first, end in zip(self._names, self._firsts, ends, strict=True):  # nodes may alternate
            if name == position.epoch and first <= position.sequence < end:
                return None
        if position.sequence < self._firsts[self._names.index(position.epoch)]:
            return "unknown"
        return "ahead"  # of the end of that epoch, after which another process went on

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


def no_epochs(key: LogKey, made: str) -> Epochs:
    """The epoch of a log of which nothing is kept. It changes only when the journal is made anew.

    Each epoch begins with a hash of the key, so that a position of an older epoch is not taken for one of another log.
    """
    return Epochs.parse(epoch_mark(key) + made)


def epoch_mark(key: str) -> str:
    """The hex digits with which each epoch of the log begins."""
    return hashlib.blake2s(key.encode(), digest_size=4).hexdigest()


def is_of(key: str, epoch: str) -> bool:
    """Whether an epoch, current or older, belongs to the log `key`."""
    return epoch.startswith(epoch_mark(key))
