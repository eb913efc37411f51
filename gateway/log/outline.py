"""What a stretch's events add up to: the text a reader should show, and how the turn stands."""

from typing import Any, Literal

import msgspec

from gateway.events import Outcome
from gateway.log.stretch import LAST, MESSAGE, Stretch

_AUDIO = b'"event":"audio"'  # not read: there may be much of it, and all of it says the same
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
    """Adds up what readers have seen of a turn, once over its events."""
    found = Outline()
    content: list[str] = []
    reasoning: list[str] = []
    repeats = True
    for kind, part in stretch.contents():
        if isinstance(part, bytes):
            if part.startswith(_AUDIO):
                found.audio = True
            else:
                repeats = kind != LAST
                _add(found, content, msgspec.json.decode(b"{%b}" % part))
        elif kind == MESSAGE:
            content.append(part)
            found.status = "running"
        else:
            reasoning.append(part)
    found.content = found.last["content"] if found.last is not None and repeats else "".join(content)
    found.reasoning = "".join(reasoning)
    return found


def _add(found: Outline, content: list[str], event: dict[str, Any]) -> None:
    match event["event"]:
        case "message" if event.get("replace"):
            content[:] = [event["content"]]
        case "message":
            found.cards.append(event["content"])
        case "suggestion":
            found.suggestions.append(event["content"])
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
