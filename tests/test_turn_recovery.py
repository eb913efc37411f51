"""A turn whose stream or process broke, finished from Coze's record."""

import time
from typing import Any

import pytest
from msgspec import json

from gateway.bounds import TEXT_BYTES
from gateway.events import ActionNeeded, Cancelled, Completed, Failed, FollowUp, Message, Notice
from gateway.turns.part import Part
from gateway.turns.record import match, unseen
from gateway.turns.turn import Memory, Turn
from gateway.upstream.protocol import (
    ActionRequired,
    ChatCompleted,
    ChatFailed,
    ChatState,
    Done,
    Item,
    Reasoning,
    StreamEnd,
    Suggestion,
    Tool,
)
from tests.turns import BORN, COMPLETED, CONVERSATION, TURN, a, anew, begun, d, last, new_turn, piece, restored

CALLS: list[dict[str, Any]] = [{"id": "c1", "type": "function", "function": {"name": "n", "arguments": "{}"}}]


def broken(*items: Item) -> Turn:
    """A turn that took `items` after `created`, and then lost its stream."""
    turn = begun()
    turn.take(items)
    assert turn.stream_ended(StreamEnd.BROKEN) == [Notice("recovering")]
    return turn


def completed(content: str, usage: dict[str, Any] | None = None) -> Completed:
    return Completed(CONVERSATION, TURN, content, usage, recovered=True)


# The text


def test_the_rest_of_a_broken_answer_comes_from_the_record() -> None:
    turn = broken(d("1", "西"))
    assert turn.recovered(
        ChatState("completed", {"token_count": 9}), [Tool("7", "call", "n", "{}"), a("1", "西湖")]
    ) == [
        piece("湖"),
        completed("西湖", {"token_count": 9}),
    ]


def test_a_record_that_says_something_else_replaces_what_was_shown() -> None:
    assert broken(d("1", "50$\\%$")).recovered(COMPLETED, [a("1", "50%")]) == [anew("50%"), completed("50%")]


def test_an_answer_that_was_shown_whole_is_not_repeated() -> None:
    assert broken(d("1", "ab"), a("1", "ab")).recovered(COMPLETED, [a("1", "ab")]) == [completed("ab")]


def test_answers_that_were_not_streamed_follow_after_a_blank_line() -> None:
    turn = broken(d("1", "a"))
    assert turn.recovered(COMPLETED, [a("1", "ab"), a("2", "c"), a("3", "d")]) == [
        piece("b\n\nc\n\nd"),
        completed("ab\n\nc\n\nd"),
    ]


def test_the_order_that_was_shown_goes_before_the_records_order() -> None:
    turn = broken(d("2", "b"), d("3", "c"))
    assert turn.recovered(COMPLETED, [a("1", "a"), a("3", "cc"), a("2", "b")]) == [
        piece("c\n\na"),
        completed("b\n\ncc\n\na"),
    ]


def test_held_pieces_are_settled_by_the_record_without_a_replace() -> None:
    turn = broken(d("1", "a"), d("2", "b"), d("1", "a again"))
    assert turn.recovered(COMPLETED, [a("1", "a"), a("2", "bc")]) == [piece("c"), completed("a\n\nbc")]


@pytest.mark.parametrize(("streamed", "recorded"), [("0", "77"), ("77", "0"), ("", "0")])
def test_an_answer_without_an_id_on_one_side_is_matched_by_how_it_begins(streamed: str, recorded: str) -> None:
    turn = broken(d(streamed, "he"))
    assert turn.recovered(COMPLETED, [a("76", "other"), a(recorded, "hello")]) == [
        piece("llo\n\nother"),
        completed("hello\n\nother"),
    ]


def test_an_answer_without_an_id_that_was_rewritten_is_matched_by_order() -> None:
    assert broken(d("0", "helo")).recovered(COMPLETED, [a("77", "hello")]) == [anew("hello"), completed("hello")]


def test_nothing_was_streamed_and_the_record_has_it_all() -> None:
    turn = begun()
    assert turn.take([Done()]) == [Notice("recovering")]
    assert turn.recovered(COMPLETED, [a("1", "all")]) == [piece("all"), completed("all")]


def test_a_doubled_record_counts_once() -> None:
    record = [a("1", "ab"), a("1", "ab"), a("2", "{}", "card"), a("2", "{}", "card")]
    assert broken(d("1", "a")).recovered(COMPLETED, record) == [
        piece("b"),
        Message("{}", content_type="card"),
        completed("ab"),
    ]


# A record that can't be used yet


@pytest.mark.parametrize("status", ["created", "in_progress"])
def test_a_chat_that_is_not_over_is_asked_for_again(status: Any) -> None:
    turn = broken(d("1", "a"))
    assert turn.recovered(ChatState(status), [a("1", "ab")]) is None
    assert turn.recovered(ChatState(status), [a("1", "ab")], final=True) is None
    assert turn.phase == "recovering"


@pytest.mark.parametrize("record", [[], [a("2", "other")], [a("1", "ab")], [a("1", "")]])
def test_a_list_that_lags_behind_what_was_streamed_is_not_believed_at_first(record: list[Item]) -> None:
    turn = broken(d("1", "abc"))
    assert turn.recovered(COMPLETED, record) is None
    assert turn.recovered(COMPLETED, [a("1", "abcd")]) == [piece("d"), completed("abcd")]


def test_an_empty_list_for_a_turn_that_said_nothing_is_not_believed_at_first() -> None:
    turn = broken()
    assert turn.recovered(COMPLETED, []) is None
    assert turn.recovered(COMPLETED, [Suggestion("5", "q")]) is None
    assert turn.recovered(COMPLETED, [a("1", "x")]) == [piece("x"), completed("x")]


def test_in_the_end_a_shorter_record_of_an_answer_is_taken() -> None:
    assert broken(d("1", "abc")).recovered(COMPLETED, [a("1", "ab")], final=True) == [anew("ab"), completed("ab")]


def test_in_the_end_an_answer_with_another_id_stands_for_the_lost_one() -> None:
    assert broken(d("1", "abc")).recovered(COMPLETED, [a("9", "abcd")], final=True) == [piece("d"), completed("abcd")]


def test_in_the_end_an_answer_that_was_given_whole_needs_no_record() -> None:
    assert broken(d("1", "a"), a("1", "ab")).recovered(COMPLETED, [], final=True) == [completed("ab")]
    turn = broken(a("1", "a"), d("2", "b"))
    assert turn.recovered(COMPLETED, [a("2", "bc")], final=True) == [piece("c"), completed("a\n\nbc")]


@pytest.mark.parametrize("record", [[], [a("1", "whole")]])
def test_in_the_end_an_answer_cut_short_whose_rest_cannot_be_had_is_a_failure(record: list[Item]) -> None:
    turn = broken(a("1", "whole"), d("2", "hal"))
    failed = last(turn.recovered(COMPLETED, record, final=True) or [])
    assert isinstance(failed, Failed)
    assert (failed.code, failed.content) == ("upstream_failed", "whole\n\nhal")


def test_in_the_end_an_empty_record_of_a_turn_that_said_nothing_is_an_empty_answer() -> None:
    turn = broken(Reasoning("1", "hm"))
    failed = last(turn.recovered(COMPLETED, [], final=True) or [])
    assert isinstance(failed, Failed)
    assert failed.code == "upstream_empty"


# Other outcomes


def test_a_chat_that_failed_meanwhile_fails_the_turn_with_cozes_code() -> None:
    turn = broken(d("1", "a"), d("2", "b"), d("1", "c"))
    events = turn.recovered(ChatState("failed", failure=ChatFailed(4028, "quota")), []) or []
    failed = last(events)
    assert isinstance(failed, Failed)
    assert (failed.code, failed.upstream, failed.content) == ("upstream_rejected", {"code": 4028}, "ac\n\nb")
    assert events[0] == anew("ac\n\nb")


def test_a_failed_chat_without_a_reason_may_be_tried_again() -> None:
    failed = last(broken().recovered(ChatState("failed"), []) or [])
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == ("upstream_failed", True)


def test_a_chat_that_was_cancelled_meanwhile_cancels_the_turn() -> None:
    assert broken(d("1", "a")).recovered(ChatState("canceled"), []) == [Cancelled(CONVERSATION, TURN, "a")]


def test_a_chat_that_waits_for_tools_makes_the_turn_wait_with_what_was_lost_before() -> None:
    turn = broken(d("1", "Let me"))
    record: list[Item] = [a("1", "Let me see."), a("2", "{}", "card"), Tool("3", "call", "n", "{}")]
    assert turn.recovered(ChatState("requires_action", tool_calls=tuple(CALLS)), record) == [
        piece(" see."),
        Message("{}", content_type="card"),
        ActionNeeded(CALLS),
    ]
    assert turn.phase == "action_required"
    turn.outputs_given()
    assert turn.take([d("4", "Done"), a("4", "Done"), ChatCompleted(None), Done()]) == [
        piece("\n\nDone"),
        completed("Let me see.\n\nDone"),
    ]


def test_a_turn_that_is_over_cannot_be_recovered_again() -> None:
    turn = broken(d("1", "a"))
    turn.cancel()
    assert turn.recovered(COMPLETED, [a("1", "ab")]) == []


# Cards and suggestions


def test_missing_cards_and_suggestions_are_shown_and_known_ones_are_not() -> None:
    turn = broken(
        d("1", "a"), a("2", "{1}", "card"), a("0", "{2}", "card"), Suggestion("5", "q1"), Suggestion("0", "q2")
    )
    record: list[Item] = [
        a("1", "a"),
        a("2", "{rewritten}", "card"),
        a("0", "{2}", "card"),
        a("4", "{3}", "object_string"),
        Suggestion("5", "q1"),
        Suggestion("6", "q2"),
        Suggestion("7", "q3"),
    ]
    assert turn.recovered(COMPLETED, record) == [
        Message("{3}", content_type="object_string"),
        FollowUp("q3"),
        completed("a"),
    ]


def test_two_cards_that_look_the_same_are_two() -> None:
    turn = broken(a("1", "{}", "card"))
    assert turn.recovered(COMPLETED, [a("1", "{}", "card"), a("2", "{}", "card")]) == [
        Message("{}", content_type="card"),
        completed(""),
    ]


def test_a_card_whose_event_outlived_its_id_is_known_by_its_content() -> None:
    assert unseen([a("1", "x", "card"), a("2", "x", "card")], seen=["1"], shown=["x", "x"]) == []
    assert unseen([a("2", "x", "card"), a("1", "x", "card")], seen=["1"], shown=["x"]) == [a("2", "x", "card")]


def test_recorded_audio_is_not_shown() -> None:
    assert broken(d("1", "a")).recovered(COMPLETED, [a("1", "a"), a("2", "AA==", "audio")]) == [completed("a")]


def test_matching_says_what_is_missing_and_what_is_cut_short() -> None:
    whole, half = Part("1", "a", whole=True), Part("2", "b")
    assert match([whole, half], [a("2", "bc")]).answers == [("1", "a"), ("2", "bc")]
    assert match([Part("", "b")], [a("0", "a"), a("0", "bc")]).answers == [("", "bc"), ("", "a")]
    found = match([whole, half], [a("1", "a")])
    assert (found.answers, found.missing, found.cut_short) == ([("1", "a")], True, True)
    found = match([whole, half], [a("3", "c")])
    assert (found.answers, found.missing, found.cut_short) == ([("1", "a"), ("3", "c")], True, False)


# After a crash


def after_crash(turn: Turn, events: list[Any], **kept: Any) -> Turn:
    """What a new process makes of the log, the memory having been on disk."""
    return restored(json.decode(json.encode(turn.memory), type=Memory), events, **kept)


def test_a_restored_turn_goes_on_from_what_its_log_holds() -> None:
    turn = begun()
    events = turn.take([Reasoning("1", "hm"), d("1", "a"), a("1", "a"), d("2", "b"), Suggestion("3", "q")])
    again = after_crash(turn, events, reasoning="hm", suggestions=["q"])
    assert (again.phase, again.ref, again.content, again.reasoning) == ("recovering", turn.ref, "a\n\nb", "hm")
    assert again.recovered(COMPLETED, [a("2", "bc"), a("1", "a"), Suggestion("3", "q"), Suggestion("4", "r")]) == [
        piece("c"),
        FollowUp("r"),
        completed("a\n\nbc"),
    ]


def test_a_turn_killed_before_its_first_piece_gets_the_whole_answer() -> None:
    again = after_crash(begun(), [])
    assert again.recovered(COMPLETED, [a("1", "all")]) == [piece("all"), completed("all")]


def test_a_turn_killed_before_coze_gave_the_chats_id_is_uncertain() -> None:
    again = restored(Memory())
    assert again.phase == "starting"
    failed = last(again.stream_ended(StreamEnd.BROKEN))
    assert isinstance(failed, Failed)
    assert failed.code == "upstream_uncertain"


def test_a_turn_killed_without_a_chats_id_but_with_text_has_failed() -> None:
    again = restored(Memory(), [piece("half")])
    failed = last(again.stream_ended(StreamEnd.BROKEN))
    assert isinstance(failed, Failed)
    assert (failed.code, failed.content) == ("upstream_failed", "half")


def test_a_demand_for_tool_outputs_is_not_repeated_after_a_crash() -> None:
    turn = begun()
    turn.take([ActionRequired(CALLS)])
    again = after_crash(turn, [], tool_calls=CALLS)
    assert again.recovered(ChatState("requires_action", tool_calls=tuple(CALLS)), []) == []
    assert (again.phase, again.tool_calls) == ("action_required", CALLS)
    other = after_crash(begun(), [])
    assert other.recovered(ChatState("requires_action", tool_calls=tuple(CALLS)), []) == [ActionNeeded(CALLS)]


def test_outputs_given_before_a_crash_are_handed_over_after_it() -> None:
    turn = begun()
    events = turn.take([d("1", "Let me see."), ActionRequired(CALLS), Done()])
    turn.outputs_given()
    again = after_crash(turn, events)
    again.outputs_given()
    assert again.phase == "streaming"
    assert again.take([d("2", "Done"), a("2", "Done"), ChatCompleted(None), Done()]) == [
        piece("\n\nDone"),
        completed("Let me see.\n\nDone"),
    ]


def test_tools_shown_before_a_crash_are_not_shown_again_after_it() -> None:
    turn = begun()
    turn.take([Tool("1", "call", "n", "{}"), ActionRequired(CALLS)])
    again = after_crash(turn, [], tool_calls=CALLS)
    again.recovered(ChatState("requires_action", tool_calls=tuple(CALLS)), [])
    again.outputs_given()
    assert again.take([BORN, Tool("1", "call", "n", "{}")]) == []


@pytest.mark.parametrize("kept", [{"cards": ["{}"]}, {"audio": True}])
def test_a_card_or_audio_before_a_crash_is_an_answer_after_it(kept: dict[str, Any]) -> None:
    turn = begun()
    assert after_crash(turn, [], **kept).recovered(COMPLETED, [], final=True) == [completed("")]


def test_a_memory_older_or_newer_than_the_log_costs_no_text() -> None:
    shown = [piece("a"), piece("\n\nb")]
    for answers in ([], [("1", 0)], [("1", 0), ("2", 3)], [("1", 0), ("2", 3), ("3", 6)], [("1", 0), ("2", 2)]):
        again = restored(Memory("chat-1", "coze-1", answers), shown)
        assert again.recovered(COMPLETED, [a("1", "a"), a("2", "bc"), a("3", "d")]) == [
            piece("c\n\nd"),
            completed("a\n\nbc\n\nd"),
        ]


def test_memories_of_two_turns_share_nothing() -> None:
    one, other = new_turn(), new_turn()
    one.take([BORN, a("1", "{}", "card")])
    assert other.memory == Memory()


def test_matching_ten_thousand_answers_costs_a_moment() -> None:
    parts = [Part("", f"{number}x") for number in range(1000)]
    record = [a("", f"{number}") for number in range(10_000)]
    began = time.process_time()
    assert len(match(parts, record).answers) == 10_000
    assert (
        len(match([Part(str(n), "x") for n in range(1000)], [a(str(n), "y") for n in range(10_000)]).answers) == 10_000
    )
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("count", [1_001, 10_001])
def test_a_record_of_too_much_fails_the_turn(count: int) -> None:
    turn = broken(d("1", "x"))
    messages: list[Item] = [a(str(n + 1), "x") for n in range(count)]
    failed = last(turn.recovered(ChatState("completed"), messages) or [])
    assert isinstance(failed, Failed)
    assert (failed.code, failed.content) == ("upstream_failed", "x")
    assert turn.overfull


def test_a_text_of_the_record_that_is_too_long_fails_the_turn() -> None:
    turn = broken(d("1", "x"))
    failed = last(turn.recovered(ChatState("completed"), [a("1", "x" * (TEXT_BYTES + 1))]) or [])
    assert isinstance(failed, Failed)
    assert (failed.content, turn.overfull) == ("x", True)
