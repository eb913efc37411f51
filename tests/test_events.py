"""Events: each is given back by its body as it was; what a newer version wrote is told apart from what is damaged."""

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.events import (
    ActionNeeded,
    AudioPiece,
    Cancelled,
    Completed,
    CozeRecord,
    Event,
    Failed,
    FollowUp,
    Message,
    NodeChange,
    Notice,
    Notification,
    Reset,
    Started,
    Text,
    ToolUse,
    Unknown,
    body,
    decode,
    last_body,
    long_text_body,
    name_of,
    says_anew,
    text_body,
)
from gateway.log.entry import Entry

EVENTS: dict[str, Event | Reset] = {
    "message": Text("message", "a"),
    "reasoning": Text("reasoning", "hm"),
    "started": Started("conv_1", "turn_1", "what?"),
    "message, a card": Message("{}", content_type="card"),
    "message, anew": Message("whole", replace=True),
    "tool": ToolUse("output", "weather", "{}"),
    "audio": AudioPiece("AA=="),
    "suggestion": FollowUp("more?"),
    "notice": Notice("retrying", attempt=1, delay_ms=500),
    "notice, plain": Notice("recovering"),
    "node": NodeChange("n", "1", finished=True),
    "action_required": ActionNeeded([{"id": "c1"}]),
    "completed": Completed("conv_1", "turn_1", "a", {"token_count": 1}, recovered=True),
    "cancelled": Cancelled("conv_1", "turn_1", "a"),
    "error": Failed("sorry", "internal", True, "conv_1", "turn_1", "a", upstream={"code": 5}),
    "notification": Notification("turn.failed", "conv_1", "turn_1", "ann", "a"),
    "coze": CozeRecord("conversation.chat.created", data=msgspec.Raw(b'{"id":"7"}')),
    "coze, a head": CozeRecord("head", True, msgspec.Raw(b"{}")),
    "reset": Reset("ahead", "turn_1", "running", "a"),
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
HOSTILE = '","replace":true,"content":"" \\ "content":"" \u2028 好'


@pytest.mark.parametrize("name", EVENTS)
def test_an_entry_knows_its_event_by_name_and_by_its_fields(name: str) -> None:
    entry = Entry.of(7, EVENTS[name])
    assert (entry.name, entry.event) == (name.split(",", maxsplit=1)[0], EVENTS[name])


def test_every_event_is_tried() -> None:
    assert {type(event) for event in EVENTS.values()} == {*get_args(Event), Reset}


@given(TEXTS)
def test_a_text_comes_back_as_it_was(text: str) -> None:
    for event in (Text("message", text), Message(text, replace=True), Message(text, content_type="card")):
        assert decode(body(event)) == event
        assert name_of(body(event)) == "message"
        assert says_anew(body(event)) == (event == Message(text, replace=True))


@given(st.lists(TEXTS))
def test_a_text_in_parts_makes_the_same_body(parts: list[str]) -> None:
    text = "".join(parts)
    assert long_text_body("reasoning", parts) == text_body("reasoning", text)
    for bare, whole in (
        (Completed("c", "t", "", {"content": ""}, False), Completed("c", "t", text, {"content": ""}, False)),
        (Failed(HOSTILE, "internal", True, "c", "t", ""), Failed(HOSTILE, "internal", True, "c", "t", text)),
    ):
        assert last_body(body(bare), parts) == body(whole)


def test_no_text_passes_for_another_event() -> None:
    for event in (Text("message", HOSTILE), Message(HOSTILE, content_type=HOSTILE), FollowUp(HOSTILE)):
        assert not says_anew(body(event))
        assert decode(body(event)) == event


@pytest.mark.parametrize(
    ("made", "event"),
    [
        (b'"event":"citation","url":"u"', Unknown("citation", {"url": "u"})),
        (b'"event":"notice","code":"moved"', Unknown("notice", {"code": "moved"})),
        (b'"event":"suggestion","content":"a","rank":1', FollowUp("a")),
    ],
    ids=["a name", "a value", "a field"],
)
def test_what_a_newer_version_wrote_is_read_as_far_as_it_is_known(made: bytes, event: object) -> None:
    entry = Entry(1, name_of(made), made)
    assert entry.event == event
    assert entry.name == (event.name if isinstance(event, Unknown) else "suggestion")


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(b'"event":"suggestion","content":"a')
