"""The reader: one listener's text, folded, and what is wrong with it. Pure: no clock, no network."""

import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

LAST = frozenset({"completed", "cancelled", "error"})


class Event(msgspec.Struct):
    """What is read of an event; its other fields are skipped (contract, section 3)."""

    event: str
    id: str | None = None
    content: str | None = None
    content_type: str | None = msgspec.field(default=None, name="contentType")
    replace: bool = False
    reason: str | None = None
    code: str | None = None


decode = msgspec.json.Decoder(Event).decode


class Mark(NamedTuple):
    """Where a reader is: how much text it holds, and a checksum of it."""

    length: int
    checksum: int


@dataclass(slots=True)
class Book:
    """One turn, as all of its readers have seen it: what the text is at each id."""

    pieces: int = 0
    """How many pieces the answer has; 0 when that is not known."""
    marks: dict[str, Mark] = field(default_factory=dict)
    rewritten: bool = False


class Reader:
    """Folds one listener's events. `wrong` counts, for the whole run, by kind:

    `doubled` and `disordered`: a piece at or before the place where the reader is; `differing`: at one id not the text
    that another reader has there; `unequal`: the fold is not the `completed` content; `lost`: pieces that never came.
    """

    __slots__ = ("_book", "_due", "_others", "_wrong", "ended", "mark", "pieces", "position")

    def __init__(self, book: Book, wrong: Counter[str]) -> None:
        self._book = book
        self._wrong = wrong
        self._due = 0.0
        self._others: set[str] = set()
        self.mark = Mark(0, 0)
        self.pieces = 0
        self.position: str | None = None
        self.ended = ""
        """The name of the last event, once it is there."""

    def take(self, event: Event) -> list[float]:
        """Folds one event in. The moments (unix time) at which its pieces were due, where the text tells them."""
        due: list[float] = []
        place, before = event.id, self.mark
        match event.event:
            case "message" if event.content_type is None:
                due = self._text(event)
                if place is not None:
                    self._compare(place, before)
            case "reset":
                self._wrong["reset"] += 1
                self._book.rewritten = True
                self.mark = _mark(event.content or "")
            case "completed":
                self._last(event)
            case "cancelled" | "error":
                self.ended = event.event
            case "reasoning":
                pass  # may be merged, and has no whole to be compared with
            case _ if place is not None:
                self._wrong["doubled"] += place in self._others
                self._others.add(place)
        if place is not None:
            self.position = place
        return due

    def _text(self, event: Event) -> list[float]:
        content = event.content or ""
        if event.replace:
            self._book.rewritten = True
            self.mark = _mark(content)
            return []
        data = content.encode()
        self.mark = Mark(self.mark.length + len(data), zlib.crc32(data, self.mark.checksum))
        if not self._book.pieces:
            self.pieces += 1
            return []
        due = [float(word) for word in content.split()]
        self.pieces += len(due)
        for moment in due:
            if moment <= self._due:
                self._wrong["doubled" if moment == self._due else "disordered"] += 1
                self.pieces -= 1
            else:
                self._due = moment
        return due

    def _compare(self, place: str, before: Mark) -> None:
        known = self._book.marks.setdefault(place, self.mark)
        if known != self.mark:
            again = known.length <= before.length and not self._book.rewritten
            # With pieces that tell their time, what came twice is counted there.
            self._wrong["doubled" if again and not self._book.pieces else "differing"] += 1

    def _last(self, event: Event) -> None:
        self.ended = event.event
        self._wrong["unequal"] += self.mark != _mark(event.content or "")
        if self._book.pieces and not self._book.rewritten:
            self._wrong["lost"] += max(0, self._book.pieces - self.pieces)


def _mark(text: str) -> Mark:
    data = text.encode()
    return Mark(len(data), zlib.crc32(data))
