"""Decodes an event stream: bytes in, events out, no I/O.

The format is WHATWG's (https://html.spec.whatwg.org/multipage/server-sent-events.html, "Parsing an event stream").
Lines end in LF, CR or CRLF and in nothing else; U+2028 and similar characters are data. The grammar consists of ASCII
only, so the decoder works on bytes and leaves UTF-8 to the reader of the data: it never sees a character cut by a read.
"""

import re
from collections.abc import Callable

from gateway.bounds import RECORD_BYTES

SseEvent = tuple[bytes, bytes]
"""An event's type, b"" if it names none (WHATWG's `message`), and its data: several `data` lines are joined by LF."""

RECORD_LIMIT = RECORD_BYTES
"""Bytes that one line, or one record's data lines together, may have."""

_REJOIN_LIMIT = 8 * 1024
"""An unfinished record beyond this size is not rejoined and searched again at each read, which would be quadratic."""

_COZE_RECORDS: Callable[[bytes], list[SseEvent]] = re.compile(rb"^event: ?(.*)\ndata: ?(.*)\n\n", re.MULTILINE).findall
"""The records in exactly Coze's form. If they account for all line ends of the text, 3 each, there are no others."""

_BOM = b"\xef\xbb\xbf"


class SseDecoder:
    """One stream's decoder. However the stream is cut into chunks, the same events come out.

    Complete LF records, as Coze sends them, are split in bulk; input that has a CR or is long is read line by line
    until the next record begins. Once a record exceeds the limit, `too_large` is set and nothing is decoded any more.
    """

    __slots__ = ("_at_record", "_begun", "_lines", "_tail", "limit", "too_large")

    def __init__(self, limit: int = RECORD_LIMIT) -> None:
        self.limit = limit
        self.too_large = False
        self._begun = False  # whether the point where a BOM may be has passed
        self._at_record = False  # nothing is held: the next byte begins a record
        self._tail = b""  # LF records: the held part of an unfinished one
        self._lines = _Lines(limit)

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """The events that `chunk` completes, in order."""
        if self._at_record and b"\r" not in chunk:
            events = _COZE_RECORDS(chunk)
            if chunk.count(b"\n") == 3 * len(events) and chunk.endswith(b"\n\n") and len(chunk) <= self.limit:
                return events
        if self.too_large:
            return []
        if not self._lines.idle:
            return self._feed_lines(chunk)
        return self._feed_text(self._tail + chunk if self._tail else chunk)

    @property
    def last_event_id(self) -> bytes:
        """The last `id` that a finished record has set; Coze's chats have none."""
        return self._lines.last_event_id

    def open_record(self) -> SseEvent | None:
        """The last record, if it has no blank line, as far as it has arrived; its last line may be cut.

        None if no data have arrived for one. Nothing can be fed afterwards.
        """
        events: list[SseEvent] = []
        self._lines.feed(self._tail + b"\n\n\n", events)  # the first LF may belong to a CR
        return events[0] if events else None

    @property
    def open_event(self) -> bytes:
        """The type of the last, unfinished record; b"" if it has not named one.

        The record's line may be cut, and the name with it.
        """
        tail = self._tail or self._lines.tail
        lines = _Lines(self.limit)
        lines.feed(tail if tail.endswith(b"\n") else tail + b"\n", [])
        return lines.name or self._lines.name

    @property
    def cut(self) -> bool:
        """Whether the stream, if it ended here, would end inside a record."""
        if not self._tail:
            return self._lines.unfinished
        probe = _Lines(self.limit)
        probe.feed(self._tail, [])
        return probe.unfinished

    def _feed_text(self, text: bytes) -> list[SseEvent]:
        if not self._begun:
            if len(text) < len(_BOM) and _BOM.startswith(text):
                self._tail = text
                return []
            self._begun = True
            text = text.removeprefix(_BOM)
        if b"\r" in text or len(text) > self.limit:
            self._tail = b""
            return self._feed_lines(text)
        end = text.rfind(b"\n\n") + 2 if b"\n\n" in text else 0
        whole, self._tail = text[:end], text[end:]
        events = _COZE_RECORDS(whole)
        if whole.count(b"\n") != 3 * len(events):
            events = []
            self._lines.feed(whole, events)
        self._at_record = not self._tail
        if len(self._tail) > _REJOIN_LIMIT:
            text, self._tail = self._tail, b""
            events += self._feed_lines(text)
        return events

    def _feed_lines(self, chunk: bytes) -> list[SseEvent]:
        events: list[SseEvent] = []
        self.too_large = not self._lines.feed(chunk, events)
        self._at_record = self._lines.idle and not self.too_large
        return events


class _Lines:
    """The grammar line by line, for anything."""

    __slots__ = ("_after_cr", "_data", "_id", "_limit", "_size", "_tail", "last_event_id", "name")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tail = bytearray()  # an unfinished line
        self._after_cr = False  # an LF at the beginning belongs to the CR that ended the last chunk
        self.name = b""  # the open record's type
        self._data: bytes | bytearray | None = None  # the open record's
        self._size = 0
        self._id = b""
        self.last_event_id = b""

    @property
    def idle(self) -> bool:
        """Whether the next byte begins a record, and an LF would be a line of its own."""
        return not (self._after_cr or self.unfinished)

    @property
    def tail(self) -> bytes:
        """The line that has not ended."""
        return bytes(self._tail)

    @property
    def unfinished(self) -> bool:
        return bool(self._tail or self._data is not None or self.name)

    def feed(self, chunk: bytes, events: list[SseEvent]) -> bool:
        """Appends the events that `chunk` completes. False, for good, when a record is over the limit."""
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if chunk.endswith(b"\r"):
            self._after_cr = True
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, *rest = chunk.split(b"\n")
        self._tail += first
        if not rest:
            return self._bounded()
        whole = self._tail
        self._tail = bytearray(rest.pop())
        if not self._line(whole, events):
            return self._drop()
        del whole  # a long one is let go before its record is read
        for line in rest:
            if not self._line(line, events):
                return self._drop()
        return self._bounded()

    def _line(self, line: bytes | bytearray, events: list[SseEvent]) -> bool:
        if line:
            return self._field(line)
        self._dispatch(events)
        return True

    def _field(self, line: bytes | bytearray) -> bool:
        if len(line) > self._limit:
            return False
        colon = line.find(b":")
        field = line if colon < 0 else line[:colon]
        start = len(line) if colon < 0 else colon + (2 if line.startswith(b" ", colon + 1) else 1)
        value = bytes(memoryview(line)[start:])
        if field == b"data":
            self._size += len(line)
            self._add(value)
        elif field == b"event":
            self.name = value
        elif field == b"id" and b"\0" not in value:
            self._id = value
        return self._size <= self._limit

    def _add(self, value: bytes) -> None:
        if self._data is None:
            self._data = value
            return
        if isinstance(self._data, bytes):
            self._data = bytearray(self._data)
        self._data += b"\n"
        self._data += value

    def _dispatch(self, events: list[SseEvent]) -> None:
        if self._data is not None:
            events.append((self.name, bytes(self._data)))
            self._data = None
            self._size = 0
        self.name = b""
        self.last_event_id = self._id

    def _bounded(self) -> bool:
        held = len(self._tail)
        if held > self._limit or (self._size + held > self._limit and self._tail.startswith(b"data:")):
            return self._drop()
        return True

    def _drop(self) -> bool:
        self._tail, self._data, self._size, self.name = bytearray(), None, 0, b""
        return False
