"""The outline: what a stretch's events add up to."""

from gateway.events import (
    ActionNeeded,
    AudioPiece,
    Cancelled,
    Completed,
    Event,
    Failed,
    FollowUp,
    Last,
    Message,
    Notice,
    Started,
    Text,
    ToolUse,
    body,
)
from gateway.log.outline import Outline, outline
from gateway.log.segments import MESSAGE, REASONING, WHOLE
from gateway.log.stretch import Stretch

KINDS = {"message": MESSAGE, "reasoning": REASONING}
STARTED = Started("conv_1", "turn_1", "what?")


def of(*events: Event) -> Outline:
    stretch = Stretch(1, "conv_1", "e", 1, "turn_1")
    for event in events:
        if isinstance(event, Text):
            stretch.apply(KINDS[event.kind], event.content)
        else:
            stretch.apply(WHOLE, body(event))
    return outline(stretch)


def test_text_reasoning_suggestions_and_cards_are_told_apart() -> None:
    found = of(
        STARTED, Text("reasoning", "hm "), Text("message", "a"), Message("{}", content_type="card"),
        Text("reasoning", "mm"), Text("message", "b"), AudioPiece("AA=="), FollowUp("c?"), FollowUp("d?"),
    )  # fmt: skip
    assert (found.input, found.content, found.reasoning) == ("what?", "ab", "hm mm")
    assert (found.cards, found.suggestions, found.audio) == (["{}"], ["c?", "d?"], True)
    assert (found.status, found.last) == ("running", None)


def test_a_replace_starts_the_text_over() -> None:
    assert of(STARTED, Text("message", "a"), Message("whole", replace=True), Text("message", "!")).content == "whole!"


def test_the_last_event_says_how_it_ended() -> None:
    text = Text("message", "a")
    ends: dict[str, Last] = {
        "completed": Completed("conv_1", "turn_1", "a", {"total": 1}, recovered=False),
        "cancelled": Cancelled("conv_1", "turn_1", "a"),
        "failed": Failed("sorry", "internal", False, "conv_1", "turn_1", "a"),
    }
    for status, last in ends.items():
        found = of(STARTED, text, last)
        assert found.status == status
        assert found.last is not None
        assert (found.last.content, found.content) == ("a", "a")


def test_a_turn_waits_for_tools_until_something_goes_on() -> None:
    calls = [{"id": "c1"}]
    found = of(STARTED, ActionNeeded(calls))
    assert (found.status, found.tool_calls) == ("action_required", calls)
    for on in (Text("message", "a"), ToolUse("output", "t", "o")):
        assert of(STARTED, ActionNeeded(calls), on).status == "running"
    assert of(STARTED, ActionNeeded(calls), Notice("recovering")).status == "action_required"


def test_an_empty_stretch_is_a_running_turn_without_text() -> None:
    assert of() == Outline()
