"""The bodies of the requests that start an answer at Coze."""

from typing import Any

from gateway.upstream.json_text import write
from gateway.upstream.protocol import ChatRequest


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
    optional = {
        "bot_id": request.bot_id,
        "app_id": request.app_id,
        "conversation_id": request.coze_conversation_id,
    }
    return {
        "workflow_id": request.workflow_id,
        "additional_messages": [*_earlier(request), _question(request)],
        "parameters": request.parameters or {},
        **{name: value for name, value in optional.items() if value},
    }


def _earlier(request: ChatRequest) -> list[dict[str, str]]:
    """What was said before. A history that Coze saves may only have questions and answers."""
    types = {"user": "question", "assistant": "answer"}
    return [
        {"role": said["role"], "type": types[said["role"]], "content": said["content"], "content_type": "text"}
        for said in request.context
    ]


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
