"""Coze's JSON objects, with the keys in the order in which the real service was recorded to send them."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from msgspec import Struct

Status = Literal["created", "in_progress", "completed", "failed", "requires_action", "canceled"]
Json = dict[str, Any]
Dialect = Literal["chat", "chatflow", "workflow"]
"""How a stream is written: chatflows and workflows put a space after each colon, and workflows number their records."""


class Chat(Struct, frozen=True):
    """What was asked, when, and at what pace: a chat's answer, ids and state follow from this alone.

    Times are unix seconds, `first_ms` milliseconds, `rate` pieces per second. A chat that is not
    `saved` is running like any other but can't be asked for. `resumed_at` and `outputs` (tool call id
    and output) are set once the caller has submitted the outputs of its tools. A chat with a `workflow_id` is one with
    a chatflow, or a `run` of a workflow, which has no conversation and is never `saved`.
    """

    id: str
    conversation_id: str
    bot_id: str
    message: str
    started_at: float
    first_ms: int
    rate: float
    meta_data: dict[str, str] | None = None
    saved: bool = True
    canceled_at: float | None = None
    resumed_at: float | None = None
    outputs: tuple[tuple[str, str], ...] = ()
    workflow_id: str = ""
    run: bool = False

    @property
    def dialect(self) -> Dialect:
        if self.run:
            return "workflow"
        return "chatflow" if self.workflow_id else "chat"


class Outcome(Struct, frozen=True):
    """How a chat, or its part up to its tools' outputs, ends. `code` and `msg` are those of a failure."""

    status: Status
    code: int = 0
    msg: str = ""
    tool_calls: tuple[Json, ...] = ()


class Frame(NamedTuple):
    """One event of a stream, `at` seconds after the stream began.

    `data` is an object to be encoded, or the bytes of the data as they are. `raw` are a whole record's bytes, sent as
    they are. `piece` marks a delta of the answer or of its reasoning, `last` the last delta of its message.
    """

    at: float
    event: str
    data: Json | bytes = b""
    piece: bool = False
    last: bool = False
    raw: bytes | None = None


SURROGATE_MARK = "\ue000"
"""Stands for half a surrogate pair until the JSON is encoded, because no encoder accepts the half itself."""

NO_USAGE: Json = {"token_count": 0, "output_count": 0, "input_count": 0}


def chat_object(
    chat: Chat,
    status: Status,
    *,
    over_at: float | None = None,
    outcome: Outcome | None = None,
    usage: Mapping[str, int] | None = None,
) -> Json:
    """A Chat. `over_at` is the unix time at which it completed, failed or began to wait."""
    data: Json = {
        "id": chat.id,
        "conversation_id": chat.conversation_id,
        "bot_id": chat.bot_id,
        "created_at": int(chat.started_at),
    }
    if over_at is not None:
        data["completed_at"] = int(over_at)
        if status == "failed":
            data["failed_at"] = int(over_at)
    failure = (outcome.code, outcome.msg) if outcome is not None and status == "failed" else (0, "")
    data["last_error"] = {"code": failure[0], "msg": failure[1]}
    data["status"] = status
    data["usage"] = dict(usage or NO_USAGE)
    if chat.meta_data:
        data["meta_data"] = chat.meta_data
    if outcome is not None and outcome.tool_calls and status == "requires_action":
        calls = {"tool_calls": list(outcome.tool_calls)}
        data["required_action"] = {"type": "submit_tool_outputs", "submit_tool_outputs": calls}
    data["section_id"] = chat.conversation_id
    return _without_bot(data) if chat.workflow_id else data


def message_object(chat: Chat, message_id: str, kind: str, content: str, content_type: str = "text") -> Json:
    """A Message without its times, as a delta has it."""
    data = {
        "id": message_id,
        "conversation_id": chat.conversation_id,
        "bot_id": chat.bot_id,
        "role": "assistant",
        "type": kind,
        "content": content,
        "content_type": content_type,
        "chat_id": chat.id,
        "section_id": chat.conversation_id,
    }
    return _without_bot(data) if chat.workflow_id else data


def debug_url(chat: Chat) -> str:
    """With this a chatflow's or a workflow's stream ends."""
    ids = f"execute_id={chat.id}&space_id=7498204883280412345&workflow_id={chat.workflow_id}"
    return f"https://www.coze.cn/work_flow?{ids}&execute_mode=2"


def _without_bot(data: Json) -> Json:
    """Chatflows don't name their bot."""
    return {key: value for key, value in data.items() if key != "bot_id"}
