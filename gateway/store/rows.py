"""The values that the store takes and gives. All times are unix seconds."""

from typing import Any, Literal

from msgspec import Struct

from gateway.ids import ConversationId, ShopId, TurnId, UserId
from gateway.status import ENDED, Status


class TurnBegun(Struct, frozen=True):
    """The facts about a turn that never change. The first one of a conversation also says whose conversation it is.

    `digest` is the same for the same user and body.
    """

    turn_id: TurnId
    conversation_id: ConversationId
    user_id: UserId
    shop_id: ShopId | None
    bot_id: str
    message: str
    created_at: float
    digest: str = ""


class TurnUpdate(Struct, frozen=True, kw_only=True):
    """A turn's whole state at one moment, never a difference: the newest one replaces all earlier ones.

    `error` holds the fields of the turn's `error` event; `position` is where a listener continues.
    """

    turn_id: TurnId
    conversation_id: ConversationId
    status: Status
    content: str = ""
    reasoning: str = ""
    suggestions: list[str] = []
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    coze_chat_id: str = ""
    coze_conversation_id: str = ""
    updated_at: float
    position: str = ""
    tool_calls: list[dict[str, Any]] = []
    recovered: bool = False
    awaiting_reply: bool = False


class ConversationRow(Struct, frozen=True):
    """`coze_conversation_id` is "" until Coze has given one; `naming` counts the ids that it has given. `title` is None
    until somebody has given one."""

    id: ConversationId
    user_id: UserId
    shop_id: ShopId | None
    bot_id: str
    coze_conversation_id: str
    created_at: float
    naming: int = 0
    title: str | None = None


class Listed(Struct, frozen=True):
    """A conversation in its user's list. Without a `title` of its own it has its first message's beginning."""

    id: ConversationId
    shop_id: ShopId | None
    bot_id: str
    created_at: float
    updated_at: float
    title: str


class Feedback(Struct, frozen=True):
    """A user's opinion of an answer."""

    kind: Literal["like", "unlike", "none"]
    comment: str = ""


class TurnRow(Struct, frozen=True):
    """A turn as far as it is known. Before its first update it is `queued`, without a position."""

    turn_id: TurnId
    conversation_id: ConversationId
    user_id: UserId
    shop_id: ShopId | None
    bot_id: str
    message: str
    created_at: float
    updated_at: float
    status: Status = "queued"
    content: str = ""
    reasoning: str = ""
    suggestions: list[str] = []
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    coze_chat_id: str = ""
    coze_conversation_id: str = ""
    position: str = ""
    tool_calls: list[dict[str, Any]] = []
    recovered: bool = False
    awaiting_reply: bool = False
    digest: str = ""


class Asked(Struct, frozen=True):
    """A turn that was started with a certain body. `position` is "" until one has been stored."""

    turn_id: TurnId
    conversation_id: ConversationId
    position: str


class MessageRow(Struct, frozen=True):
    """One side of a turn. A user's message is always `completed`; the assistant's has its turn's status."""

    id: str
    turn_id: TurnId
    role: Literal["user", "assistant"]
    content: str
    status: Status
    created_at: float
    feedback: Feedback | None = None
    """The user's, on the assistant's message."""


def replaces(new: Status, old: Status) -> bool:
    """Whether the state `new` may follow `old`. An ended turn never runs again, whatever a replay writes."""
    return new in ENDED or old not in ENDED
