"""A turn whose bot asks the user something: it ends with the question, and the reply is the next turn's message."""

from typing import Any

import pytest

from gateway.events import ActionNeeded, AudioPiece, Completed, Failed, FollowUp, Message, Notice, body
from gateway.turns.turn import Turn
from gateway.upstream.protocol import (
    ActionRequired,
    Audio,
    ChatCompleted,
    ChatState,
    Done,
    Item,
    Reasoning,
    StreamEnd,
    Suggestion,
)
from tests.turns import BORN, CONVERSATION, TURN, a, begun, d, last, new_turn, piece, restored

CALLS: list[dict[str, Any]] = [{"id": "c1", "type": "function", "function": {"name": "set_light", "arguments": "{}"}}]
ASKS = ActionRequired([], "")
WAITS = ChatState("requires_action", question="")


def asked(content: str, usage: dict[str, Any] | None = None, *, recovered: bool = False) -> Completed:
    return Completed(CONVERSATION, TURN, content, usage, recovered, awaiting_reply=True)


def broken(*items: Item) -> Turn:
    turn = begun()
    turn.take(items)
    assert turn.stream_ended(StreamEnd.BROKEN) == [Notice("recovering")]
    return turn


# In the stream


def test_a_question_completes_the_turn_with_the_answers_text() -> None:
    turn = begun()
    events = turn.take([d("1", "Which"), a("1", "Which city?"), ASKS, Done()])
    assert events == [piece("Which"), piece(" city?"), asked("Which city?")]
    assert (turn.phase, turn.outcome) == ("ended", "completed")


def test_only_a_turn_that_asks_says_so_in_its_last_event() -> None:
    assert b'"awaitingReply":true' in body(asked("x"))
    assert b"awaitingReply" not in body(Completed(CONVERSATION, TURN, "x", None, recovered=False))


def test_after_the_question_audio_and_suggestions_count_until_done() -> None:
    turn = begun()
    assert turn.take([a("1", "Which?"), ASKS, Audio("AA=="), Suggestion("2", "This one")]) == [
        piece("Which?"),
        AudioPiece("AA=="),
        FollowUp("This one"),
    ]
    assert turn.take([Done()]) == [asked("Which?")]


@pytest.mark.parametrize("end", list(StreamEnd))
def test_after_the_question_any_end_of_the_stream_completes_the_turn(end: StreamEnd) -> None:
    turn = begun()
    turn.take([a("1", "Which?"), ASKS])
    assert turn.stream_ended(end) == [asked("Which?")]


def test_nobody_waits_for_a_time_out_if_the_stream_never_ends() -> None:
    turn = begun()
    turn.take([a("1", "Which?"), ASKS])
    assert turn.settled() == [asked("Which?")]


def test_a_question_that_only_the_call_has_becomes_the_text() -> None:
    turn = begun()
    assert turn.take([ActionRequired([], "Which city?"), Done()]) == [piece("Which city?"), asked("Which city?")]
    turn = begun()
    events = turn.take([d("1", "Let me see."), ActionRequired([], "Which city?"), Done()])
    assert events[1:] == [piece("\n\nWhich city?"), asked("Let me see.\n\nWhich city?")]


@pytest.mark.parametrize("said", ["Which city?", "Fine.\n\nWhich \ncity? One of:\n- Hangzhou"])
def test_a_question_that_an_answer_has_too_is_not_shown_twice(said: str) -> None:
    turn = begun()
    assert turn.take([a("1", said), ActionRequired([], "Which city?"), Done()]) == [piece(said), asked(said)]


def test_an_answer_without_an_id_is_not_taken_for_the_question_of_the_call() -> None:
    turn = begun()
    events = turn.take([d("", "Let me see."), ActionRequired([], "Which city?"), Done()])
    assert events[-1] == asked("Let me see.\n\nWhich city?")


def test_a_card_is_a_question_too() -> None:
    turn = begun()
    card = Message("{}", content_type="card")
    assert turn.take([a("1", "{}", "card"), ActionRequired([], "Which city?"), Done()]) == [card, asked("")]


def test_coze_says_that_it_waits_for_a_reply_so_even_a_question_without_words_is_no_error() -> None:
    assert begun().take([ASKS, Done()]) == [asked("")]
    assert new_turn().take([ASKS, Done()]) == [asked("")]


def test_a_chat_that_requires_no_action_that_tools_could_take_waits_for_a_reply() -> None:
    turn = begun()
    assert turn.take([a("1", "Which?"), ActionRequired([]), Done()]) == [piece("Which?"), asked("Which?")]


def test_a_chat_that_waits_without_a_word_is_asked_for_its_record() -> None:
    turn = begun()
    assert turn.take([Reasoning("1", "hm"), ActionRequired([]), Done()])[-1] == Notice("recovering")
    assert turn.recovered(ChatState("requires_action"), [a("1", "Which?")]) == [
        piece("Which?"),
        asked("Which?", recovered=True),
    ]


def test_a_chat_that_waits_without_a_word_in_its_record_either_is_an_empty_answer() -> None:
    turn = begun()
    turn.take([ActionRequired([])])
    assert turn.recovered(ChatState("requires_action"), []) is None
    failed = last(turn.recovered(ChatState("requires_action"), [], final=True) or [])
    assert isinstance(failed, Failed)
    assert failed.code == "upstream_empty"


def test_the_usage_of_a_chat_that_asks_is_passed_on() -> None:
    usage = {"token_count": 3}
    assert begun().take([a("1", "Which?"), ActionRequired([], "", usage), Done()])[-1] == asked("Which?", usage)


# Tools and questions


def test_tools_come_first_and_the_question_after_their_outputs() -> None:
    turn = begun()
    assert turn.take([ActionRequired(CALLS, "Which city?"), Done()]) == [ActionNeeded(CALLS)]
    assert turn.take([ActionRequired([], "Which city?"), ActionRequired([])]) == []
    turn.outputs_given()
    assert turn.take([BORN, ActionRequired([], "Which city?"), Done()]) == [piece("Which city?"), asked("Which city?")]


def test_a_chat_that_asked_something_once_can_be_completed_after_its_tools() -> None:
    turn = begun()
    turn.take([ActionRequired(CALLS, "Which city?"), Done()])
    turn.outputs_given()
    end = last(turn.take([a("1", "Done."), ChatCompleted(None), Done()]))
    assert end == Completed(CONVERSATION, TURN, "Done.", None, recovered=False)


# From Coze's record


def test_a_broken_question_is_finished_from_the_record() -> None:
    turn = broken(d("1", "Which"))
    assert turn.recovered(WAITS, [a("1", "Which city?")]) == [piece(" city?"), asked("Which city?", recovered=True)]


def test_a_record_that_lags_is_asked_for_again() -> None:
    turn = broken(d("1", "Which"))
    assert turn.recovered(WAITS, []) is None
    assert turn.recovered(WAITS, [a("1", "Which city?")]) is not None


@pytest.mark.parametrize("record", [[], [a("1", "Let me see.")]])
def test_a_question_that_only_the_call_in_the_record_has_becomes_the_text(record: list[Item]) -> None:
    turn = broken()
    text = "\n\n".join([*(item.content for item in record if hasattr(item, "content")), "Which city?"])
    state = ChatState("requires_action", question="Which city?")
    assert turn.recovered(state, record) == [piece(text), asked(text, recovered=True)]


def test_a_question_of_the_call_that_was_shown_before_a_crash_is_not_shown_again() -> None:
    turn = begun()
    events = turn.take([ActionRequired([], "Which city?")])
    again = restored(turn.memory, events)
    state = ChatState("requires_action", question="Which city?")
    assert again.recovered(state, []) == [asked("Which city?", recovered=True)]


def test_a_card_of_the_record_is_the_question() -> None:
    state = ChatState("requires_action", question="Which city?")
    assert broken().recovered(state, [a("1", "{}", "card")]) == [
        Message("{}", content_type="card"),
        asked("", recovered=True),
    ]


def test_a_record_without_the_calls_that_were_known_before_a_crash_still_waits_for_them() -> None:
    turn = begun()
    turn.take([ActionRequired(CALLS)])
    again = restored(turn.memory, [], tool_calls=CALLS)
    assert again.recovered(ChatState("requires_action"), []) == []
    assert (again.phase, again.tool_calls) == ("action_required", CALLS)


def test_a_list_that_lags_does_not_cut_what_was_said_before_the_tools() -> None:
    turn = broken(d("1", "Let me"))
    state = ChatState("requires_action", tool_calls=tuple(CALLS))
    assert turn.recovered(state, []) is None
    assert turn.recovered(state, [a("1", "Let me see.")]) == [piece(" see."), ActionNeeded(CALLS)]
