"""Requests: what a caller sent, checked as Coze checks it."""

import json
from typing import Any

from aiohttp import web
from msgspec import Struct

from gateway.simulator.objects import Json

_MESSAGES_AT_MOST = 100
_META_AT_MOST = 16


class CozeProblem(Exception):
    """A request that Coze refuses with a JSON error. As in the real service, most have HTTP status 200."""

    def __init__(self, code: int, msg: str, *, status: int = 200) -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.status = status


class AskedChat(Struct, frozen=True):
    """A message to a bot. `conversation_id` is "" for a new conversation."""

    bot_id: str
    message: str
    conversation_id: str
    stream: bool
    saved: bool
    meta_data: dict[str, str] | None


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
    messages = given.get("additional_messages") or []
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise CozeProblem(4000, "Request parameter error: additional_messages is a list of messages.")
    if len(messages) > _MESSAGES_AT_MOST:
        raise CozeProblem(4004, f"additional_messages holds over {_MESSAGES_AT_MOST} messages.")
    meta_data = given.get("meta_data")
    if meta_data is not None and (not _is_text_map(meta_data) or len(meta_data) > _META_AT_MOST):
        raise CozeProblem(4003, f"meta_data is an object of at most {_META_AT_MOST} strings.")
    if conversation_id and not (conversation_id.isascii() and conversation_id.isdecimal()):
        raise CozeProblem(4002, "conversation_id is not the id of a conversation.")
    stream, saved = bool(given.get("stream", False)), bool(given.get("auto_save_history", True))
    if not stream and not saved:
        raise CozeProblem(4007, "auto_save_history must be true when stream is false.")
    message = _text_of(messages[-1]) if messages else ""
    return AskedChat(given["bot_id"], message, conversation_id, stream, saved, meta_data or None)


def parse_tool_outputs(body: Any) -> ToolOutputs:
    given = body_object(body)
    outputs = given.get("tool_outputs")
    if not isinstance(outputs, list) or not outputs or not all(_is_text_map(output) for output in outputs):
        raise CozeProblem(4000, "Request parameter error: tool_outputs is a list of objects of strings.")
    pairs = tuple((output.get("tool_call_id", ""), output.get("output", "")) for output in outputs)
    return ToolOutputs(pairs, bool(given.get("stream", False)))


def _is_text_map(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _text_of(message: Json) -> str:
    """A message's text: its content, or the text item of an `object_string`."""
    content = message.get("content")
    if not isinstance(content, str):
        raise CozeProblem(4000, "Request parameter error: a message's content is a string.")
    if message.get("content_type") != "object_string":
        return content
    try:
        items = json.loads(content)
        return next((str(item["text"]) for item in items if item["type"] == "text"), "")
    except (ValueError, TypeError, KeyError) as error:
        raise CozeProblem(4000, "Request parameter error: an object_string's content is a JSON list.") from error
