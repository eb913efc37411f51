"""A stretch: one turn's sequence of events inside a log. A reader can continue at every position in it."""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import chain
from typing import Any

from gateway.events import last_body
from gateway.log.entry import Entry
from gateway.log.segments import (
    MESSAGE,
    WHOLE,
    Last,
    Run,
    Segment,
    Whole,
    newest_saying,
    shown,
    shown_later,
    single,
)

_entry = tuple.__new__


class Stretch:
    """One turn's events from `first` (its `started`) to `last`: contiguous, append-only, whole events only.

    `number` names the stretch in the journal; `turn` is its turn's id. `state` is its writer's own note, which is kept
    with it and not read here. `epochs` is `Epochs.text` of the log up to the stretch's last event. `ended` is the
    wall-clock time of its end, None while it runs. `starts` are the first positions of `segments`.
    """

    __slots__ = (
        "ended",
        "epochs",
        "first",
        "key",
        "last",
        "mark",
        "number",
        "segments",
        "starts",
        "state",
        "turn",
        "unsaved_from",
    )

    def __init__(
        self, number: int, key: str, epochs: str, first: int, turn: str, state: bytes = b"", mark: str = ""
    ) -> None:
        self.number = number
        self.key = key
        self.epochs = epochs
        self.first = first
        self.last = first - 1
        self.turn = turn
        self.state = state
        self.mark = mark
        self.ended: float | None = None
        self.unsaved_from = 0  # the first batch with records of this stretch that are not saved yet; 0: none
        self.segments: list[Segment] = []
        self.starts: list[int] = []

    def apply(self, kind: int, payload: str | bytes) -> str:
        """Adds the next event: the text of a piece, or the body of any other event. Returns the event's name."""
        segments, sequence = self.segments, self.last + 1
        if kind < WHOLE and segments and isinstance(run := segments[-1], Run) and run.kind == kind:
            run.add(payload)  # type: ignore[arg-type]
            self.last = sequence
            return run.name
        segment: Segment
        if kind >= WHOLE:
            segment = single(kind, sequence, payload)  # type: ignore[arg-type]
        else:
            segment = Run(kind, sequence)
            segment.add(payload)  # type: ignore[arg-type]
        segments.append(segment)
        self.starts.append(sequence)
        self.last = sequence
        return segment.name

    def read(self, *, after: int, limit: int = 0, most: int = 0) -> list[Entry]:
        """The events after the position `after`, the text of each run merged; at most `limit` events (0: all).

        With `most` they end after about so many characters, or with a single event that is longer. `after` may lie
        anywhere, even between two merged pieces. If it lies before the stretch, all events are read.
        """
        segments = self.segments
        if after >= self.last or not segments:
            return []
        newest = segments[-1]
        if after + 1 >= newest.first:  # nearly always: the reader lacks only the last pieces
            if isinstance(newest, Run):
                start = after + 1 - newest.first
                ends = newest.ends
                if most and ends[-1] > most and (stop := newest.portion(start, most)) < len(ends):
                    return [Entry(newest.first + stop - 1, newest.name, newest.body(start, stop))]
                return [_entry(Entry, (self.last, newest.name, newest.body(start)))]
            return [_entry(Entry, (newest.first, newest.name, self._body(newest)))]
        after = max(after, self.first - 1)
        index = bisect_right(self.starts, after + 1) - 1
        found: list[Entry] = []
        room = most
        stop = len(segments) if not limit else min(len(segments), index + limit)
        for i in range(index, stop):
            segment = segments[i]
            if not isinstance(segment, Run):
                if most and found and self._least(segment) > room:
                    break  # before the body is made, because that takes long for a whole text
                body = self._body(segment)
                if most and found and len(body) > room:
                    break
                found.append(Entry(segment.first, segment.name, body))
                room -= len(body)
            else:
                start = max(0, after + 1 - segment.first)
                end = segment.portion(start, most) if most else len(segment.ends)
                found.append(Entry(segment.first + end - 1, segment.name, segment.body(start, end)))
                room -= segment.ends[end - 1] - (segment.ends[start - 1] if start else 0)
                if end < len(segment.ends):
                    break
            if most and room <= 0:
                break
        return found

    def _body(self, segment: Whole | Last) -> bytes:
        if isinstance(segment, Whole):
            return segment.body
        return last_body(segment.bare, (text for _, text in shown(self.segments)))

    def _least(self, segment: Whole | Last) -> int:
        """How many bytes the body has at least, found without making it."""
        if isinstance(segment, Whole):
            return len(segment.body)
        newest = self.segments[newest_saying(self.segments) :]
        return sum(s.ends[-1] for s in newest if isinstance(s, Run) and s.kind == MESSAGE)

    def cut(self, after: int) -> None:
        """Drops the events after a position."""
        segments = self.segments
        while segments and segments[-1].first > after:
            segments.pop()
            self.starts.pop()
        if segments and isinstance(run := segments[-1], Run):
            run.cut(after + 1 - run.first)
        self.last = max(min(self.last, after), self.first - 1)

    def says(self, content: str, later: Iterable[tuple[int, int, int, Any]] = ()) -> bool:
        """Whether `content` is the text that a reader shows once it has all events, including those in `later`, records
        that are not applied yet."""
        at, same = 0, True
        for anew, text in chain(shown(self.segments), shown_later(self.number, later)):
            at, same = (0, True) if anew else (at, same)
            same = same and content.startswith(text, at)
            at += len(text)
        return same and at == len(content)

    def __repr__(self) -> str:
        life = "ended" if self.ended is not None else "runs"
        return f"Stretch(#{self.number} {self.key} {self.turn} {self.first}..{self.last} {life})"
