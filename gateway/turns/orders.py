"""An order: what a caller asked for, and the note that a running turn keeps in the log so that it survives a crash."""

import hashlib
import struct
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from gateway.errors import Language
from gateway.turns.answer import common
from gateway.turns.turn import Memory
from gateway.upstream.protocol import ChatRequest, CozeRequest
from gateway.upstream.runs import RunRequest

OnBusy = Literal["reject", "queue", "interrupt"]
OnDisconnect = Literal["continue", "cancel"]
Kind = Literal["chat", "run"]
"""A message to a bot or a chatflow; a run of a workflow, which has no message."""


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a user, or one run of a workflow, checked. `conversation_id` is "" for a new conversation.

    `idempotency_key` is the caller's, "" for none; it counts within one user and shop. `streamed` says whether the
    order came over the SSE route. `request_id` is the id of the HTTP request that brought the order, for the log. With
    a `workflow_id` the message is for that chatflow, and `bot_id` may be "". `coze` is set for an order that came
    through a door in Coze's own form; it has a run's `parameters`.
    """

    user_id: str
    bot_id: str
    message: str
    shop_id: str | None = None
    conversation_id: str = ""
    attachments: tuple[dict[str, str], ...] = ()
    custom_variables: dict[str, str] | None = None
    meta_data: dict[str, str] | None = None
    on_busy: OnBusy = "reject"
    on_disconnect: OnDisconnect = "continue"
    language: Language = "en"
    idempotency_key: str = ""
    streamed: bool = False
    request_id: str = ""
    workflow_id: str = ""
    app_id: str = ""
    parameters: dict[str, Any] | None = None
    coze: CozeRequest | None = None
    context: tuple[dict[str, str], ...] = ()
    shortcut_command: dict[str, Any] | None = None
    enable_card: bool | None = None
    auto_save_history: bool = True
    kind: Kind = "chat"

    @property
    def recorded(self) -> bool:
        """Whether Coze keeps a record of the chat, from which a broken answer can be finished."""
        if self.coze is not None:
            return _read_saving(self.coze.body).auto_save_history is not False
        return self.auto_save_history

    @property
    def input(self) -> str:
        """What the caller said: the message, or a run's parameters as JSON."""
        if self.kind == "chat":
            return self.message
        if self.coze is not None:
            given = bytes(_read_parameters(self.coze.body).parameters)
            return "{}" if given == b"null" else given.decode()
        return msgspec.json.encode(self.parameters or {}).decode()

    def mark(self) -> str:
        """The mark by which the log finds the turn that an idempotent request started; "" without a key."""
        if not self.idempotency_key:
            return ""
        parts = (self.user_id, self.shop_id or "", self.idempotency_key)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def digest(self) -> str:
        """A digest of the body. The language, the key and the route are not part of it."""
        body = msgspec.structs.replace(self, language="en", idempotency_key="", streamed=False, request_id="")
        fields = msgspec.to_builtins(body)
        return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()

    def request(self, coze_conversation_id: str) -> ChatRequest:
        return ChatRequest(
            bot_id=self.bot_id,
            user_id=self.user_id,
            message=self.message,
            coze_conversation_id=coze_conversation_id,
            attachments=self.attachments,
            custom_variables=self.custom_variables,
            meta_data=self.meta_data,
            workflow_id=self.workflow_id,
            app_id=self.app_id,
            parameters=self.parameters,
            coze=self.coze,
            context=self.context,
            shortcut_command=self.shortcut_command,
            enable_card=self.enable_card,
            auto_save_history=self.auto_save_history,
        )

    def run(self) -> RunRequest:
        body = "" if self.coze is None else self.coze.body
        return RunRequest(self.workflow_id, self.parameters, self.bot_id, self.app_id, body)


class _Saving(msgspec.Struct):
    """Whether Coze is to keep a record of the chat, as a body in Coze's own form says it."""

    auto_save_history: Any = True


class _Parameters(msgspec.Struct):
    """A run's parameters in a body in Coze's own form: any JSON, with numbers of any length."""

    parameters: msgspec.Raw = msgspec.Raw(b"{}")


_read_parameters = msgspec.json.Decoder(_Parameters).decode
_read_saving = msgspec.json.Decoder(_Saving).decode


Stage = Literal["queued", "accepted", "sending", "taken"]
"""How far the message has got: waiting for another turn; ready to be sent; perhaps at Coze; certainly at Coze."""


class Note(msgspec.Struct, omit_defaults=True):
    """Everything that another process needs, besides the events, to continue a turn."""

    order: Order
    conversation_id: str
    started_at: float
    stage: Stage = "accepted"
    announced: bool = False  # the shop's staff was told that the turn started
    end_announced: bool = False  # and that it ended
    attempt: str = ""  # the name of the newest attempt to send the message, which only one process makes
    coze_conversation_id: str = (
        ""  # the conversation that the message was sent to, or the one that Coze has named since
    )
    naming: int = 0  # how many names Coze had given the conversation when this was written
    memory: Memory = msgspec.field(default_factory=Memory)
    outputs: list[tuple[str, str]] = []
    answered: str = ""  # the digest of the tool outputs that were given last

    @property
    def untold(self) -> bool:
        """Whether a shop's staff still has to be told of the turn's end."""
        return self.order.shop_id is not None and not self.end_announced

    def told(self, done: bool, *, end: bool) -> None:
        """The shop's staff was told that the turn started or, with `end`, that it ended. Not `done`: that was lost."""
        if end:
            self.end_announced = done
        else:
            self.announced = done

    def pack(self) -> bytes:
        """The whole note."""
        return _frame(_encode(self))


_OWN = ("stage", "announced", "end_announced", "attempt", "coze_conversation_id", "naming", "outputs", "answered")
"""The fields that a note and a change share."""


class _Change(msgspec.Struct, omit_defaults=True):
    """The difference between two notes. `answers` replace those from number `kept` on; `seen` are added."""

    stage: Stage | None = None
    announced: bool | None = None
    end_announced: bool | None = None
    attempt: str | None = None
    coze_conversation_id: str | None = None
    naming: int | None = None
    chat_id: str | None = None
    chat_conversation_id: str | None = None
    run: Literal["", "going", "waiting"] | None = None
    kept: int = 0
    answers: list[tuple[str, int]] | None = None
    seen: list[str] = []
    given: bool | None = None
    outputs: list[tuple[str, str]] | None = None
    answered: str | None = None


class Keeping:
    """Keeps a note by writing only what is new in it: a note may grow, but the cost of each write must not."""

    __slots__ = ("_answers", "_fields", "_seen")

    def __init__(self, note: Note) -> None:
        """Starts from a note that was just packed whole."""
        self._keep(note)

    def news(self, note: Note) -> bytes:
        """What has changed since the last call, to be added to the kept note; empty if nothing has."""
        change = _Change(seen=note.memory.seen[self._seen :])
        fields = _fields(note)
        for name, value in fields.items():
            if value != self._fields[name]:
                setattr(change, name, value)
        answers = note.memory.answers
        if answers is not self._answers and answers != self._answers:
            change.kept = common(answers, self._answers)
            change.answers = answers[change.kept :]
        if change == _Change():
            return b""
        self._keep(note)
        return _frame(_encode(change))

    def _keep(self, note: Note) -> None:
        self._fields = _fields(note)
        self._answers = note.memory.answers
        self._seen = len(note.memory.seen)


def _fields(note: Note) -> dict[str, Any]:
    memory = note.memory
    return {
        "stage": note.stage,
        "announced": note.announced,
        "end_announced": note.end_announced,
        "attempt": note.attempt,
        "coze_conversation_id": note.coze_conversation_id,
        "naming": note.naming,
        "chat_id": memory.chat_id,
        "chat_conversation_id": memory.coze_conversation_id,
        "run": memory.run,
        "given": memory.given,
        "outputs": note.outputs,
        "answered": note.answered,
    }


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Note).decode
_decode_change = msgspec.msgpack.Decoder(_Change).decode
_FRAME = struct.Struct("<BI")
_MARK = 0xC1  # begins nothing in MessagePack


def _frame(data: bytes) -> bytes:
    return _FRAME.pack(_MARK, len(data)) + data


def read_note(data: bytes) -> Note:
    """A whole note, with the changes that were added to it. Raises `msgspec.DecodeError` for invalid data."""
    if not data.startswith(b"\xc1"):
        return _decode(data)  # written by an older version, which wrote the whole note each time
    frames = _frames(data)
    note = _decode(next(frames))
    for frame in frames:
        _apply(note, _decode_change(frame))
    return note


def _frames(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        if len(data) - at < _FRAME.size:
            raise msgspec.DecodeError("the note is cut")
        mark, length = _FRAME.unpack_from(data, at)
        at += _FRAME.size
        if mark != _MARK or at + length > len(data):
            raise msgspec.DecodeError("the note is cut")
        yield data[at : at + length]
        at += length


def _apply(note: Note, change: _Change) -> None:
    memory = note.memory
    for name in _OWN:
        if (value := getattr(change, name)) is not None:
            setattr(note, name, value)
    memory.run = change.run if change.run is not None else memory.run
    memory.given = change.given if change.given is not None else memory.given
    memory.chat_id = change.chat_id if change.chat_id is not None else memory.chat_id
    if change.chat_conversation_id is not None:
        memory.coze_conversation_id = change.chat_conversation_id
    if change.answers is not None:
        memory.answers[change.kept :] = change.answers
    memory.seen += change.seen
