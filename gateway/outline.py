"""What a stretch's events add up to: the text a reader should show, and how the turn stands."""

from typing import Any, Literal

import msgspec

from gateway.events import Outcome
from gateway.log.stretch import MESSAGE, Stretch

_OUTCOMES: dict[str, Outcome] = {"completed": "completed", "cancelled": "cancelled", "error": "failed"}


class Outline(msgspec.Struct):
    """A turn as its seen events tell it. `last` is its last event's fields, None while it runs."""

    status: Literal["running", "action_required", "completed", "failed", "cancelled"] = "running"
    input: str = ""
    content: str = ""
    reasoning: str = ""
    suggestions: list[str] = []
    cards: list[str] = []
    audio: bool = False
    tool_calls: list[dict[str, Any]] = []
    last: dict[str, Any] | None = None


def outline(stretch: Stretch) -> Outline:
    """Adds up what readers have seen of a turn."""
    found = Outline()
    for kind, content in stretch.contents():
        if isinstance(content, bytes):
            _add(found, msgspec.json.decode(b"{" + content + b"}"))
        elif kind == MESSAGE:
            found.content += content
            found.status = "running"
        else:
            found.reasoning += content
    return found


def _add(found: Outline, event: dict[str, Any]) -> None:
    match event["event"]:
        case "message" if event.get("replace"):
            found.content = event["content"]
        case "message":
            found.cards.append(event["content"])
        case "suggestion":
            found.suggestions.append(event["content"])
        case "audio":
            found.audio = True
        case "started":
            found.input = event["input"]
        case "action_required":
            found.status = "action_required"
            found.tool_calls = event["toolCalls"]
        case "tool":
            found.status = "running"
        case name if name in _OUTCOMES:
            found.status = _OUTCOMES[name]
            found.last = event
