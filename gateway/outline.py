"""What a stretch's events add up to: the text a reader should show, and how the turn stands."""

from typing import Any, Literal

import msgspec

from gateway.events import Outcome
from gateway.log.stretch import Entry, Stretch

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


def fields(entry: Entry) -> dict[str, Any]:
    """An entry's event as a dictionary, without its id."""
    decoded: dict[str, Any] = msgspec.json.decode(b"{" + entry.body + b"}")
    return decoded


def outline(stretch: Stretch, *, upto: int | None = None) -> Outline:
    """Adds up what readers have seen of a turn, or had seen at the position `upto`."""
    found = Outline()
    for entry in stretch.read(after=0):
        if upto is not None and entry.sequence > upto:
            break
        event = fields(entry)
        match event["event"]:
            case "message" if event.get("replace"):
                found.content = event["content"]
            case "message" if "contentType" in event:
                found.cards.append(event["content"])
            case "message":
                found.content += event["content"]
                found.status = "running"
            case "reasoning":
                found.reasoning += event["content"]
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
    return found
