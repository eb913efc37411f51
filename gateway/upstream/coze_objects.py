"""Coze's objects: messages, chats and failures, as they appear in the stream and in answers to requests.

They are read leniently: Coze's dialects leave fields out, and send numbers as strings.
"""

import re
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct

from gateway.bounds import STATE_BYTES, STATE_PARTS, USAGE_PARTS
from gateway.upstream.json_text import EXACT, UNREADABLE, BadJson, parts, plain, read
from gateway.upstream.protocol import Answer, ChatFailed, Item, Skipped, Suggestion, Tool

_STATUS_SPELLINGS = {"cancelled": "canceled", "required_action": "requires_action"}
_FAILURE_TEXT_LIMIT = 500
_REPLY = "reply_message"
_WORDS = ("question", "content", "text", "message")


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
    """A chat, in the stream or retrieved. `code` and `msg` hold a failure in its flat form, as in the event `error`.
    Only the self-hosted studio's chatflows have an `execute_id`."""

    id: str | None = None
    conversation_id: str | None = None
    status: str | None = None
    usage: Any = None
    last_error: Any = None
    required_action: Any = None
    execute_id: Any = None
    code: Any = None
    msg: Any = None
    detail: Any = None


class _FunctionCall(Struct):
    name: str
    plugin_type: int | str | None = None


class _Verbose(Struct):
    msg_type: str


_decode_chat = msgspec.json.Decoder(Chat).decode
_decode_call = msgspec.json.Decoder(_FunctionCall).decode
_decode_verbose = msgspec.json.Decoder(_Verbose).decode
_LOCAL = (6, "6")
"""The type of a local plug-in, which the caller runs: the chat then waits for its output, and names the call again."""
_CALL_NAME = re.compile(r'\{\s*"name"\s*:\s*"([^"\\]{1,200})"')


def read_chat(data: bytes) -> Chat:
    """A chat's state. Raises BadJson, also for one that has more than such a state may have."""
    if len(data) > STATE_PARTS and (len(data) > STATE_BYTES or parts(data) > STATE_PARTS):
        raise BadJson("malformed")
    return read(data, _decode_chat, Chat)


def message_items(message: Message) -> list[Item]:
    """The items of a complete message: an answer, a use of a tool, a suggestion, or nothing that concerns listeners.

    The call of a local plug-in is nothing, as it comes again as the action that the chat requires.
    """
    identity, content = message.id or "", message.content
    if content is None:
        return [Skipped("malformed")]
    match message.type:
        case "answer":
            return [Answer(identity, content, message.content_type or "text")]
        case "function_call":
            name, local = _called(content)
            return [] if local else [Tool(identity, "call", name, content)]
        case "tool_response" | "tool_output":
            return [Tool(identity, "output", "", content)]
        case "follow_up":
            return [Suggestion(identity, content)]
        case "verbose" | "knowledge" | "question":
            return []
        case _:
            return [Skipped("unknown_event")]


def interrupts(message: Message) -> bool:
    """Whether the message says that the bot waits for something. Of a chatflow's question, Coze's documentation shows
    nothing else: no `requires_action`."""
    if message.type != "verbose" or not message.content or '"interrupt"' not in message.content:
        return False
    try:
        return _decode_verbose(message.content).msg_type == "interrupt"
    except UNREADABLE:
        return False


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
    """A chat's usage: as many of its fields as are passed on, and only numbers and strings.

    Coze counts at the end of a chat: the zeros of one that waits for something mean nothing.
    """
    if not isinstance(chat.usage, dict):
        return None
    scalars = ((str(key)[:USAGE_PARTS], value) for key, value in islice(chat.usage.items(), USAGE_PARTS))
    kept = {key: plain(value, numbers=EXACT) for key, value in scalars if isinstance(value, int | float | str)}
    counts = {key: _short(value) for key, value in kept.items() if value is not None}
    if status_of(chat) == "requires_action" and not any(counts.values()):
        return None
    return counts or None


def action_of(chat: Chat) -> tuple[list[dict[str, Any]], str | None]:
    """The calls in `required_action` that tool outputs answer, and the question of those that the user answers.

    The question is None if there is no such call, and "" if its words are elsewhere. In Coze's older forms any chat may
    have an empty `required_action`; a chatflow may have none, and then its question has no call.
    """
    action = chat.required_action
    outputs = action.get("submit_tool_outputs") if isinstance(action, dict) else None
    found = outputs.get("tool_calls") if isinstance(outputs, dict) else None
    calls = [plain(call, numbers=EXACT) for call in found if isinstance(call, dict)] if isinstance(found, list) else []
    questions = {_question_in(call): None for call in calls if call.get("type") == _REPLY}
    question = "\n\n".join(filter(None, questions)) if questions else None
    return [_with_text_id(call) for call in calls if call.get("type") != _REPLY], question


def _question_in(call: dict[str, Any]) -> str:
    """The words of a question inside of the call that asks for the reply, as far as there are any.

    Coze doesn't document their place: such a call's `function` is null, as a rule, and an answer has the question.
    """
    function = call.get("function")
    given = function.get("arguments") if isinstance(function, dict) else None
    if isinstance(given, str) and given.strip():
        try:
            given = msgspec.json.decode(given)
        except UNREADABLE:
            return given if given.lstrip()[0] not in "{[" else ""
        if not isinstance(given, dict):
            return given if isinstance(given, str) else ""
    holders = (holder for holder in (given, function, call) if isinstance(holder, dict))
    words = (holder.get(name) for holder in holders for name in _WORDS)
    return next((text for text in words if isinstance(text, str) and text), "")


def _short(value: Any) -> Any:
    return value[:_FAILURE_TEXT_LIMIT] if isinstance(value, str) else value


def _with_text_id(call: dict[str, Any]) -> dict[str, Any]:
    return call | {"id": str(call["id"])} if type(call.get("id")) is int else call


def coze_code(value: Any) -> int | None:
    """A code as int (chatflows send it as a string); None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return value if type(value) is int and abs(value) < 2**63 else None


def _called(content: str) -> tuple[str, bool]:
    """The plug-in's name, and whether it is a local one. Coze's own samples contain calls that are cut off, so this
    reads as much as is readable."""
    try:
        call = _decode_call(content)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        found = _CALL_NAME.match(content)
        return found[1] if found else "", False
    return call.name, call.plugin_type in _LOCAL


def _sentence(value: Any) -> str:
    return value[:_FAILURE_TEXT_LIMIT] if isinstance(value, str) else ""
