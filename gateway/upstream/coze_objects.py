"""Coze's objects: messages, chats and failures, as they appear in the stream and in answers to requests.

They are read leniently: Coze's dialects leave fields out, and send numbers as strings.
"""

import re
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct

from gateway.bounds import USAGE_PARTS
from gateway.upstream.json_text import plain
from gateway.upstream.protocol import Answer, ChatFailed, Item, Skipped, Suggestion, Tool

_STATUS_SPELLINGS = {"cancelled": "canceled", "required_action": "requires_action"}
_FAILURE_TEXT_LIMIT = 500


class Message(Struct, gc=False):
    """A message of a chat: in a delta, complete, or in a list. v2 and the web use other names for the ids."""

    id: str | None = None
    message_id: str | None = None
    type: str | None = None
    content: str | None = None
    content_type: str | None = None
    reasoning_content: str | None = None
    chat_id: str | None = None


class Chat(Struct):
    """A chat, in the stream or retrieved. `code` and `msg` hold a failure in its flat form, as in the event `error`."""

    id: str | None = None
    conversation_id: str | None = None
    status: str | None = None
    usage: Any = None
    last_error: Any = None
    required_action: Any = None
    code: Any = None
    msg: Any = None
    detail: Any = None


class _FunctionCall(Struct):
    name: str


_decode_call = msgspec.json.Decoder(_FunctionCall).decode
_CALL_NAME = re.compile(r'\{\s*"name"\s*:\s*"([^"\\]{1,200})"')


def message_items(message: Message) -> list[Item]:
    """The items of a complete message: an answer, a use of a tool, a suggestion, or nothing that concerns listeners."""
    identity, content = message.id or "", message.content
    if content is None:
        return [Skipped("malformed")]
    match message.type:
        case "answer":
            return [Answer(identity, content, message.content_type or "text")]
        case "function_call":
            return [Tool(identity, "call", _called(content), content)]
        case "tool_response" | "tool_output":
            return [Tool(identity, "output", "", content)]
        case "follow_up":
            return [Suggestion(identity, content)]
        case "verbose" | "knowledge" | "question":
            return []
        case _:
            return [Skipped("unknown_event")]


def failure_of(error: Any, code: Any = None, text: Any = None) -> ChatFailed:
    """A failure in either of its forms: `code` and `msg` in an object of their own, `error`, or outside of one."""
    if isinstance(error, dict):
        inner, message = coze_code(error.get("code")), error.get("msg")
        if inner or (message and not coze_code(code)):
            return ChatFailed(inner or None, _sentence(message))
    return ChatFailed(coze_code(code) or None, _sentence(text))


def failure_of_chat(chat: Chat, *, exists: bool = True) -> ChatFailed:
    """The failure of a chat, or a failure that Coze sends in the form of a chat."""
    failed = failure_of(chat.last_error, chat.code, chat.msg)
    log_id = chat.detail.get("logid") if isinstance(chat.detail, dict) else None
    return ChatFailed(failed.coze_code, failed.message, exists, log_id if isinstance(log_id, str) else None)


def status_of(chat: Chat) -> str | None:
    """A chat's status, in one spelling."""
    return _STATUS_SPELLINGS.get(chat.status or "", chat.status)


def usage_of(chat: Chat) -> dict[str, Any] | None:
    """A chat's usage: as many of its fields as are passed on, and only numbers and strings."""
    if not isinstance(chat.usage, dict):
        return None
    scalars = ((str(key)[:USAGE_PARTS], value) for key, value in islice(chat.usage.items(), USAGE_PARTS))
    kept = {key: plain(value) for key, value in scalars if isinstance(value, int | float | str)}
    return {key: _short(value) for key, value in kept.items() if value is not None} or None


def tool_calls_of(chat: Chat) -> list[dict[str, Any]]:
    """The calls in `required_action`. In Coze's older forms any chat may have an empty one."""
    action = chat.required_action
    outputs = action.get("submit_tool_outputs") if isinstance(action, dict) else None
    calls = outputs.get("tool_calls") if isinstance(outputs, dict) else None
    return [_with_text_id(plain(call)) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _short(value: Any) -> Any:
    return value[:_FAILURE_TEXT_LIMIT] if isinstance(value, str) else value


def _with_text_id(call: dict[str, Any]) -> dict[str, Any]:
    return call | {"id": str(call["id"])} if type(call.get("id")) is int else call


def coze_code(value: Any) -> int | None:
    """A code as int (chatflows send it as a string); None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return value if type(value) is int and abs(value) < 2**63 else None


def _called(content: str) -> str:
    """The plug-in's name. Coze's own samples contain calls that are cut off, so this reads as much as is readable."""
    try:
        return _decode_call(content).name
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        found = _CALL_NAME.match(content)
        return found[1] if found else ""


def _sentence(value: Any) -> str:
    return value[:_FAILURE_TEXT_LIMIT] if isinstance(value, str) else ""
