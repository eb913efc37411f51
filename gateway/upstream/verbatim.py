"""Verbatim: what Coze says, kept in its own words beside the items that are made of it.

For turns that came through a door in Coze's own form. Pieces of text are not kept twice: before the first piece of a
message stands its head, the message's fields without its content.
"""

from collections.abc import Iterable
from typing import Any

from msgspec import Raw

from gateway.bounds import ID_LENGTH
from gateway.events import HEAD
from gateway.upstream.coze_protocol import ChatReader
from gateway.upstream.json_text import BadJson, plain, read_object, write
from gateway.upstream.protocol import Audio, Delta, Item, Reasoning, Skipped, Verbatim
from gateway.upstream.sse import SseEvent

MESSAGE = "conversation.message.completed"

_DELTA = b"conversation.message.delta"
_AUDIO = b"conversation.audio.delta"
_CHAT = "conversation.chat."
_KEPT = frozenset(
    {
        *(f"{_CHAT}{state}".encode() for state in ("created", "in_progress", "completed", "failed")),
        *(f"{_CHAT}{state}".encode() for state in ("requires_action", "required_action", "canceled", "cancelled")),
        b"error",
        b"done",
    }
)
_OF_A_PIECE = frozenset({"content", "reasoning_content", "created_at", "updated_at"})
_ENDS = frozenset({"completed", "failed", "requires_action", "canceled"})


class VerbatimReader(ChatReader):
    """Reads the items of one stream, and the records that they were made of."""

    __slots__ = ("_stands",)

    def __init__(self, chat_id: str = "") -> None:
        super().__init__(chat_id)
        self._stands: str | None = None  # the id of the message whose head was the last one

    def items(self, events: Iterable[SseEvent]) -> list[Item]:
        items: list[Item] = []
        for record in events:
            if self.done:
                break
            own = super().items((record,))
            name, data = record
            if name == _DELTA and own and getattr(own[-1], "message_id", None) == self._stands:
                items += own  # nearly all records take this short path
            elif any(isinstance(item, Skipped) for item in own):
                items += own
            elif name == _DELTA or (name == _AUDIO and self._stands is None):
                items += [*self._head(data, own), *own]
            elif name == MESSAGE.encode():
                items += self._with_message(data, own)
            elif name in _KEPT:
                fields = _fields(data)
                items += own if fields is None else [Verbatim(name.decode(), write(fields)), *own]
            else:
                items += own
        return items

    def _head(self, data: bytes, own: list[Item]) -> list[Item]:
        """The head of the message to which a piece belongs, which is another one than the last piece's."""
        pieces = any(isinstance(item, Delta | Reasoning | Audio) for item in own)
        if not pieces or (message := _fields(data)) is None:
            return []
        head = head_of(message)
        self._stands = head.message_id
        return [head]

    def _with_message(self, data: bytes, own: list[Item]) -> list[Item]:
        if (message := _fields(data)) is None:
            return own
        found = with_message(message, own)
        head = found[0]
        if isinstance(head, Verbatim) and head.name == HEAD:
            if head.message_id == self._stands:
                return found[1:]
            self._stands = head.message_id
        return found


def with_message(message: Any, own: list[Item]) -> list[Item]:
    """A whole message's items before the message itself. Before the text of an answer stands its head."""
    if not isinstance(message, dict):
        return own
    text = message.get("type") == "answer" and message.get("content_type") in ("text", "", None)
    try:
        said = Verbatim(MESSAGE, write(plain(message)), _id(message))
    except BadJson:
        return own
    return [*([head_of(message)] if text else []), *own, said]


def with_entry(entry: Any, own: list[Item]) -> list[Item]:
    """The same for an entry of the list of a chat's messages, which may not be decoded yet."""
    return with_message(_fields(bytes(entry)) if isinstance(entry, Raw) else entry, own)


def head_of(message: dict[str, Any]) -> Verbatim:
    """A message's fields, without its content."""
    fields = {name: value for name, value in message.items() if name not in _OF_A_PIECE}
    return Verbatim(HEAD, write(plain(fields)), _id(message))


def state_of(chat: Any) -> Verbatim | None:
    """The record with which a stream would have ended, from what `retrieve` says of the chat."""
    status = chat.get("status") if isinstance(chat, dict) else None
    try:
        return Verbatim(f"{_CHAT}{status}", write(plain(chat))) if status in _ENDS else None
    except BadJson:
        return None


def _fields(data: bytes) -> dict[str, Any] | None:
    """The fields of one of Coze's objects; of a `done` that is no object, none. None if they can't be passed on."""
    try:
        return read_object(data)
    except BadJson:
        return None


def _id(message: dict[str, Any]) -> str:
    found = message.get("id")
    return found if isinstance(found, str) and len(found) <= ID_LENGTH else ""
