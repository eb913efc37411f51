"""The closed set of events that a log holds, as contract section 3 names them."""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

Outcome = Literal["completed", "failed", "cancelled"]


class Text(Struct, frozen=True):
    """A piece of plain text, the hot path. Consecutive pieces of one kind may be merged: contents joined, last id."""

    kind: Literal["message", "reasoning"]
    content: str


class Started(Struct, frozen=True, tag_field="event", tag="started", rename="camel"):
    conversation_id: str
    turn_id: str
    input: str


class Message(Struct, frozen=True, tag_field="event", tag="message", rename="camel", omit_defaults=True):
    """A piece that is not plain text, or the whole answer again. Never merged."""

    content: str
    content_type: str | UnsetType = UNSET
    replace: bool = False


class ToolUse(Struct, frozen=True, tag_field="event", tag="tool"):
    phase: Literal["call", "output"]
    name: str
    content: str


class AudioPiece(Struct, frozen=True, tag_field="event", tag="audio"):
    content: str


class FollowUp(Struct, frozen=True, tag_field="event", tag="suggestion"):
    content: str


class Notice(Struct, frozen=True, tag_field="event", tag="notice", rename="camel", omit_defaults=True):
    code: Literal["queued", "retrying", "recovering"]
    attempt: int | UnsetType = UNSET
    delay_ms: int | UnsetType = UNSET


class ActionNeeded(Struct, frozen=True, tag_field="event", tag="action_required", rename="camel"):
    tool_calls: list[dict[str, Any]]


class Completed(Struct, frozen=True, tag_field="event", tag="completed", rename="camel"):
    conversation_id: str
    turn_id: str
    content: str
    usage: dict[str, Any] | None
    recovered: bool


class Cancelled(Struct, frozen=True, tag_field="event", tag="cancelled", rename="camel"):
    conversation_id: str
    turn_id: str
    content: str


class Failed(Struct, frozen=True, tag_field="event", tag="error", rename="camel"):
    """`error` is a sentence for a person; `upstream` holds Coze's `code` and `logId` where it gave them."""

    error: str
    code: str
    retryable: bool
    conversation_id: str
    turn_id: str
    content: str
    upstream: dict[str, Any] | UnsetType = UNSET


class Notification(Struct, frozen=True, tag_field="event", tag="notification", rename="camel"):
    """For a shop's staff, in the shop's own log. `preview` has 80 characters at most."""

    type: Literal["turn.started", "turn.completed", "turn.failed", "turn.cancelled"]
    conversation_id: str
    turn_id: str
    user_id: str
    preview: str


Last = Completed | Cancelled | Failed
Event = Text | Started | Message | ToolUse | AudioPiece | FollowUp | Notice | ActionNeeded | Last | Notification

_encode = msgspec.json.Encoder().encode


def body(event: Event) -> bytes:
    """The event's JSON object without its `id` and without braces: `"event":"…",…`. Strict UTF-8, strict JSON.

    U+0085, U+2028 and U+2029 are escaped: they are legal in JSON and in an event stream, but readers that split
    lines as Python's `splitlines` does would cut there.
    """
    if isinstance(event, Text):
        return b'"event":"' + event.kind.encode() + b'","content":' + text_json(event.content)
    return _one_line(_encode(event)[1:-1])


def text_json(text: str) -> bytes:
    """`text` as a JSON string, quotes included, safe on one line for any reader. `text` holds no lone surrogate."""
    data = _encode(text)
    return data if text.isascii() else _one_line(data)


def _one_line(data: bytes) -> bytes:
    if b"\xe2\x80" in data:
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    if b"\xc2\x85" in data:
        data = data.replace(b"\xc2\x85", b"\\u0085")
    return data


def encode_fields(fields: dict[str, Any]) -> bytes:
    """Fields as the inside of a JSON object, on one line."""
    return _one_line(_encode(fields)[1:-1])
