"""The bodies of the requests that start or continue an answer at Coze, and the addresses that they go to."""

from collections.abc import Sequence
from typing import Any

from msgspec import Raw, structs

from gateway.upstream.json_text import write
from gateway.upstream.protocol import ChatRef, ChatRequest
from gateway.upstream.runs import Resumption, RunRequest

Call = tuple[str, dict[str, str], Any]
"""A path, a query and a body, for POST."""


def message_call(request: ChatRequest) -> Call:
    """A message to a bot or a chatflow."""
    conversation = _given(conversation_id=request.coze_conversation_id)
    if (coze := request.coze) is not None:
        return coze.path, {} if coze.in_body else conversation, Raw(coze.body.encode())
    if request.workflow_id:
        return "/v1/workflows/chat", {}, chatflow_body(request)
    return "/v3/chat", conversation, chat_body(request)


def outputs_call(ref: ChatRef, outputs: Sequence[tuple[str, str]]) -> Call:
    """The outputs of a chat's tools."""
    calls = [{"tool_call_id": call, "output": output} for call, output in outputs]
    return "/v3/chat/submit_tool_outputs", query_of(ref), {"stream": True, "tool_outputs": calls}


def run_call(request: RunRequest) -> Call:
    """A run of a workflow."""
    if request.body:
        return "/v1/workflow/stream_run", {}, Raw(request.body.encode())
    optional = _given(parameters=request.parameters, bot_id=request.bot_id, app_id=request.app_id)
    return "/v1/workflow/stream_run", {}, {"workflow_id": request.workflow_id, **optional}


def resume_call(answer: Resumption) -> Call:
    """The answer to an interrupt of a run."""
    return "/v1/workflow/stream_resume", {}, structs.asdict(answer)


def query_of(ref: ChatRef) -> dict[str, str]:
    """How a chat is named in a query."""
    return {"conversation_id": ref.conversation_id, "chat_id": ref.chat_id}


def chat_body(request: ChatRequest) -> dict[str, Any]:
    """POST /v3/chat. Recovery depends on `auto_save_history`: without it Coze keeps no record of the chat."""
    body: dict[str, Any] = {
        "bot_id": request.bot_id,
        "user_id": request.user_id,
        "stream": True,
        "auto_save_history": request.auto_save_history,
        "additional_messages": [*_earlier(request), _question(request)],
    }
    if request.custom_variables:
        body["custom_variables"] = request.custom_variables
    if request.meta_data:
        body["meta_data"] = request.meta_data
    if request.parameters:
        body["parameters"] = request.parameters
    if (shortcut := request.shortcut_command) is not None:
        body["shortcut_command"] = {
            "command_id": shortcut["commandId"],
            "parameters": shortcut.get("parameters", {}),
        }
    if request.enable_card is not None:
        body["enable_card"] = request.enable_card
    return body


def chatflow_body(request: ChatRequest) -> dict[str, Any]:
    """POST /v1/workflows/chat. It has no user, always streams, and names its conversation in the body."""
    return {
        "workflow_id": request.workflow_id,
        "additional_messages": [*_earlier(request), _question(request)],
        "parameters": request.parameters or {},
        **_given(bot_id=request.bot_id, app_id=request.app_id, conversation_id=request.coze_conversation_id),
    }


def _earlier(request: ChatRequest) -> list[dict[str, str]]:
    """What was said before. A history that Coze saves may only have questions and answers."""
    types = {"user": "question", "assistant": "answer"}
    return [
        {"role": said["role"], "type": types[said["role"]], "content": said["content"], "content_type": "text"}
        for said in request.context
    ]


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


def _question(request: ChatRequest) -> dict[str, str]:
    """The user's message, as Coze wants it."""
    content, kind = request.message, "text"
    if request.attachments:
        parts = [{"type": "text", "text": content}] if content else []
        for attachment in request.attachments:
            place = {"file_id": attachment["fileId"]} if "fileId" in attachment else {"file_url": attachment["url"]}
            parts.append({"type": attachment["type"], **place})
        content, kind = write(parts).decode(), "object_string"
    return {"role": "user", "type": "question", "content": content, "content_type": kind}
