"""The closed set of events that readers are given, as contract section 3 names them, and their JSON."""

from collections.abc import Iterable
from io import BytesIO
from sys import intern
from typing import Any, ClassVar, Literal

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
    code: Literal["queued", "retrying", "recovering", "unrecoverable"]
    attempt: int | UnsetType = UNSET
    delay_ms: int | UnsetType = UNSET


class NodeChange(Struct, frozen=True, tag_field="event", tag="node", rename="camel"):
    """The text from here on comes from this node of a workflow. `finished`: nothing follows from it after that."""

    title: str
    node_id: str
    finished: bool


class ActionNeeded(Struct, frozen=True, tag_field="event", tag="action_required", rename="camel"):
    tool_calls: list[dict[str, Any]]


class Completed(Struct, frozen=True, tag_field="event", tag="completed", rename="camel", omit_defaults=True):
    """`awaiting_reply`: the answer ends with a question of the bot, and Coze takes the next message as the reply."""

    outcome: ClassVar[Outcome] = "completed"
    conversation_id: str
    turn_id: str
    content: str
    usage: dict[str, Any] | None
    recovered: bool
    awaiting_reply: bool = False


class Cancelled(Struct, frozen=True, tag_field="event", tag="cancelled", rename="camel"):
    outcome: ClassVar[Outcome] = "cancelled"
    conversation_id: str
    turn_id: str
    content: str


class Failed(Struct, frozen=True, tag_field="event", tag="error", rename="camel"):
    """`error` is a sentence for a person; `upstream` holds Coze's `code` and `logId` where it gave them."""

    outcome: ClassVar[Outcome] = "failed"
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


class CozeRecord(Struct, frozen=True, tag_field="event", tag="coze", omit_defaults=True):
    """Something in Coze's own words, kept only in turns that came through a door that speaks Coze's API, and read only
    by that door: the other events leave out what its callers want to have, such as Coze's ids.

    `name` is the type of Coze's event, or `HEAD`, or `LOG_ID`. After a head, pieces of text belong to the message whose
    fields the head has; with `begins` this message is not the turn's first, so its text begins with a separator.
    """

    name: str
    begins: bool = False
    data: msgspec.Raw = msgspec.Raw(b"null")


HEAD = "head"
"""Names the record with the fields of a message, all but its content."""

LOG_ID = "log_id"
"""Names the record with Coze's log id of a stream."""

HIDDEN = "coze"
"""The events with this name are kept from all readers but the door's."""


class Reset(Struct, frozen=True, tag_field="event", tag="reset", rename="camel"):
    """Tells a reader to replace what it shows; its position is the one to continue from.

    In no log: it is made for a reader whose own position can't be continued.
    """

    reason: Literal["expired", "unknown", "ahead"]
    turn_id: str
    status: str
    content: str


class Unknown(Struct, frozen=True):
    """An event of a newer version, in a log that this version reads again."""

    name: str
    fields: dict[str, Any]


Last = Completed | Cancelled | Failed
_Middle = Message | ToolUse | AudioPiece | FollowUp | Notice | NodeChange | ActionNeeded
Event = Text | Started | _Middle | Last | Notification | CozeRecord

_encode = msgspec.json.Encoder().encode

# How a body begins and ends. Only the functions of this module rely on it.
_NAME_AT = len('"event":"')
_TEXT_HEADS = {kind: f'"event":"{kind}","content":'.encode() for kind in ("message", "reasoning")}
_RECORD_AT = len('"event":"coze","name":"')
_REPLACES = b',"replace":true'
_NO_CONTENT = b'"content":""'


def body(event: Event | Reset) -> bytes:
    """The event's JSON object without its `id` and without braces: `"event":"…",…`. Strict UTF-8, strict JSON.

    U+0085, U+2028 and U+2029 are escaped: they are legal in JSON and in an event stream, but readers that split
    lines as Python's `splitlines` does would cut there.
    """
    if isinstance(event, Text):
        return text_body(event.kind, event.content)
    return one_line(_encode(event)[1:-1])


def text_body(kind: str, text: str) -> bytes:
    """The body of a piece of text."""
    return _TEXT_HEADS[kind] + text_json(text)


def long_text_body(kind: str, parts: Iterable[str]) -> bytes:
    """The same of a text in parts, without a second copy of the text at any time."""
    return _with_content(_TEXT_HEADS[kind], parts)


def last_body(bare: bytes, parts: Iterable[str]) -> bytes:
    """The body of a last event, from one whose content was left empty and the parts of that content."""
    head, _, tail = bare.partition(_NO_CONTENT)
    return _with_content(head + b'"content":', parts, tail)


def _with_content(head: bytes, parts: Iterable[str], tail: bytes = b"") -> bytes:
    made = BytesIO()
    made.write(head + b'"')
    for part in parts:
        made.write(text_json(part)[1:-1])
    made.write(b'"' + tail)
    return made.getvalue()


def text_of(name: str, body: bytes) -> bytes | None:
    """The JSON string of a piece of text, read off its body; None for a card and for a text that replaces all."""
    if body.endswith(_REPLACES) or b',"contentType":"' in body:  # a quote inside of a text would be escaped
        return None
    return body[len(_TEXT_HEADS[name]) :]


def record_of(body: bytes) -> tuple[bytes, bool, bytes]:
    """The name, `begins` and the data of a `CozeRecord`, read off its body."""
    head, _, data = body.partition(b',"data":')
    name, _, begins = head[_RECORD_AT:].partition(b'"')
    return name, bool(begins), data


def name_of(body: bytes) -> str:
    """The event's name, read off its body. Raises `ValueError` for what is no body."""
    return intern(body[_NAME_AT : body.index(b'"', _NAME_AT)].decode())


def says_anew(body: bytes) -> bool:
    """Whether it is the body of a `Message` that replaces the text, which may be megabytes: it is not decoded."""
    return body.endswith(_REPLACES) and body.startswith(_TEXT_HEADS["message"])


class _Reasoning(Struct, frozen=True, tag_field="event", tag="reasoning"):
    content: str


_Decoded = _Reasoning | Started | _Middle | Last
_decoder = msgspec.json.Decoder(_Decoded | Notification | CozeRecord | Reset)


def decode(body: bytes) -> Event | Reset | Unknown:
    """The event that a body was made of. Fields that this version doesn't know are left out; an event whose name, or
    one of whose values, it doesn't know is `Unknown`. Raises `msgspec.DecodeError` for what is no JSON."""
    data = b"{%b}" % body
    try:
        event: _Decoded | Notification | CozeRecord | Reset = _decoder.decode(data)
    except msgspec.ValidationError:
        fields = msgspec.json.decode(data, type=dict[str, Any])
        return Unknown(str(fields.pop("event", "")), fields)
    if isinstance(event, _Reasoning):
        return Text("reasoning", event.content)
    if isinstance(event, Message) and event.content_type is UNSET and not event.replace:
        return Text("message", event.content)
    return event


def text_json(text: str) -> bytes:
    """`text` as a JSON string, quotes included, safe on one line for any reader. `text` holds no lone surrogate."""
    data = _encode(text)
    return data if text.isascii() else one_line(data)


def one_line(data: bytes) -> bytes:
    """JSON without the characters at which some readers would cut a line."""
    if b"\xe2\x80" in data:
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    if b"\xc2\x85" in data:
        data = data.replace(b"\xc2\x85", b"\\u0085")
    return data
