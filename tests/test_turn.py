"""A turn from its beginning to its one last event."""

import typing
from typing import Any

import pytest

from gateway.errors import Code, GatewayError, UpstreamError
from gateway.events import (
    ActionNeeded,
    AudioPiece,
    Cancelled,
    Completed,
    Failed,
    FollowUp,
    Message,
    Notice,
    Text,
    ToolUse,
    body,
)
from gateway.turns.failure import RETRYABLE
from gateway.turns.turn import NEXT, Phase, Turn
from gateway.upstream.codes import classify
from gateway.upstream.protocol import (
    ActionRequired,
    Audio,
    ChatCanceled,
    ChatCompleted,
    ChatFailed,
    ChatRef,
    Created,
    Done,
    Item,
    Reasoning,
    Skipped,
    StreamEnd,
    Suggestion,
    Tool,
)
from tests.turns import BORN, CONVERSATION, TURN, a, anew, begun, d, last, new_turn, piece

USAGE = {"token_count": 3}
CALLS: list[dict[str, Any]] = [{"id": "B+/=", "type": "function", "function": {"name": "set_light", "arguments": "{}"}}]


def completed(content: str, usage: dict[str, Any] | None = None, *, recovered: bool = False) -> Completed:
    return Completed(CONVERSATION, TURN, content, usage, recovered)


# The usual way


def test_a_usual_turn_shows_everything_in_order_and_ends_at_done() -> None:
    turn = new_turn()
    events = turn.take(
        [
            BORN,
            Created("chat-1", "coze-1"),
            Tool("2", "call", "weather", "{}"),
            Tool("3", "output", "weather", "sunny"),
            Reasoning("4", "hm"),
            d("4", "Sun"),
            a("4", "Sunny."),
            Suggestion("5", "And tomorrow?"),
            ChatCompleted(USAGE),
            Done(),
        ]
    )
    assert events == [
        ToolUse("call", "weather", "{}"),
        ToolUse("output", "weather", "sunny"),
        Text("reasoning", "hm"),
        piece("Sun"),
        piece("ny."),
        FollowUp("And tomorrow?"),
        completed("Sunny.", USAGE),
    ]
    assert (turn.phase, turn.outcome, turn.content, turn.reasoning) == ("ended", "completed", "Sunny.", "hm")
    assert (turn.suggestions, turn.usage, turn.failure) == (["And tomorrow?"], USAGE, None)


def test_the_chats_ids_are_known_and_to_be_kept_from_created_on() -> None:
    turn = new_turn()
    assert turn.ref is None
    turn.take([BORN])
    assert turn.ref == ChatRef("chat-1", "coze-1")
    assert (turn.memory.chat_id, turn.memory.coze_conversation_id) == ("chat-1", "coze-1")
    assert (turn.memory_changed, turn.phase) == (True, "streaming")
    turn.memory_changed = False
    turn.take([BORN, Created("another", "one")])
    assert turn.ref == ChatRef("chat-1", "coze-1")
    assert not turn.memory_changed


def test_a_conversations_id_alone_is_kept_but_is_no_chat_to_ask_for() -> None:
    turn = new_turn()
    turn.take([Created("", "coze-1")])
    assert turn.ref is None
    assert (turn.memory.coze_conversation_id, turn.memory_changed) == ("coze-1", True)
    turn.memory_changed = False
    turn.take([Created("0", "coze-1")])
    assert not turn.memory_changed


def test_memory_changes_with_a_new_answer_and_not_with_its_next_piece() -> None:
    turn = begun()
    turn.memory_changed = False
    turn.take([d("1", "ab")])
    assert (turn.memory_changed, turn.memory.answers) == (True, [("1", 0)])
    turn.memory_changed = False
    turn.take([d("1", "c")])
    assert not turn.memory_changed
    turn.take([d("2", "d")])
    assert (turn.memory_changed, turn.memory.answers) == (True, [("1", 0), ("2", 5)])


def test_records_that_could_not_be_used_show_nothing() -> None:
    turn = begun()
    assert turn.take([Skipped("malformed"), d("1", "x"), Skipped("foreign_chat")]) == [piece("x")]


# Cards, tools, suggestions, audio


def test_a_card_is_shown_once_and_is_no_part_of_the_text() -> None:
    turn = begun()
    events = turn.take(
        [d("1", "a"), a("2", "{}", "card"), a("2", "{}", "card"), d("1", "b"), a("3", "[]", "object_string")]
    )
    assert events == [
        piece("a"),
        Message("{}", content_type="card"),
        piece("b"),
        Message("[]", content_type="object_string"),
    ]
    assert turn.content == "ab"
    assert turn.memory.seen == ["2", "3"]


def test_cards_and_suggestions_without_an_id_are_known_by_their_content_and_not_kept_as_ids() -> None:
    turn = begun()
    events = turn.take([a("0", "{}", "card"), a("", "{}", "card"), Suggestion("0", "q"), Suggestion("", "q")])
    assert events == [Message("{}", content_type="card"), FollowUp("q")]
    assert turn.memory.seen == []


def test_text_that_turns_out_to_be_a_card_leaves_the_text() -> None:
    turn = begun()
    events = turn.take([d("1", '{"card'), a("1", '{"card":1}', "card"), d("1", "late")])
    assert events == [piece('{"card'), anew(""), Message('{"card":1}', content_type="card")]
    assert turn.content == ""


def test_a_doubled_tool_use_is_shown_once_and_its_output_is_another_thing() -> None:
    turn = begun()
    call, output = Tool("1", "call", "n", "c"), Tool("1", "output", "n", "c")
    assert turn.take([call, call, output, output]) == [ToolUse("call", "n", "c"), ToolUse("output", "n", "c")]


def test_audio_and_suggestions_count_until_done_and_late_text_does_not() -> None:
    turn = begun()
    assert turn.take([Audio("AA=="), d("1", "x"), ChatCompleted(None), Audio("BB=="), d("1", "y"), a("1", "z")]) == [
        AudioPiece("AA=="),
        piece("x"),
        AudioPiece("BB=="),
    ]
    assert turn.phase == "settling"
    late: list[Item] = [Suggestion("5", "late"), Suggestion("5", "late"), Suggestion("", "late"), ChatFailed(4000, "")]
    assert turn.take([*late, ChatCompleted(USAGE)]) == [FollowUp("late")]
    assert turn.suggestions == ["late"]
    assert turn.settled() == [completed("x")]
    assert turn.take([Audio("CC==")]) == []


def test_whole_audio_is_shown_only_where_its_pieces_were_not() -> None:
    assert begun().take([a("1", "AA==", "audio")]) == [AudioPiece("AA==")]
    assert begun().take([Audio("AA=="), a("1", "AA==", "audio"), Audio("")]) == [AudioPiece("AA==")]


# How a stream can end


@pytest.mark.parametrize("end", list(StreamEnd))
def test_after_chat_completed_any_end_of_the_stream_completes_the_turn(end: StreamEnd) -> None:
    turn = begun()
    turn.take([d("1", "x"), ChatCompleted(USAGE)])
    assert turn.stream_ended(end) == [completed("x", USAGE)]
    assert turn.stream_ended(end) == []


@pytest.mark.parametrize("end", [StreamEnd.EOF, StreamEnd.BROKEN, StreamEnd.IDLE, StreamEnd.FINISHED])
def test_a_chat_without_a_last_word_is_asked_for_once(end: StreamEnd) -> None:
    turn = begun()
    turn.take([d("1", "x")])
    assert turn.stream_ended(end) == [Notice("recovering")]
    assert turn.phase == "recovering"
    assert turn.stream_ended(end) == []
    assert turn.take([d("1", "late"), Done(), ChatFailed(None, "")]) == []


def test_done_without_chat_completed_asks_for_the_record_at_once() -> None:
    turn = begun()
    assert turn.take([d("1", "x"), Done(), d("1", "late")]) == [piece("x"), Notice("recovering")]
    assert turn.stream_ended(StreamEnd.FINISHED) == []


@pytest.mark.parametrize("end", [StreamEnd.EOF, StreamEnd.BROKEN, StreamEnd.IDLE])
def test_a_stream_that_ends_before_created_leaves_it_uncertain(end: StreamEnd) -> None:
    turn = new_turn()
    failed = last(turn.stream_ended(end))
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable, failed.content) == ("upstream_uncertain", True, "")


@pytest.mark.parametrize("created", [True, False])
def test_a_record_without_end_fails_the_turn_with_the_text_so_far(created: bool) -> None:
    turn = begun() if created else new_turn()
    turn.take([d("1", "x")])
    failed = last(turn.stream_ended(StreamEnd.TOO_LARGE))
    assert isinstance(failed, Failed)
    assert (failed.code, failed.content) == ("upstream_failed", "x")


@pytest.mark.parametrize("end", [StreamEnd.EOF, StreamEnd.BROKEN, StreamEnd.IDLE])
def test_without_a_chats_id_a_broken_answer_cannot_be_recovered(end: StreamEnd) -> None:
    turn = new_turn()
    turn.take([d("index-0", "half")])
    failed = last(turn.stream_ended(end))
    assert isinstance(failed, Failed)
    assert (failed.code, failed.content, turn.outcome) == ("upstream_failed", "half", "failed")


def test_without_a_chats_id_done_completes_the_answer() -> None:
    turn = new_turn()
    assert turn.take([d("index-0", "all"), Done()])[-1] == completed("all")
    turn = new_turn()
    turn.take([d("index-0", "all")])
    assert turn.stream_ended(StreamEnd.FINISHED) == [completed("all")]


# Nothing said


def test_done_alone_is_an_empty_answer() -> None:
    turn = new_turn()
    assert last(turn.take([Done()])) is turn.failure
    assert turn.failure is not None
    assert turn.failure.code == "upstream_empty"
    assert isinstance(last(new_turn().stream_ended(StreamEnd.FINISHED)), Failed)


def test_reasoning_tools_and_suggestions_alone_are_an_empty_answer() -> None:
    turn = begun()
    turn.take([Reasoning("1", "hm"), Tool("2", "call", "n", "c"), Suggestion("3", "q"), a("4", ""), Audio("")])
    failed = last(turn.take([ChatCompleted(USAGE), Done()]))
    assert isinstance(failed, Failed)
    assert failed.code == "upstream_empty"


@pytest.mark.parametrize("item", [a("1", "{}", "card"), Audio("AA==")])
def test_a_card_or_audio_alone_is_no_empty_answer(item: Any) -> None:
    turn = begun()
    assert turn.take([item, ChatCompleted(None), Done()])[-1] == completed("")


# Failures and cancelling


@pytest.mark.parametrize("coze_code", [4009, 4016, 4028, 4100, 5000, 720702204])
def test_a_failure_in_the_stream_carries_cozes_code_and_the_text_so_far(coze_code: int) -> None:
    turn = begun()
    turn.log_id = "2025LOG"
    failed = last(turn.take([d("1", "x"), ChatFailed(coze_code, "secret words"), d("1", "y"), Done()]))
    assert isinstance(failed, Failed)
    code, retryable = classify(coze_code)
    assert (failed.code, failed.retryable, failed.content) == (code, retryable, "x")
    assert failed.upstream == {"code": coze_code, "logId": "2025LOG"}
    assert "secret" not in body(failed).decode()


@pytest.mark.parametrize("coze_code", [None, 0])
def test_a_failure_without_a_code_may_be_tried_again_and_names_none(coze_code: int | None) -> None:
    failed = last(new_turn().take([ChatFailed(coze_code, "")]))
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == ("upstream_failed", True)
    assert b'upstream"' not in body(failed)


def test_the_table_of_codes_and_what_a_person_may_try_again_agree() -> None:
    for coze_code in (None, 4000, 4009, 4013, 4016, 4020, 4028, 4100, 4101, 5000, 700012006):
        code, retryable = classify(coze_code)
        assert (code in RETRYABLE) is retryable


def test_an_error_of_the_gateway_ends_the_turn_with_its_code_in_the_persons_language() -> None:
    turn = Turn(CONVERSATION, TURN, "es")
    turn.take([d("1", "x")])
    failed = last(turn.fail(GatewayError(Code.STORAGE_UNAVAILABLE, "disk /var is full")))
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable, failed.content) == ("storage_unavailable", True, "x")
    assert failed.error.startswith("La conversación")
    assert "disk" not in body(failed).decode()


def test_an_error_from_coze_keeps_its_code_and_log_id() -> None:
    error = UpstreamError(Code.UPSTREAM_UNAUTHORIZED, "no", coze_code=4101, log_id="LOG")
    failed = last(new_turn().fail(error))
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable, failed.upstream) == (
        "upstream_unauthorized",
        False,
        {"code": 4101, "logId": "LOG"},
    )


def test_a_cancelled_turn_keeps_its_text_and_takes_nothing_more() -> None:
    turn = begun()
    turn.take([d("1", "x")])
    assert turn.cancel() == [Cancelled(CONVERSATION, TURN, "x")]
    assert turn.cancel() == []
    assert turn.take([d("1", "y"), ChatCompleted(None), Done()]) == []
    assert turn.fail(GatewayError(Code.INTERNAL)) == []
    assert (turn.phase, turn.outcome, turn.content) == ("ended", "cancelled", "x")


def test_cozes_own_cancelling_ends_the_turn_as_cancelled() -> None:
    assert begun().take([d("1", "x"), ChatCanceled(), Done()]) == [piece("x"), Cancelled(CONVERSATION, TURN, "x")]


def test_a_retry_is_a_notice_that_says_which_and_when() -> None:
    turn = new_turn()
    assert turn.retrying(2, 1500) == [Notice("retrying", attempt=2, delay_ms=1500)]
    assert turn.phase == "starting"
    turn.cancel()
    assert turn.retrying(3, 1500) == []


# Tool outputs


def test_a_turn_waits_for_tool_outputs_and_goes_on_with_them() -> None:
    turn = begun()
    assert turn.take([Tool("1", "call", "set_light", "{}"), ActionRequired(CALLS), Done()])[-1] == ActionNeeded(CALLS)
    assert (turn.phase, turn.tool_calls) == ("action_required", CALLS)
    assert turn.stream_ended(StreamEnd.FINISHED) == []
    assert turn.outputs_given() == []
    assert (turn.phase, turn.tool_calls) == ("streaming", [])
    events = turn.take(
        [BORN, Tool("2", "output", "", "ok"), d("3", "Done."), a("3", "Done."), ChatCompleted(None), Done()]
    )
    assert events == [ToolUse("output", "", "ok"), piece("Done."), completed("Done.")]


def test_the_same_demand_twice_is_one_and_another_one_is_another() -> None:
    turn = begun()
    assert turn.take([ActionRequired(CALLS), ActionRequired(CALLS)]) == [ActionNeeded(CALLS)]
    turn.outputs_given()
    assert turn.take([ActionRequired(CALLS)]) == [ActionNeeded(CALLS)]


def test_a_waiting_turn_can_be_cancelled_and_can_fail() -> None:
    for end in (Turn.cancel, lambda turn: turn.fail(GatewayError(Code.UPSTREAM_TIMEOUT))):
        turn = begun()
        turn.take([ActionRequired(CALLS)])
        assert last(end(turn))


def test_outputs_that_nobody_waits_for_change_nothing() -> None:
    turn = begun()
    assert (turn.outputs_given(), turn.phase) == ([], "streaming")
    turn.cancel()
    assert (turn.outputs_given(), turn.phase) == ([], "ended")


# The table


def test_the_table_of_phases_is_whole_and_every_phase_but_the_last_can_end() -> None:
    phases = set(typing.get_args(Phase))
    assert set(NEXT) == phases
    assert set().union(*NEXT.values()) == phases - {"starting"}
    assert NEXT["ended"] == frozenset()
    assert all("ended" in nexts for phase, nexts in NEXT.items() if phase != "ended")


def test_a_turn_says_its_state_in_its_repr() -> None:
    turn = begun()
    turn.take([d("1", "secret")])
    assert "streaming" in repr(turn)
    assert "6 characters" in repr(turn)
    assert "secret" not in repr(turn)
