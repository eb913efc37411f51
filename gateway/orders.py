"""An order: what a caller asked for, and the note that a running turn keeps in the log so that it survives a crash."""

import hashlib
from typing import Literal

import msgspec

from gateway.errors import Language
from gateway.turn import Memory
from gateway.upstream.protocol import ChatRequest

OnBusy = Literal["reject", "queue", "interrupt"]
OnDisconnect = Literal["continue", "cancel"]


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a user, checked. `conversation_id` is "" for a new conversation.

    `idempotency_key` is the caller's, "" for none; it counts within one user and shop. `streamed`: by the SSE route.
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

    def mark(self) -> str:
        """Where the log finds the turn that an idempotent request started; "" without a key."""
        if not self.idempotency_key:
            return ""
        parts = (self.user_id, self.shop_id or "", self.idempotency_key)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def digest(self) -> str:
        """The same for the same body. The language, the key and the route are not of the body."""
        body = msgspec.structs.replace(self, language="en", idempotency_key="", streamed=False)
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
        )


Stage = Literal["queued", "accepted", "sending", "taken"]
"""How far the message is: waiting for another turn; ours to send; perhaps at Coze; surely at Coze."""


class Note(msgspec.Struct, omit_defaults=True):
    """Everything but the events that a turn needs to go on in another process."""

    order: Order
    conversation_id: str
    started_at: float
    stage: Stage = "accepted"
    announced: bool = False  # the shop's people know that it began
    coze_conversation_id: str = ""  # where the message was sent, or what Coze has said since
    naming: int = 0  # how many names Coze had given the conversation by then
    memory: Memory = msgspec.field(default_factory=Memory)
    outputs: list[tuple[str, str]] = []

    def pack(self) -> bytes:
        return _encode(self)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Note).decode


def read_note(data: bytes) -> Note:
    """Raises `msgspec.DecodeError` for what is no note."""
    return _decode(data)
