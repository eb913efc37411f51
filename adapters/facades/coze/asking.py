"""Asking: the way from a request in Coze's own form to an order. Fields that nobody here knows are passed on."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from adapters.edge.body import read_body, strict_json
from adapters.edge.callers import Caller
from adapters.edge.failures import request_id
from adapters.edge.languages import language
from adapters.facades.coze.callers import owner_of
from adapters.facades.coze.failures import Refusal
from adapters.services import Services
from gateway.turns.orders import Order
from gateway.upstream.protocol import CozeRequest

RAW: Final = web.RequestKey("raw_body", bytes)
"""The body as it came, once it was read."""

NEEDS_HISTORY = 4007
"""Coze's code for a chat that is neither streamed nor kept."""

BAD = 4000
"""Coze's code for a wrong parameter."""

CHAT, CHATFLOW = "/v3/chat", "/v1/workflows/chat"
RUN, RESUME = "/v1/workflow/stream_run", "/v1/workflow/stream_resume"
OF_RUNS: Final = frozenset({RUN, RESUME})
AFTER = "X-Gateway-After"
_LONGEST_USER = 128


async def read_object(request: web.Request, services: Services) -> dict[str, Any]:
    """The body. Raises `Refusal`, and what reading a body raises."""
    raw = request[RAW] = await read_body(request, services.settings)
    body = strict_json(raw)
    if not isinstance(body, dict):
        raise Refusal(BAD, "The request's body is not a JSON object.")
    return body


def order_of(body: dict[str, Any], request: web.Request, caller: Caller) -> Order:
    """The order that a chat's request makes, in no conversation yet. Raises `Refusal`."""
    path = request.path
    user = _word(body, "user_id", required=path == CHAT)
    if caller.user_id is not None and user not in ("", caller.user_id):
        raise Refusal(BAD, "user_id is not the token's user.")
    if len(user) > _LONGEST_USER:
        raise Refusal(BAD, f"user_id is longer than {_LONGEST_USER} characters.")
    streamed = path != CHAT or body.get("stream") is True
    if not streamed and body.get("auto_save_history") is False:
        raise Refusal(NEEDS_HISTORY, "auto_save_history must be true when stream is false.")
    sent = body
    if path == CHAT:  # which names its conversation in the query, and nowhere else
        sent = {name: value for name, value in body.items() if name != "conversation_id"} | {"stream": True}
    conversation = request.query.get("conversation_id", "") if path == CHAT else _word(body, "conversation_id")
    return Order(
        user_id=owner_of(caller, user),
        bot_id=_word(body, "bot_id", required=path == CHAT),
        workflow_id=_word(body, "workflow_id", required=True) if path == CHATFLOW else "",
        message=_text(body.get("additional_messages")),
        shop_id=None if caller.token_hash else caller.shop_for(None),
        language=language(request),
        request_id=request_id(request),
        coze=CozeRequest(msgspec.json.encode(sent).decode(), path, caller.token_hash, conversation),
    )


def run_order_of(body: dict[str, Any], request: web.Request, caller: Caller) -> Order:
    """The order that a run's request makes. It has no user. Raises `Refusal`."""
    if not isinstance(body.get("parameters"), dict | None):
        raise Refusal(BAD, "parameters is an object.")
    return Order(
        kind="run",
        user_id=owner_of(caller, ""),
        bot_id=_word(body, "bot_id"),
        app_id=_word(body, "app_id"),
        workflow_id=_word(body, "workflow_id", required=True),
        message="",
        shop_id=None if caller.token_hash else caller.shop_for(None),
        language=language(request),
        request_id=request_id(request),
        coze=CozeRequest(msgspec.json.encode(body).decode(), RUN, caller.token_hash),
    )


def streams(body: Mapping[str, Any], path: str) -> bool:
    """Whether the answer is to be streamed. That of a chatflow or a workflow always is."""
    return path == CHATFLOW or path in OF_RUNS or body.get("stream") is True


def tool_outputs(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    given = body.get("tool_outputs")
    if not isinstance(given, list) or not given:
        raise Refusal(BAD, "tool_outputs is required.")
    found = [(one.get("tool_call_id"), one.get("output")) if isinstance(one, dict) else (None, None) for one in given]
    outputs = [(call, output) for call, output in found if isinstance(call, str) and isinstance(output, str)]
    if len(outputs) != len(given):
        raise Refusal(BAD, "tool_outputs is a list of objects with the strings tool_call_id and output.")
    return outputs


def run_outputs(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The answer to an interrupt, as the outputs of the tool that the interrupt is for a turn."""
    _word(body, "workflow_id", required=True)
    answer = body.get("resume_data")
    if not isinstance(answer, str):
        raise Refusal(BAD, "resume_data is required and is a string.")
    return [(_word(body, "event_id", required=True), answer)]


def after(request: web.Request) -> int:
    """How many characters of the answer's text the caller has. Raises `Refusal`."""
    text = request.headers.get(AFTER, "0").strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Refusal(BAD, f"{AFTER} is not a number of characters.")
    return int(text)


def _word(body: Mapping[str, Any], name: str, *, required: bool = False) -> str:
    found = body.get(name)
    if found is None and not required:
        return ""
    if not isinstance(found, str) or (required and not found):
        raise Refusal(BAD, f"{name} is required and is a string.")
    return found


def _text(messages: Any) -> str:
    """The text of the newest message, for the log, the database and the page."""
    if messages in (None, []):
        return ""
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise Refusal(BAD, "additional_messages is a list of messages.")
    content = messages[-1].get("content")
    if not isinstance(content, str):
        return ""
    if messages[-1].get("content_type") != "object_string":
        return content
    try:
        parts = msgspec.json.decode(content, type=list[dict[str, Any]])
    except (msgspec.DecodeError, RecursionError):
        return content
    return next((one["text"] for one in parts if isinstance(one.get("text"), str)), "")
