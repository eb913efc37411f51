"""A turn that runs a workflow: which events follow, and what is kept of it."""

from gateway.events import ActionNeeded, Completed, Failed, NodeChange
from gateway.sentences import run_lost
from gateway.turns.turn import Memory
from gateway.upstream.protocol import ActionRequired, ChatCompleted, ChatFailed, Done, Item, StreamEnd
from gateway.upstream.runs import Node, RunBegun
from tests.turns import d, fold, last, new_turn, piece, restored

CALL = {"id": "7/2", "type": "interrupt", "function": {"name": "n", "arguments": ""}, "interruptType": 2}
SAID: list[Item] = [
    *(RunBegun(), Node("n", "1", False), d("", "a")),
    *(Node("n", "1", True), d("", "b"), Node("E", "2", True), d("", "c")),
]
OVER: list[Item] = [ChatCompleted({"token_count": 1}), Done()]


def test_nodes_stand_before_their_text_and_the_text_is_one_answer() -> None:
    turn = new_turn()
    events = turn.take([*SAID, *OVER])
    first, again, end = NodeChange("n", "1", False), NodeChange("n", "1", True), NodeChange("E", "2", True)
    assert events[:-1] == [first, piece("a"), again, piece("b"), end, piece("c")]
    assert events[-1] == Completed("conv_1", "turn_1", "abc", {"token_count": 1}, False)
    assert turn.memory.run == "going"


def test_a_run_that_said_nothing_is_complete_once_coze_says_so() -> None:
    assert isinstance(last(new_turn().take([RunBegun(), *OVER])), Completed)


def test_a_run_that_broke_says_what_it_said_and_that_it_may_still_go_on() -> None:
    for end in (StreamEnd.EOF, StreamEnd.BROKEN, StreamEnd.IDLE):
        turn = new_turn()
        events = turn.take(SAID) + turn.stream_ended(end)
        failure = last(events)
        assert isinstance(failure, Failed)
        assert (failure.code, failure.content, failure.error) == ("upstream_failed", "abc", run_lost("en"))
        assert fold(events) == "abc"
    turn = new_turn()
    turn.take([RunBegun()])
    assert isinstance(failure := last(turn.stream_ended(StreamEnd.EOF)), Failed)
    assert failure.code == "upstream_failed"


def test_before_its_first_record_nobody_knows_whether_it_runs() -> None:
    assert isinstance(failure := last(new_turn().stream_ended(StreamEnd.EOF)), Failed)
    assert failure.code == "upstream_uncertain"


def test_a_failure_of_cozes_is_told_as_such() -> None:
    turn = new_turn()
    assert isinstance(failure := last(turn.take([*SAID, ChatFailed(4000, "m", True)])), Failed)
    assert (failure.code, failure.upstream, failure.content) == ("upstream_rejected", {"code": 4000}, "abc")
    assert failure.error != run_lost("en")
    turn = new_turn()
    turn.take([RunBegun()])
    assert isinstance(failure := last(turn.stream_ended(StreamEnd.FAILING)), Failed)
    assert failure.error != run_lost("en")


def test_an_interrupt_waits_through_the_end_of_its_stream_and_goes_on_in_another() -> None:
    turn = new_turn()
    assert turn.take([RunBegun(), d("", "?"), ActionRequired([CALL])]) == [piece("?"), ActionNeeded([CALL])]
    assert (turn.phase, turn.memory.run) == ("action_required", "waiting")
    assert turn.stream_ended(StreamEnd.EOF) == []
    turn.memory_changed = False
    assert turn.outputs_given() == []
    assert (turn.phase, turn.memory.run, turn.memory_changed) == ("streaming", "going", True)
    other = CALL | {"id": "7/3"}
    assert turn.take([RunBegun(), ActionRequired([other])]) == [ActionNeeded([other])]
    turn.outputs_given()
    assert turn.take([RunBegun(), d("", "!"), *OVER])[-1] == Completed(
        "conv_1", "turn_1", "?!", {"token_count": 1}, False
    )


def test_a_waiting_run_outlives_its_process_and_a_going_one_does_not() -> None:
    waits = restored(Memory(run="waiting"), [piece("?")], tool_calls=[CALL])
    assert (waits.phase, waits.tool_calls) == ("action_required", [CALL])
    waits.outputs_given()
    assert last(waits.take([RunBegun(), d("", "!"), *OVER])).content == "?!"
    for events in ([piece("a")], []):
        goes = restored(Memory(run="going"), events)
        assert goes.phase == "streaming"
        assert isinstance(failure := last(goes.stream_ended(StreamEnd.BROKEN)), Failed)
        assert (failure.code, failure.content, failure.error) == ("upstream_failed", fold(events), run_lost("en"))


def test_a_cancelled_run_has_nothing_to_tell_coze() -> None:
    turn = new_turn()
    turn.take(SAID)
    assert last(turn.cancel()).content == "abc"
    assert turn.ref is None
