"""An outline: the text that a reader should show, and the turn's status, from the events of a stretch."""

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
    NodeChange,
    Reset,
    Started,
    ToolUse,
    Unknown,
    decode,
)
from gateway.log import segments
from gateway.log.packing import DAMAGED
from gateway.log.stretch import Stretch
from gateway.status import Status, status


class Outline(msgspec.Struct):
    """A turn as readers have seen it. `waits` says that it waits for the outputs of `tool_calls`.

    `last` is the turn's last event, None while the turn runs. It lacks its content if the text is long.
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
    """Makes the outline in one pass over the events."""
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
        elif segment.name == "audio":  # not decoded: there may be many, and one is enough to know
            found.audio = True
        elif isinstance(segment, segments.Whole):
            _add(found, content, decode(segment.body))
        else:
            _add(found, content, decode(segment.bare))
            repeats = False
    found.content = found.last.content if found.last is not None and repeats else "".join(content)
    found.reasoning = "".join(reasoning)
    return found


def legible(stretch: Stretch) -> Outline | None:
    """The outline; None if an event is not what was written."""
    try:
        return outline(stretch)
    except DAMAGED:
        return None


def checked(stretch: Stretch) -> Stretch:
    """The stretch. Raises one of `DAMAGED` if an event is not what was written."""
    outline(stretch)
    return stretch


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
        case ToolUse() | NodeChange():
            found.waits = False
        case Completed() | Cancelled() | Failed():
            found.waits = False
            found.last = event
        case _:
            pass
