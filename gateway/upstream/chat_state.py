"""A chat's state, read from the data of Coze's answer to `retrieve`."""

from typing import Any

import msgspec

from gateway.upstream.coze_objects import Chat, action_of, failure_of_chat, status_of, usage_of
from gateway.upstream.json_text import BadJson, converted
from gateway.upstream.protocol import ChatState, Verbatim

_STATUSES = {"created", "in_progress", "completed", "failed", "requires_action", "canceled"}


def state_of(data: Any, verbatim: Verbatim | None = None) -> ChatState | None:
    """None if the data can't be read. `verbatim` is what they say in Coze's own words."""
    try:
        chat = converted(data, Chat)
        status = status_of(chat)
        if status not in _STATUSES:
            return None
        calls, question = action_of(chat) if status == "requires_action" else ([], None)
        failure = failure_of_chat(chat) if status == "failed" else None
        return ChatState(status, usage_of(chat), failure, tuple(calls), question, verbatim)  # type: ignore[arg-type]
    except (msgspec.ValidationError, BadJson):
        return None
