"""Coze's own streams, from their bytes to a turn's last event."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.events import ActionNeeded, Completed, Event, Failed, FollowUp, Message, Notice, Text, ToolUse
from gateway.turns.turn import Turn
from gateway.upstream.coze_protocol import ChatReader
from gateway.upstream.protocol import Answer, ChatState, Item, StreamEnd, Suggestion
from gateway.upstream.sse import SseDecoder
from tests.turns import fold, last, new_turn, restored

COZE = Path(__file__).parent / "coze"
WHOLE = [
    "chat-plain",
    "chat-reasoning",
    "recorded-reasoning",
    "chat-tool-call",
    "chat-multi-answer",
    "chat-rewritten",
    "chatflow",
    "studio-chat",
]


def batches(name: str, reader: ChatReader | None = None) -> list[list[Item]]:
    """The items of each record of a recorded stream."""
    decoder, reader = SseDecoder(), reader or ChatReader()
    lines = (COZE / f"{name}.sse").read_bytes().splitlines(keepends=True)
    return [items for line in lines if (items := reader.items(decoder.feed(line)))]


def played(name: str, turn: Turn | None = None) -> tuple[Turn, list[Event]]:
    turn = turn or new_turn()
    events = [event for items in batches(name) for event in turn.take(items)]
    return turn, events + turn.stream_ended(StreamEnd.FINISHED)


def answers_in(name: str) -> list[str]:
    """The text answers of a recorded stream, read without the gateway's own reader."""
    texts: dict[str, str] = {}
    blocks = (COZE / f"{name}.sse").read_text("utf-8").split("\n\n")
    for lines in (block.split("\n") for block in blocks):
        if lines[0].endswith("conversation.message.completed") and '"type":"answer"' in lines[1]:
            message: dict[str, Any] = json.loads(lines[1].removeprefix("data:"))
            if message["content_type"] == "text":
                texts[message["id"]] = message["content"]
    return list(texts.values())


@pytest.mark.parametrize("name", WHOLE)
def test_a_recorded_chat_ends_with_the_text_that_coze_completed(name: str) -> None:
    turn, events = played(name)
    completed = last(events)
    assert isinstance(completed, Completed)
    assert completed.content == fold(events) == "\n\n".join(answers_in(name)) != ""
    assert not completed.recovered
    assert bool(turn.usage) is (name != "studio-chat")
    assert all(event.content for event in events if isinstance(event, Text))


def test_only_a_rewritten_answer_is_shown_anew() -> None:
    replaced = {name for name in WHOLE for event in played(name)[1] if isinstance(event, Message) and event.replace}
    assert replaced == {"chat-rewritten"}


def test_a_reasoning_chat_keeps_its_thinking_apart() -> None:
    turn, events = played("recorded-reasoning")
    thoughts = [event.content for event in events if isinstance(event, Text) and event.kind == "reasoning"]
    assert len(thoughts) == 443
    assert turn.reasoning == "".join(thoughts)


def test_tools_cards_and_suggestions_of_recorded_chats_are_shown() -> None:
    kinds = [type(event) for event in played("chat-tool-call")[1]]
    assert kinds.count(ToolUse) == 2
    assert kinds.count(FollowUp) == 3
    cards = [event for event in played("chat-multi-answer")[1] if isinstance(event, Message)]
    assert [card.content_type for card in cards] == ["card"]


def test_a_recorded_chat_that_waits_for_tools_goes_on_in_its_second_stream() -> None:
    turn, events = played("chat-requires-action")
    assert isinstance(events[-1], ActionNeeded)
    assert turn.phase == "action_required"
    turn.outputs_given()
    turn, more = played("chat-submit-tool-outputs", turn)
    assert last(more).content == "\n\n".join(answers_in("chat-submit-tool-outputs"))


@pytest.mark.parametrize(
    ("name", "coze_code"),
    [("chat-failed", None), ("chat-error-event", None), ("chatflow-failed", 720702204), ("v2-chat-error", 702242001)],
)
def test_a_recorded_failure_is_one_error(name: str, coze_code: int | None) -> None:
    failed = last(played(name)[1])
    assert isinstance(failed, Failed)
    upstream = failed.upstream
    assert isinstance(upstream, dict)
    assert upstream["code"] > 0
    assert coze_code in (None, upstream["code"])


def test_the_old_forms_chat_is_completed_without_ids() -> None:
    turn, events = played("v2-chat")
    assert isinstance(last(events), Completed)
    assert turn.ref is None
    assert turn.content.startswith("2025 年 10 月")


@pytest.mark.parametrize("name", ["chat-multi-answer", "chat-rewritten", "chat-tool-call", "chat-reasoning"])
@pytest.mark.parametrize("killed", [False, True])
def test_a_recorded_chat_cut_after_any_record_ends_with_the_same_text(name: str, killed: bool) -> None:
    rows = batches(name)
    record = [item for items in rows for item in items if isinstance(item, Answer | Suggestion)]
    wanted = played(name)[0]
    for cut in range(1, len(rows)):
        turn = new_turn()
        events = [event for items in rows[:cut] for event in turn.take(items)]
        if turn.phase == "ended":
            continue
        if killed:
            cards = [event.content for event in events if isinstance(event, Message) and not event.replace]
            turn = restored(turn.memory, events, suggestions=turn.suggestions, cards=cards)
        elif turn.phase == "streaming":
            assert turn.stream_ended(StreamEnd.BROKEN) == [Notice("recovering")]
        else:
            continue
        recovered = turn.recovered(ChatState("completed"), record)
        if recovered is None:  # a rewritten answer that is shorter than its pieces looks like a list that lags
            recovered = turn.recovered(ChatState("completed"), record, final=True)
        events += recovered or []
        assert last(events).content == fold(events)
        assert sorted(fold(events).split("\n\n")) == sorted(wanted.content.split("\n\n"))
        assert sorted(turn.suggestions) == sorted(wanted.suggestions)
        assert len([e for e in events if isinstance(e, Message) and e.content_type == "card"]) == len(wanted._cards)
