"""A stretch: one turn's row of events inside a log, with every position a good place to go on from."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import chain
from typing import Any, Literal, NamedTuple

import msgspec

from gateway.events import text_json
from gateway.longtext import BLOCK, LongText

MESSAGE, REASONING, WHOLE, LAST = 0, 1, 2, 9
"""Kinds of entries: a piece of the answer's text, a piece of reasoning, any other event, and a last event whose content
is the text that was shown, and is left empty."""
Kind = Literal[0, 1, 2, 9]

_entry = tuple.__new__
_TEXT_HEAD = {MESSAGE: b'"event":"message","content":', REASONING: b'"event":"reasoning","content":'}
_FOLD_AT = 64
_NO_CONTENT = b'"content":""'
_REPLACES = b',"replace":true'


class Entry(NamedTuple):
    """One event as a reader gets it: the position it brings the reader to, and its JSON without `id` and braces."""

    sequence: int
    body: bytes


class _Run:
    """Consecutive pieces of one kind of text: one growing text, and where in it each piece ends (code points)."""

    __slots__ = ("_fresh", "_text", "ends", "first", "kind")

    def __init__(self, kind: int, first: int, text: str = "", ends: "array[int] | None" = None) -> None:
        self.kind = kind
        self.first = first
        self._text = LongText(text)
        self._fresh: list[str] = []
        self.ends: array[int] = array("I") if ends is None else ends

    def add(self, piece: str) -> None:
        ends, fresh = self.ends, self._fresh
        ends.append((ends[-1] if ends else 0) + len(piece))
        fresh.append(piece)
        # Folding costs a copy of the text's newest part, so it waits until enough has come to pay for it.
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
        """The same in parts of a bounded length, which don't follow the pieces."""
        begin = self.ends[start - 1] if start else 0
        return self._fold().pieces(begin, None if stop is None else self.ends[stop - 1])

    def body(self, start: int, stop: int | None = None) -> bytes:
        """The JSON of the pieces from number `start` up to `stop` as one event, without braces."""
        ends = self.ends
        if ends[-1 if stop is None else stop - 1] - (ends[start - 1] if start else 0) > BLOCK:
            return _with_text(_TEXT_HEAD[self.kind], self.parts(start, stop))
        return _TEXT_HEAD[self.kind] + text_json(self.text(start, stop))

    def encoded(self) -> bytes:
        return self._fold().encoded()

    def portion(self, start: int, most: int) -> int:
        """The number of the piece before which a slice of about `most` characters ends that begins with piece `start`.

        Slices end at the same places wherever they begin, so that readers who are behind soon share them.
        """
        ends = self.ends
        begin = ends[start - 1] if start else 0
        if ends[-1] - begin <= most:
            return len(ends)
        return max(start + 1, bisect_right(ends, (begin // most + 1) * most))

    def cut(self, pieces: int) -> None:
        """Keeps the first so many pieces."""
        self._text = LongText(self.text(0, pieces))
        self._fresh.clear()
        del self.ends[pieces:]


class _Whole:
    """An event that is never merged."""

    __slots__ = ("body", "first")

    def __init__(self, first: int, body: bytes) -> None:
        self.first = first
        self.body = body


class _Last:
    """A turn's last event. Its content, the text that the pieces before it make, is not kept a second time."""

    __slots__ = ("bare", "first")

    def __init__(self, first: int, bare: bytes) -> None:
        self.first = first
        self.bare = bare


def _single(kind: int, first: int, body: bytes) -> _Whole | _Last:
    """The segment of an event that is no piece of text."""
    return _Whole(first, body) if kind == WHOLE else _Last(first, body)


def _with_text(head: bytes, parts: Iterable[str], tail: bytes = b"") -> bytes:
    """JSON with a long text in it, without a second copy of the text at any time."""
    body = BytesIO()
    body.write(head + b'"')
    for part in parts:
        body.write(text_json(part)[1:-1])
    body.write(b'"' + tail)
    return body.getvalue()


_Segment = _Run | _Whole | _Last


def _shown(segments: "list[_Segment]") -> Iterator[tuple[bool, str]]:
    """The answer's text since it was last said anew, in parts, each with whether it is that saying."""
    for segment in segments[_newest_replacement(segments) :]:
        if isinstance(segment, _Whole):
            if _is_replacement(segment.body):
                yield True, _replacement(segment.body)
        elif isinstance(segment, _Run) and segment.kind == MESSAGE:
            for part in segment.parts():
                yield False, part


def _shown_later(number: int, records: Iterable[tuple[int, int, int, Any]]) -> Iterator[tuple[bool, str]]:
    for of, kind, _, payload in records:
        if of == number:
            if kind == MESSAGE:
                yield False, payload
            elif kind == WHOLE and _is_replacement(payload):
                yield True, _replacement(payload)


def _newest_replacement(segments: "list[_Segment]") -> int:
    for at in range(len(segments) - 1, -1, -1):
        if isinstance(segment := segments[at], _Whole) and _is_replacement(segment.body):
            return at
    return 0


def _is_replacement(body: bytes) -> bool:
    return body.endswith(_REPLACES) and body.startswith(_TEXT_HEAD[MESSAGE])


def _replacement(body: bytes) -> str:
    return msgspec.json.decode(memoryview(body)[len(_TEXT_HEAD[MESSAGE]) : -len(_REPLACES)], type=str)


class Stretch:
    """One turn's events, from `first` (its `started`) to `last`; contiguous, append-only, whole events only.

    `number` names it in the journal, `turn` is the id of what it belongs to. `state` is its writer's own note, kept
    with it and opaque here. `epochs` is `Epochs.text` of the log up to its last event. `ended` is the wall-clock time
    of its end, None while it runs.
    """

    __slots__ = (
        "_segments",
        "_starts",
        "backlog",
        "ended",
        "epochs",
        "first",
        "key",
        "last",
        "mark",
        "noted",
        "number",
        "state",
        "turn",
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
        self.noted = len(state)  # bytes of the note, with what is on its way
        self.mark = mark
        self.ended: float | None = None
        self.backlog = 0  # the first batch of the journal that holds something of it which is not saved yet
        self._segments: list[_Segment] = []
        self._starts: list[int] = []

    def apply(self, kind: int, payload: str | bytes) -> None:
        """Adds the next event: text for a piece, encoded JSON for anything else."""
        self.last = sequence = self.last + 1
        segments = self._segments
        if kind >= WHOLE:
            segments.append(_single(kind, sequence, payload))  # type: ignore[arg-type]
            self._starts.append(sequence)
            return
        if segments and isinstance(run := segments[-1], _Run) and run.kind == kind:
            run.add(payload)  # type: ignore[arg-type]
            return
        run = _Run(kind, sequence)
        run.add(payload)  # type: ignore[arg-type]
        segments.append(run)
        self._starts.append(sequence)

    def read(self, *, after: int, limit: int = 0, most: int = 0) -> list[Entry]:
        """What comes after the position `after`, text merged as far as it is one run; `limit` events at most (0: all).

        With `most` it ends after about so many characters, or with a single event that is longer. `after` may lie
        anywhere, also between two merged pieces; before the stretch means from its beginning.
        """
        segments = self._segments
        if after >= self.last or not segments:
            return []
        newest = segments[-1]
        if after + 1 >= newest.first:  # nearly always: a reader that is up to date but for the last pieces
            if isinstance(newest, _Run):
                start = after + 1 - newest.first
                ends = newest.ends
                if most and ends[-1] > most and (stop := newest.portion(start, most)) < len(ends):
                    return [Entry(newest.first + stop - 1, newest.body(start, stop))]
                return [_entry(Entry, (self.last, newest.body(start)))]
            return [_entry(Entry, (newest.first, self._body(newest)))]
        after = max(after, self.first - 1)
        index = bisect_right(self._starts, after + 1) - 1
        found: list[Entry] = []
        room = most
        stop = len(segments) if not limit else min(len(segments), index + limit)
        for i in range(index, stop):
            segment = segments[i]
            if not isinstance(segment, _Run):
                if most and found and self._least(segment) > room:
                    break  # before it is made: the whole text takes its time
                body = self._body(segment)
                if most and found and len(body) > room:
                    break
                found.append(Entry(segment.first, body))
                room -= len(body)
            else:
                start = max(0, after + 1 - segment.first)
                end = segment.portion(start, most) if most else len(segment.ends)
                found.append(Entry(segment.first + end - 1, segment.body(start, end)))
                room -= segment.ends[end - 1] - (segment.ends[start - 1] if start else 0)
                if end < len(segment.ends):
                    break
            if most and room <= 0:
                break
        return found

    def _body(self, segment: _Whole | _Last) -> bytes:
        if isinstance(segment, _Whole):
            return segment.body
        head, _, tail = segment.bare.partition(_NO_CONTENT)
        return _with_text(head + b'"content":', (text for _, text in _shown(self._segments)), tail)

    def _least(self, segment: _Whole | _Last) -> int:
        """Bytes that the body has at least, without making it."""
        if isinstance(segment, _Whole):
            return len(segment.body)
        shown = self._segments[_newest_replacement(self._segments) :]
        return sum(s.ends[-1] for s in shown if isinstance(s, _Run) and s.kind == MESSAGE)

    def cut(self, after: int) -> None:
        """Forgets the events after a position."""
        segments = self._segments
        while segments and segments[-1].first > after:
            segments.pop()
            self._starts.pop()
        if segments and isinstance(run := segments[-1], _Run):
            run.cut(after + 1 - run.first)
        self.last = max(min(self.last, after), self.first - 1)

    def says(self, content: str, later: Iterable[tuple[int, int, int, Any]] = ()) -> bool:
        """Whether this is the text that a reader shows, once it has the `later` records of it too."""
        at, same = 0, True
        for anew, text in chain(_shown(self._segments), _shown_later(self.number, later)):
            at, same = (0, True) if anew else (at, same)
            same = same and content.startswith(text, at)
            at += len(text)
        return same and at == len(content)

    def contents(self) -> Iterator[tuple[int, str | bytes]]:
        """Each run's whole text, and each other event's JSON as it is kept, in order, with its kind."""
        for segment in self._segments:
            if isinstance(segment, _Run):
                yield segment.kind, segment.text()
            elif isinstance(segment, _Whole):
                yield WHOLE, segment.body
            else:
                yield LAST, segment.bare

    def __repr__(self) -> str:
        life = "ended" if self.ended is not None else "runs"
        return f"Stretch(#{self.number} {self.key} {self.turn} {self.first}..{self.last} {life})"


class Saved(msgspec.Struct, array_like=True):
    """A stretch's events as they are stored: per segment its kind, and its text with boundaries or its body."""

    segments: list[tuple[int, bytes, bytes]]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Saved)


def pack(stretch: Stretch) -> bytes:
    """The stretch's events, text merged with its boundaries (32-bit code-point offsets, native order of this file)."""
    rows: list[tuple[int, bytes, bytes]] = []
    for segment in stretch._segments:
        if isinstance(segment, _Run):
            rows.append((segment.kind, segment.encoded(), _little(segment.ends)))
        elif isinstance(segment, _Whole):
            rows.append((WHOLE, segment.body, b""))
        else:
            rows.append((LAST, segment.bare, b""))
    return _encoder.encode(Saved(rows))


def unpack(stretch: Stretch, data: bytes) -> Stretch:
    """Fills an empty stretch with what `pack` made. Raises `msgspec.DecodeError` or `ValueError` for damaged data."""
    sequence = stretch.first
    for kind, content, boundaries in _decoder.decode(data).segments:
        stretch._starts.append(sequence)
        if kind >= WHOLE:
            stretch._segments.append(_single(kind, sequence, content))
            sequence += 1
        else:
            ends = array("I")
            ends.frombytes(boundaries)
            if _BIG_ENDIAN:
                ends.byteswap()
            stretch._segments.append(_Run(kind, sequence, content.decode(), ends))
            sequence += len(ends)
    stretch.last = sequence - 1
    return stretch


_BIG_ENDIAN = array("H", [1]).tobytes() == b"\x00\x01"


def _little(ends: "array[int]") -> bytes:
    if _BIG_ENDIAN:
        ends = array("I", ends)
        ends.byteswap()
    return ends.tobytes()
