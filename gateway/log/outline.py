"""What a stretch's events add up to: the text a reader should show, and how the turn stands."""

from typing import Any

import msgspec

from gateway.events import (
    ActionNeeded,
    Cancelled,
    Completed,
    Event,
    Failed,
    FollowUp,
    Last,
    Message,
    Reset,
    Started,
    ToolUse,
    Unknown,
    decode,
)
from gateway.log import segments
from gateway.log.stretch import Stretch
from gateway.status import Status, status


class Outline(msgspec.Struct):
    """A turn as its seen events tell it. `waits` says that it waits for the outputs of `tool_calls`.

    `last` is its last event, None while it runs; where the text is long, without its content.
    """

    input: str = ""
    content: str = ""
    reasoning: str = ""
    suggestions: list[str] = []
    cards: list[str] = []
    audio: bool = False
    waits: bool = False
    tool_calls: list[dict[str, Any]] = []
    last: Last | None = None

    @property
    def status(self) -> Status:
        return status(waits=self.waits, outcome=None if self.last is None else self.last.outcome)


def outline(stretch: Stretch) -> Outline:
    """Adds up what readers have seen of a turn, once over its events."""
    found = Outline()
    content: list[str] = []
    reasoning: list[str] = []
    repeats = True
    for segment in stretch.segments:
        if isinstance(segment, segments.Run):
            if segment.kind == segments.MESSAGE:
                content.append(segment.text())
                found.waits = False
            else:
                reasoning.append(segment.text())
        elif segment.name == "audio":  # not decoded: there may be much of it, and all of it says the same
            found.audio = True
        elif isinstance(segment, segments.Whole):
            _add(found, content, decode(segment.body))
        else:
            _add(found, content, decode(segment.bare))
            repeats = False
    found.content = found.last.content if found.last is not None and repeats else "".join(content)
    found.reasoning = "".join(reasoning)
    return found


def _add(found: Outline, content: list[str], event: Event | Reset | Unknown) -> None:
    match event:
        case Message(replace=True):
            content[:] = [event.content]
        case Message():
            found.cards.append(event.content)
        case FollowUp():
            found.suggestions.append(event.content)
        case Started():
            found.input = event.input
        case ActionNeeded():
            found.waits = True
            found.tool_calls = event.tool_calls
        case ToolUse():
            found.waits = False
        case Completed() | Cancelled() | Failed():
            found.waits = False
            found.last = event
        case _:
            pass
