"""Coze's chat stream: events of the event stream in, items out, no I/O.

Four dialects, told apart by what arrives: v3 (event line, flat JSON), chatflow (v3 with other spacing, no bot), the
self-hosted studio (ends with `conversation.stream.done` and empty data; in its chatflows all messages have one id, and
a completed one is only the last piece), and v2 or the web's (`message` with the message inside; v2 names its type in
the JSON). The type decides what a record is, never the shape of its data.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from gateway.upstream.coze_objects import (
    Message,
    action_of,
    coze_code,
    failure_of,
    failure_of_chat,
    interrupts,
    message_items,
    read_chat,
    status_of,
    usage_of,
)
from gateway.upstream.json_text import UNREADABLE, BadJson, read, read_again
from gateway.upstream.protocol import (
    ActionRequired,
    Audio,
    ChatCanceled,
    ChatCompleted,
    ChatFailed,
    Created,
    Delta,
    Done,
    Item,
    Reasoning,
    Skipped,
)
from gateway.upstream.sse import SseEvent
from gateway.upstream.surrogates import REPLACEMENT, Halves, mend

_MESSAGE_DELTA = b"conversation.message.delta"
_MESSAGE_COMPLETED = b"conversation.message.completed"
_AUDIO_DELTA = b"conversation.audio.delta"
_CHAT_STATES = frozenset(
    {
        b"conversation.chat.created",
        b"conversation.chat.in_progress",
        b"conversation.chat.completed",
        b"conversation.chat.requires_action",
        b"conversation.chat.required_action",
        b"conversation.chat.canceled",
        b"conversation.chat.cancelled",
    }
)
_CHAT_FAILED = b"conversation.chat.failed"
_FAILURES = frozenset({_CHAT_FAILED, b"error"})
_DONE = frozenset({b"done", b"conversation.stream.done"})
_CHATFLOW = b'"debug_url"'
"""What the data of `done` have in a chatflow alone."""
_UNNAMED = frozenset({b"", b"message"})
_NO_ID = frozenset({"", "0", None})
_PIECES = frozenset({"content", "reasoning_content"})


class _Piece(Struct, gc=False):
    """The fields that are read of a delta: as few as possible, because nearly all records are deltas."""

    id: str | None = None
    type: str | None = None
    content: str | None = None
    content_type: str | None = None
    reasoning_content: str | None = None
    chat_id: str | None = None


class _Wrapped(Struct):
    """v2's and the web's record, or a failure that names no event. `index` groups the pieces of one message."""

    event: str | None = None
    message: Message | None = None
    index: Any = None
    error_information: Any = None
    status: str | None = None
    code: Any = None
    msg: Any = None


_decode_piece = msgspec.json.Decoder(_Piece).decode
_decode_message = msgspec.json.Decoder(Message).decode
_decode_wrapped = msgspec.json.Decoder(_Wrapped).decode


class ChatReader:
    """Reads the items of one stream. `chat_id` is the chat's id if it is known before the stream tells it.

    After `Done` there are no more items. Records of another chat, and unreadable ones, become `Skipped`.
    """

    __slots__ = ("_chat_id", "_created", "_halves", "_in_parts", "_interrupted", "_reasoned", "done")

    def __init__(self, chat_id: str = "") -> None:
        self._chat_id = chat_id
        self._created = False
        self._halves = Halves()
        self._in_parts = False  # a message that is said to be complete is only the next piece of it
        self._interrupted = False  # the bot waits for something, and the chat's state does not say it yet
        self._reasoned = False
        self.done = False

    def items(self, events: Iterable[SseEvent]) -> list[Item]:
        items: list[Item] = []
        for name, data in events:
            if self.done:
                break
            try:
                if name != _MESSAGE_DELTA:
                    self._other(name, data, items)
                    continue
                try:
                    piece = _decode_piece(data)
                    if not data.isascii():
                        data.decode()  # msgspec does not look into strings that it skips
                except UNREADABLE:
                    self._unusual(read_again(data, _Piece, _PIECES), items)
                    continue
                if (
                    piece.type == "answer"
                    and piece.content_type == "text"
                    and piece.chat_id == self._chat_id
                    and not piece.reasoning_content
                    and not self._halves.held
                ):
                    if piece.content:
                        items.append(Delta(piece.id or "", piece.content))
                else:
                    self._unusual(piece, items)
            except BadJson as bad:
                items.append(Skipped(bad.fault))
        return items

    def last_items(self, record: SseEvent) -> list[Item] | None:
        """The items of a last record without its blank line, after a clean end of the body; None if the record is cut.

        A record whose JSON is complete counts; of `done` the name is enough.
        """
        items = self.items([record])
        faulty = any(isinstance(item, Skipped) for item in items)
        return None if faulty else items

    @staticmethod
    def tells_of_failure(name: bytes) -> bool:
        """Whether a record of this type reports a failure, whatever its data are."""
        return name in _FAILURES

    def _unusual(self, piece: _Piece, items: list[Item]) -> None:
        if piece.chat_id != self._chat_id and self._foreign(piece.chat_id, items):
            return
        if piece.type != "answer" and piece.type is not None:
            return
        if piece.content_type != "text" and piece.content_type:
            # A card or an object string comes complete in its completed message; a part of one is useless.
            if piece.content_type == "audio" and piece.content:
                items.append(Audio(mend(piece.content)))
            return
        self._say(piece.id or "", piece.reasoning_content, piece.content, items)

    def _say(self, message_id: str, reasoning: str | None, content: str | None, items: list[Item]) -> None:
        """Adds pieces of text. Halves of surrogate pairs at their edges wait for their partners."""
        if reasoning and (text := self._halves.join(Reasoning, message_id, reasoning)):
            self._reasoned = True
            items.append(Reasoning(message_id, text))
        if content and (text := self._halves.join(Delta, message_id, content)):
            items.append(Delta(message_id, text))

    def _said(self, items: list[Item]) -> None:
        """No more text will come: halves that still wait have no partner."""
        for kind, message_id in self._halves.left():
            items.append(kind(message_id, REPLACEMENT))

    def _other(self, name: bytes, data: bytes, items: list[Item]) -> None:
        if name in _UNNAMED:
            self._wrapped(data, items)
        elif name == _MESSAGE_COMPLETED:
            message = read(data, _decode_message, Message)
            if not self._foreign(message.chat_id, items):
                self._whole(message, items)
        elif name in _CHAT_STATES:
            self._chat(name, data, items)
        elif name in _FAILURES:
            self._failed(name, data, items)
        elif name == _AUDIO_DELTA:
            message = read(data, _decode_message, Message)
            if message.content and not self._foreign(message.chat_id, items):
                items.append(Audio(message.content))
        elif name in _DONE:
            if self._interrupted and _CHATFLOW in data:
                self._said(items)
                items.append(ActionRequired([]))  # a chatflow waits for nothing but the user
            self._end(items)
        else:
            items.append(Skipped("unknown_event"))

    def _whole(self, message: Message, items: list[Item]) -> None:
        if self._in_parts and message.type == "answer":
            if message.content_type in ("text", "", None):
                self._say(message.id or "", message.reasoning_content, message.content, items)
                return
            message.id = ""  # a card shares its id with the text around it
        elif message.type == "answer":
            self._halves.drop(Delta, message.id or "")
            if message.reasoning_content and not self._reasoned:  # otherwise it repeats the pieces that were sent
                self._reasoned = True
                items.append(Reasoning(message.id or "", message.reasoning_content))
        self._interrupted |= interrupts(message)
        items += message_items(message)

    def _chat(self, name: bytes, data: bytes, items: list[Item]) -> None:
        """Reads a chat's state. A status that says the chat has ended counts in any event; success needs its own
        event."""
        chat = read_chat(data)
        if self._foreign(chat.id, items):
            return
        (tool_calls, question), status = action_of(chat), status_of(chat)
        self._in_parts |= bool(chat.execute_id)
        if not self._created and chat.id and (chat.id not in _NO_ID or name.endswith((b"created", b"in_progress"))):
            self._created = True
            self._chat_id = "" if chat.id in _NO_ID else chat.id
            items.append(Created(chat.id, chat.conversation_id or ""))
        known = len(items)
        if name.endswith((b"celed", b"celled")) or status == "canceled":
            self._said(items)
            items.append(ChatCanceled())
        elif status == "failed":
            self._said(items)
            items.append(failure_of_chat(chat))
        elif name.endswith(b"_action") or status == "requires_action":
            self._said(items)
            items.append(ActionRequired(tool_calls, question, usage_of(chat)))
        elif name.endswith(b".completed"):
            self._said(items)
            items.append(ChatCompleted(usage_of(chat)))
        if len(items) > known:
            self._interrupted = False

    def _failed(self, name: bytes, data: bytes, items: list[Item]) -> None:
        """Reads a failure. It counts as one even if its details can't be read."""
        exists = name == _CHAT_FAILED
        try:
            chat = read_chat(data)
        except BadJson as bad:
            items.append(Skipped(bad.fault))
            self._said(items)
            items.append(ChatFailed(None, "", exists))
            return
        if not self._foreign(chat.id, items):
            self._said(items)
            items.append(failure_of_chat(chat, exists=exists))

    def _wrapped(self, data: bytes, items: list[Item]) -> None:
        record = read(data, _decode_wrapped, _Wrapped, _PIECES)
        message = record.message
        if record.event == "done":
            # This dialect has no chat.completed: its `done` stands for both.
            self._said(items)
            items.append(ChatCompleted(None))
            self._end(items)
        elif record.event == "error":
            self._said(items)
            items.append(failure_of(record.error_information, record.code, record.msg))
        elif record.event in (None, "message") and message is not None:
            if self._foreign(message.chat_id, items):
                return
            identity = message.message_id or message.id or (str(record.index) if type(record.index) is int else "")
            if message.type == "answer" and message.content_type in ("text", "", None):
                self._say(identity, message.reasoning_content, message.content, items)
            else:
                message.id = identity
                message.content = message.content and mend(message.content)
                self._whole(message, items)
        elif record.event is None and (record.status == "failed" or coze_code(record.code)):
            # A failure without its event line: a failure of the chat if it has a chat's form, else of the request.
            self._failed(_CHAT_FAILED if record.status == "failed" else b"error", data, items)
        else:
            items.append(Skipped("unknown_event"))

    def _end(self, items: list[Item]) -> None:
        self.done = True
        if not self._created:  # otherwise Coze's record tells how the text continues
            self._said(items)
        items.append(Done())

    def _foreign(self, chat_id: str | None, items: list[Item]) -> bool:
        if chat_id == self._chat_id or chat_id in _NO_ID or not self._chat_id:
            return False
        items.append(Skipped("foreign_chat"))
        return True
