"""Segments: the parts of a stretch. Consecutive pieces of one kind are one segment, as is each other event."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from gateway.events import Message, decode, long_text_body, name_of, says_anew, text_body
from gateway.longtext import BLOCK, LongText

MESSAGE, REASONING, WHOLE, LAST = 0, 1, 2, 9
"""Kinds of events: a piece of the answer's text, a piece of reasoning, any other event, and a last event whose content
is left empty because it is the text that was shown."""
Kind = Literal[0, 1, 2, 9]

NAMES = {MESSAGE: "message", REASONING: "reasoning"}
"""The names of pieces of text."""

_FOLD_AT = 64


class Run:
    """Consecutive pieces of one kind: their text, which grows, and the offsets in code points at which they end."""

    __slots__ = ("_fresh", "_text", "ends", "first", "kind", "name")

    def __init__(self, kind: int, first: int, text: str = "", ends: "array[int] | None" = None) -> None:
        self.kind = kind
        self.name = NAMES[kind]
        self.first = first
        self._text = LongText(text)
        self._fresh: list[str] = []
        self.ends: array[int] = array("I") if ends is None else ends

    def add(self, piece: str) -> None:
        ends, fresh = self.ends, self._fresh
        ends.append((ends[-1] if ends else 0) + len(piece))
        fresh.append(piece)
        # Folding copies the newest part of the text, so it waits until there are enough pieces to make that worthwhile.
        if len(fresh) >= _FOLD_AT and len(fresh) * 32 >= len(ends):
            self._fold()

    def _fold(self) -> LongText:
        if self._fresh:
            self._text.add("".join(self._fresh))
            self._fresh.clear()
        return self._text

    def text(self, start: int = 0, stop: int | None = None) -> str:
        """The text of the pieces from number `start` up to `stop`, counted from 0 within the run."""
        if start and stop is None and (fresh := self._fresh) and start >= len(self.ends) - len(fresh):
            return "".join(fresh[start - len(self.ends) :])
        begin = self.ends[start - 1] if start else 0
        end = None if stop is None else (self.ends[stop - 1] if stop else 0)
        text = self._text if end is not None and end <= len(self._text) else self._fold()
        return text.part(begin, end)

    def parts(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """The same text in parts of a bounded length, which may end within pieces."""
        begin = self.ends[start - 1] if start else 0
        return self._fold().pieces(begin, None if stop is None else self.ends[stop - 1])

    def body(self, start: int, stop: int | None = None) -> bytes:
        """The body of the pieces from number `start` up to `stop`, as one event."""
        ends = self.ends
        if ends[-1 if stop is None else stop - 1] - (ends[start - 1] if start else 0) > BLOCK:
            return long_text_body(self.name, self.parts(start, stop))
        return text_body(self.name, self.text(start, stop))

    def encoded(self) -> bytes:
        return self._fold().encoded()

    def portion(self, start: int, most: int) -> int:
        """Where a slice of about `most` characters ends that begins with the piece `start`: the number of the piece
        after it. Slices end at the same pieces wherever they begin, so that readers that are behind soon share them.
        """
        ends = self.ends
        begin = ends[start - 1] if start else 0
        if ends[-1] - begin <= most:
            return len(ends)
        return max(start + 1, bisect_right(ends, (begin // most + 1) * most))

    def cut(self, pieces: int) -> None:
        """Keeps only the first `pieces` pieces."""
        self._text = LongText(self.text(0, pieces))
        self._fresh.clear()
        del self.ends[pieces:]


class Whole:
    """An event that is never merged. `anew` says that it holds the whole answer from its beginning."""

    __slots__ = ("anew", "body", "first", "name")

    def __init__(self, first: int, body: bytes) -> None:
        self.first = first
        self.name = name_of(body)
        self.body = body
        self.anew = self.name == "message" and says_anew(body)


class Last:
    """A turn's last event. Its content is the text of the pieces before it, so it is not kept a second time."""

    __slots__ = ("bare", "first", "name")

    def __init__(self, first: int, bare: bytes) -> None:
        self.first = first
        self.name = name_of(bare)
        self.bare = bare


Segment = Run | Whole | Last


def single(kind: int, first: int, body: bytes) -> Whole | Last:
    """The segment of an event that is no piece of text."""
    return Whole(first, body) if kind == WHOLE else Last(first, body)


def newest_saying(segments: list[Segment]) -> int:
    """The index of the last segment that holds the whole answer from its beginning; 0 if there is none."""
    for at in range(len(segments) - 1, -1, -1):
        if isinstance(segment := segments[at], Whole) and segment.anew:
            return at
    return 0


def shown(segments: list[Segment]) -> Iterator[tuple[bool, str]]:
    """The text that a reader shows, in parts. Each comes with whether it begins the whole answer anew."""
    for segment in segments[newest_saying(segments) :]:
        if isinstance(segment, Whole):
            if segment.anew:
                yield True, _said(segment.body)
        elif isinstance(segment, Run) and segment.kind == MESSAGE:
            for part in segment.parts():
                yield False, part


def shown_later(number: int, records: Iterable[tuple[int, int, int, Any]]) -> Iterator[tuple[bool, str]]:
    """The same for records of the stretch `number` that are not applied yet."""
    for of, kind, _, payload in records:
        if of == number:
            if kind == MESSAGE:
                yield False, payload
            elif kind == WHOLE and says_anew(payload):
                yield True, _said(payload)


def _said(body: bytes) -> str:
    event = decode(body)
    assert isinstance(event, Message)
    return event.content
