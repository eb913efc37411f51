"""Framing: turns the entries of a turn's log into Coze's event stream. It is pure.

A chat's records have no space after the colon, a chatflow's have one; neither has ids or comments, because Coze's SDKs
fail on what the real service doesn't send.
"""

from bisect import bisect_right
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from adapters.facades.coze.failures import INTERNAL, code_of
from gateway.events import (
    HEAD,
    HIDDEN,
    LOG_ID,
    AudioPiece,
    Cancelled,
    Failed,
    one_line,
    record_of,
    text_json,
    text_of,
)
from gateway.log.entry import Entry
from gateway.log.segments import MESSAGE, Run, Whole
from gateway.log.stretch import Stretch
from gateway.turns.answer import SEPARATOR

BETWEEN = b"\n"
"""A heartbeat: an empty line between two records, which all of Coze's SDKs skip."""

_DELTA, _AUDIO = b"conversation.message.delta", b"conversation.audio.delta"
_HEAD, _LOG_ID = HEAD.encode(), LOG_ID.encode()
_DONE = b"done"
_ENDING = b"\n\n"
_CHAT = b"conversation.chat."
_NO_HEAD = b'{"role":"assistant","type":"answer","content_type":"text"}'
_SEPARATOR = SEPARATOR.encode("unicode_escape")
LOST = "This answer cannot be continued exactly where the stream was."
_FAILED, _CANCELED = b"conversation.chat.failed", b"conversation.chat.canceled"
COMPLETED = b"conversation.chat.completed"
_ENDS = (COMPLETED, _FAILED, b"error", _CANCELED, b"conversation.chat.cancelled")


class Head(Struct, frozen=True):
    """The message to which pieces of text belong after `sequence`. With `begins` the first of them begins with a
    separator, which is not part of the message."""

    sequence: int
    fields: bytes
    begins: bool = False


class Framer:
    """Makes the records of one stream. `spaced` puts a space after each colon.

    The result depends on the stretch, the position and the entries alone, so that the same may be asked for again.
    """

    __slots__ = ("_colon", "_head", "_opening", "_stretch")

    def __init__(self, stretch: Stretch, *, spaced: bool) -> None:
        self._stretch = stretch
        self._colon = b": " if spaced else b":"
        self._head: Head | None = None
        self._opening = b""  # how the records of the text under this head begin, up to the text itself

    def frames(self, after: int, entries: list[Entry]) -> tuple[bytes, bool]:
        """The records for entries that follow the position `after`, and whether the stream ends with them."""
        if len(entries) == 1 and entries[0].name == "message":  # nearly all calls
            return self._text(after, entries[0]), False
        parts: list[bytes] = []
        for entry in entries:
            name = entry.name
            if name in {"message", "reasoning"}:
                parts.append(self._text(after, entry))
            elif name == HIDDEN:
                parts.append(self._record(entry))
            elif name == "audio":
                parts.append(self._sound(entry))
            elif name == "action_required":
                return b"".join((*parts, self._done(entry.sequence))), True
            elif name == "reset":  # the database has lost what the reader was given, and Coze's form can't say so
                return b"".join((*parts, self.failed(INTERNAL, LOST))), True
            elif name in ("completed", "cancelled", "error"):
                return b"".join((*parts, self._last(entry))), True
            after = entry.sequence
        return b"".join(parts), False

    def framed(self, name: bytes, data: bytes) -> bytes:
        return b"event%b%b\ndata%b%b\n\n" % (self._colon, name, self._colon, data)

    def failed(self, code: int, text: str) -> bytes:
        """The record of a failure."""
        return self.framed(b"error", _json({"code": code, "msg": text}))

    def rest(self, sequence: int, text: str) -> bytes:
        """A record with text that belongs after the position `sequence`."""
        return self._delta(self._at(sequence), text_json(text), "message")

    # -- pieces ---------------------------------------------------------------------------------------------------

    def _text(self, after: int, entry: Entry) -> bytes:
        content = text_of(entry.name, entry.body)
        if content is None:
            return b""  # a card, or the text as Coze rewrote it: the whole message follows
        head = self._at(entry.sequence)
        if head.begins and entry.name == "message" and text_after(self._stretch, head.sequence) == after + 1:
            content = b'"' + content[1 + len(_SEPARATOR) :]
        return self._delta(head, content, entry.name)

    def _delta(self, head: Head, content: bytes, kind: str) -> bytes:
        if kind == "reasoning":
            return self.framed(_DELTA, b'%b"content":"","reasoning_content":%b}' % (opening(head.fields), content))
        return b"".join((self._opening, content, b"}\n\n"))

    def _sound(self, entry: Entry) -> bytes:
        event = entry.event
        assert isinstance(event, AudioPiece)
        head = msgspec.json.decode(self._at(entry.sequence).fields)
        return self.framed(_AUDIO, _json(head | {"content_type": "audio", "content": event.content}))

    def _at(self, sequence: int) -> Head:
        """The head that counts at a position."""
        head = self._head
        if head is None or head.sequence > sequence:
            head = self._stands(head_at(self._stretch, sequence))
        return head

    def _stands(self, head: Head) -> Head:
        """From now on text stands under this head."""
        self._head = head
        self._opening = self.framed(_DELTA, opening(head.fields))[: -len(_ENDING)] + b'"content":'
        return head

    # -- records --------------------------------------------------------------------------------------------------

    def _record(self, entry: Entry) -> bytes:
        name, begins, data = record_of(entry.body)
        if name == _HEAD:
            self._stands(Head(entry.sequence, data, begins))
            return b""
        if name in (_LOG_ID, _DONE):
            return b""
        return self.framed(name, data)

    def _last(self, entry: Entry) -> bytes:
        """The end of the stream. Where Coze itself has not said how the chat ended, we say it."""
        last = entry.event
        said = b""
        known = newest_chat(self._stretch, entry.sequence)
        if known is None:
            if isinstance(last, Failed):
                said = self.failed(code_of(last), last.error)
        elif known[0] not in _ENDS:
            if isinstance(last, Failed):
                error = {"code": code_of(last), "msg": last.error}
                said = self.framed(_FAILED, _state(known[1], "failed", last_error=error))
            elif isinstance(last, Cancelled):
                said = self.framed(_CANCELED, _state(known[1], "canceled"))
        return said + self._done(entry.sequence)

    def _done(self, sequence: int) -> bytes:
        done = next((data for name, data in records(self._stretch, sequence) if name == _DONE), b'"[DONE]"')
        return self.framed(_DONE, done)


def records(stretch: Stretch, until: int) -> Iterable[tuple[bytes, bytes]]:
    """Coze's own records up to a position, newest first: names and data."""
    for segment in reversed(stretch.segments[: bisect_right(stretch.starts, until)]):
        if isinstance(segment, Whole) and segment.name == HIDDEN:
            name, _, data = record_of(segment.body)
            yield name, data


def newest_chat(stretch: Stretch, until: int) -> tuple[bytes, bytes] | None:
    """The newest record about the chat itself, not about a message."""
    found = (said for said in records(stretch, until) if said[0] == b"error" or said[0].startswith(_CHAT))
    return next(found, None)


def head_at(stretch: Stretch, sequence: int) -> Head:
    """The head that counts at a position."""
    segments = stretch.segments
    at = bisect_right(stretch.starts, sequence) - 1
    while at >= 0:
        segment = segments[at]
        if isinstance(segment, Whole) and segment.name == HIDDEN:
            name, begins, data = record_of(segment.body)
            if name == _HEAD:
                return Head(segment.first, data, begins)
        at -= 1
    return Head(0, _NO_HEAD)


def opening(fields: bytes) -> bytes:
    """How an object begins that has these fields, to which others are added."""
    return fields[:-1] + b"," if len(fields) > len(b"{}") else b"{"


def text_after(stretch: Stretch, sequence: int) -> int:
    """Where the first text of the answer after a position begins; 0 if there is none."""
    later = stretch.segments[bisect_right(stretch.starts, sequence) :]
    return next((one.first for one in later if isinstance(one, Run) and one.kind == MESSAGE), 0)


def _state(chat: bytes, status: str, **fields: object) -> bytes:
    known = msgspec.json.decode(chat)
    return _json((known if isinstance(known, dict) else {}) | {"status": status, **fields})


def _json(fields: dict[str, object]) -> bytes:
    return one_line(msgspec.json.encode(fields))
