"""Requests: what a caller sent, checked as Coze checks it."""

import json
from typing import Any

from aiohttp import web
from msgspec import Struct

from gateway.simulator.objects import Json

_MESSAGES_AT_MOST = 100
_CHATFLOW_MESSAGES_AT_MOST = 50
_META_AT_MOST = 16
_META_KEY, _META_VALUE = 64, 512
_TYPES = {"question", "answer", "function_call", "tool_output", "tool_response"}
_SAVED_TYPES = {"question", "answer"}


class CozeProblem(Exception):
    """A request that Coze refuses with a JSON error. As in the real service, most have HTTP status 200."""

    def __init__(self, code: int, msg: str, *, status: int = 200) -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.status = status


class AskedChat(Struct, frozen=True):
    """A message to a bot or a chatflow, or a run of a workflow. `conversation_id` is "" for a new conversation."""

    bot_id: str
    message: str
    conversation_id: str
    stream: bool
    saved: bool
    meta_data: dict[str, str] | None
    workflow_id: str = ""
    run: bool = False


class ToolOutputs(Struct, frozen=True):
    """`outputs` are pairs of a tool call's id and its output."""

    outputs: tuple[tuple[str, str], ...]
    stream: bool


async def json_body(request: web.Request) -> Any:
    """The body as JSON. Raises CozeProblem 4000."""
    try:
        return json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise CozeProblem(4000, "The request's body is not JSON.") from error


def body_object(body: Any) -> Json:
    if not isinstance(body, dict):
        raise CozeProblem(4000, "The request's body is not a JSON object.")
    return body


def parse_chat(body: Any, conversation_id: str) -> AskedChat:
    """The body of `POST /v3/chat` and its query's `conversation_id`, where empty means absent. Raises CozeProblem."""
    given = body_object(body)
    for field in ("bot_id", "user_id"):
        if not isinstance(given.get(field), str) or not given[field]:
            raise CozeProblem(4000, f"Request parameter error: {field} is required and is a string.")
    messages = _messages_of(given, _MESSAGES_AT_MOST)
    meta_data = given.get("meta_data")
    if meta_data is not None and not _is_meta_data(meta_data):
        raise CozeProblem(4003, f"meta_data is an object of at most {_META_AT_MOST} short strings.")
    _check_values(given)
    _check_conversation(conversation_id)
    stream, saved = bool(given.get("stream", False)), bool(given.get("auto_save_history", True))
    if not stream and not saved:
        raise CozeProblem(4007, "auto_save_history must be true when stream is false.")
    for said in messages:
        _check_message(said, saved=saved)
    message = _text_of(messages[-1]) if messages else ""
    return AskedChat(given["bot_id"], message, conversation_id, stream, saved, meta_data or None)


def parse_chatflow(body: Any) -> AskedChat:
    """The body of `POST /v1/workflows/chat`. Raises CozeProblem."""
    given = body_object(body)
    workflow_id, bot_id = _workflow(given)
    conversation_id = given.get("conversation_id") or ""
    _check_conversation(str(conversation_id))
    messages = _messages_of(given, _CHATFLOW_MESSAGES_AT_MOST)
    for said in messages:
        _check_message(said, saved=True)
    message = _text_of(messages[-1]) if messages else ""
    return AskedChat(bot_id, message, conversation_id, True, True, None, workflow_id)


def parse_run(body: Any) -> AskedChat:
    """The body of `POST /v1/workflow/stream_run`. The first text among its parameters counts as the message. Raises
    CozeProblem."""
    given = body_object(body)
    workflow_id, bot_id = _workflow(given)
    message = next((text for text in (given.get("parameters") or {}).values() if isinstance(text, str)), "")
    return AskedChat(bot_id, message, "", True, False, None, workflow_id, run=True)


def _workflow(given: Json) -> tuple[str, str]:
    """The ids of the workflow and of its bot, which may be ""."""
    for field in ("workflow_id", "bot_id", "app_id"):
        if not isinstance(given.get(field, ""), str) or (field == "workflow_id" and not given.get(field)):
            raise CozeProblem(4000, f"Request parameter error: {field} is a string, and a workflow_id is required.")
    if given.get("bot_id") and given.get("app_id"):
        raise CozeProblem(4000, "Request parameter error: bot_id and app_id can't go together.")
    if not isinstance(given.get("parameters") or {}, dict):
        raise CozeProblem(4000, "Request parameter error: parameters is an object.")
    return given["workflow_id"], given.get("bot_id", "")


def _messages_of(given: Json, most: int) -> list[Json]:
    messages = given.get("additional_messages") or []
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise CozeProblem(4000, "Request parameter error: additional_messages is a list of messages.")
    if len(messages) > most:
        raise CozeProblem(4004, f"additional_messages holds over {most} messages.")
    return messages


def _check_conversation(conversation_id: str) -> None:
    if conversation_id and not (conversation_id.isascii() and conversation_id.isdecimal()):
        raise CozeProblem(4002, "conversation_id is not the id of a conversation.")


def parse_tool_outputs(body: Any) -> ToolOutputs:
    given = body_object(body)
    outputs = given.get("tool_outputs")
    if not isinstance(outputs, list) or not outputs or not all(_is_text_map(output) for output in outputs):
        raise CozeProblem(4000, "Request parameter error: tool_outputs is a list of objects of strings.")
    pairs = tuple((output.get("tool_call_id", ""), output.get("output", "")) for output in outputs)
    return ToolOutputs(pairs, bool(given.get("stream", False)))


def _is_text_map(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _is_meta_data(value: Any) -> bool:
    return (
        _is_text_map(value)
        and len(value) <= _META_AT_MOST
        and all(1 <= len(key) <= _META_KEY and 1 <= len(text) <= _META_VALUE for key, text in value.items())
    )


def _check_values(given: Json) -> None:
    """Raises CozeProblem for a value that is not of its field's type."""
    if not _is_text_map(given.get("custom_variables") or {}):
        raise CozeProblem(4000, "Request parameter error: custom_variables is an object of strings.")
    if not isinstance(given.get("parameters") or {}, dict):
        raise CozeProblem(4000, "Request parameter error: parameters is an object.")
    if not isinstance(given.get("enable_card") or False, bool):
        raise CozeProblem(4000, "Request parameter error: enable_card is true or false.")
    if (command := given.get("shortcut_command")) is None:
        return
    named = isinstance(command, dict) and isinstance(command.get("command_id"), str) and command["command_id"]
    if not named or not _is_text_map(command.get("parameters") or {}):
        raise CozeProblem(4000, "Request parameter error: shortcut_command is a command_id with parameters.")


def _check_message(said: Json, *, saved: bool) -> None:
    """Raises CozeProblem for a message that Coze would not take."""
    if said.get("role", "user") not in ("user", "assistant"):
        raise CozeProblem(4000, "Request parameter error: a message's role is user or assistant.")
    if (said.get("type") or "question") not in (_SAVED_TYPES if saved else _TYPES):
        raise CozeProblem(4000, "Request parameter error: a saved history has questions and answers only.")
    if (said.get("content_type") or "text") not in ("text", "object_string"):
        raise CozeProblem(4000, "Request parameter error: a message's content_type is text or object_string.")
    _text_of(said)


def _text_of(message: Json) -> str:
    """A message's text: its content, or the text item of an `object_string`."""
    content = message.get("content")
    if not isinstance(content, str):
        raise CozeProblem(4000, "Request parameter error: a message's content is a string.")
    if message.get("content_type") != "object_string":
        return content
    try:
        items = json.loads(content)
        texts = [str(item["text"]) for item in items if item["type"] == "text"]
        files = [item for item in items if item["type"] in ("image", "file", "audio")]
        placed = all(isinstance(item.get("file_id") or item.get("file_url"), str) for item in files)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CozeProblem(4000, "Request parameter error: an object_string's content is a JSON list.") from error
    if len(texts) + len(files) != len(items) or len(texts) > 1 or not files or not placed:
        raise CozeProblem(4000, "Request parameter error: an object_string has files, and one text at most.")
    return "".join(texts)
