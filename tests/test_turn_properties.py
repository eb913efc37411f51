"""What holds for every turn, whatever Coze sends and whatever happens to it."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from msgspec import json

from gateway.errors import Code, UpstreamError
from gateway.events import Cancelled, Completed, Event, Failed, Message
from gateway.turns.answer import SEPARATOR
from gateway.turns.turn import Memory, Turn
from gateway.upstream.protocol import (
    ActionRequired,
    Answer,
    Audio,
    ChatCanceled,
    ChatCompleted,
    ChatFailed,
    ChatState,
    Created,
    Delta,
    Done,
    Item,
    Reasoning,
    Skipped,
    StreamEnd,
    Suggestion,
    Tool,
)
from tests.turns import BORN, COMPLETED, begun, fold, new_turn, restored

IDS = st.sampled_from(["", "0", "1", "2", "3"])
TEXTS = st.one_of(st.sampled_from(["", "a", "ab", "\n\n", "\0", "\r\n", "湖", "👩‍👧"]), st.text(max_size=4))
CONTENT: st.SearchStrategy[Item] = st.one_of(
    st.builds(Delta, IDS, TEXTS),
    st.builds(Delta, IDS, TEXTS),
    st.builds(Answer, IDS, TEXTS, st.sampled_from(["text", "text", "", "card", "object_string", "audio"])),
    st.builds(Reasoning, IDS, TEXTS),
    st.builds(Audio, TEXTS),
    st.builds(Tool, IDS, st.sampled_from(["call", "output"]), TEXTS, TEXTS),
    st.builds(Suggestion, IDS, TEXTS),
    st.builds(Skipped, st.just("malformed")),
)
QUESTIONS = st.sampled_from([None, "", "a", "湖?"])
TURNING: st.SearchStrategy[Item] = st.one_of(
    st.builds(Created, IDS, IDS),
    st.builds(ActionRequired, st.sampled_from([[], [{"id": "c"}]]), QUESTIONS),
    st.builds(ChatCompleted, st.sampled_from([None, {"token_count": 1}])),
    st.builds(ChatFailed, st.sampled_from([None, 0, 4000, 4009, 5000]), TEXTS),
    st.just(ChatCanceled()),
    st.just(Done()),
)
ITEMS = st.lists(st.one_of(CONTENT, CONTENT, CONTENT, TURNING), max_size=12)
STATES = st.builds(
    ChatState,
    st.sampled_from(["created", "in_progress", "completed", "failed", "canceled", "requires_action"]),
    st.sampled_from([None, {"token_count": 2}]),
    st.sampled_from([None, ChatFailed(4028, "")]),
    st.sampled_from([(), ({"id": "c"},)]),
    QUESTIONS,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), ITEMS),
        st.tuples(st.just("take"), ITEMS),
        st.tuples(st.just("stream_ended"), st.sampled_from(StreamEnd)),
        st.tuples(st.just("settled"), st.none()),
        st.tuples(st.just("outputs_given"), st.none()),
        st.tuples(st.just("retrying"), st.none()),
        st.tuples(st.just("recovered"), st.tuples(STATES, st.lists(CONTENT, max_size=6), st.booleans())),
        st.tuples(st.just("cancel"), st.none()),
        st.tuples(st.just("fail"), st.none()),
    ),
    max_size=8,
)


def walk(turn: Turn, steps: list[tuple[str, object]]) -> list[Event]:
    """Does `steps` to the turn, in the phases in which a runner would."""
    events: list[Event] = []
    for name, argument in steps:
        match name, argument:
            case "take", list(items):
                events += turn.take(items)
            case "stream_ended", StreamEnd() as end:
                events += turn.stream_ended(end)
            case "recovered", (ChatState() as state, list(record), bool(final)):
                if turn.phase in ("recovering", "ended"):
                    events += turn.recovered(state, record, final=final) or []
            case "retrying", _:
                events += turn.retrying(1, 100)
            case "fail", _:
                events += turn.fail(UpstreamError(Code.UPSTREAM_TIMEOUT))
            case _:
                events += getattr(turn, name)()
        assert turn.content == fold(events)
        assert turn.memory.answers == turn._answers.starts() or turn.phase == "ended"
    return events


@given(STEPS)
def test_a_turn_has_one_last_event_that_says_what_its_pieces_make(steps: list[tuple[str, object]]) -> None:
    turn = new_turn()
    events = walk(turn, steps)
    if turn.phase != "ended":
        assert not any(isinstance(event, Completed | Cancelled | Failed) for event in events)
        assert turn.outcome is None
        events += turn.cancel()
    ends = [event for event in events if isinstance(event, Completed | Cancelled | Failed)]
    assert ends == events[-1:]
    assert ends[0].content == fold(events) == turn.content
    assert turn.outcome is not None
    assert isinstance(ends[0], Failed) is (turn.failure is not None) is (turn.outcome == "failed")
    assert walk_on(turn) == []


def walk_on(turn: Turn) -> list[Event]:
    """Everything that could still happen to a turn that is over."""
    late: list[Item] = [BORN, Delta("1", "x"), Answer("9", "y", "card"), Audio("z"), ChatCompleted(None), Done()]
    return [
        *turn.take(late),
        *turn.stream_ended(StreamEnd.BROKEN),
        *turn.settled(),
        *turn.outputs_given(),
        *turn.retrying(1, 1),
        *(turn.recovered(COMPLETED, [Answer("1", "x", "text")]) or []),
        *turn.fail(UpstreamError(Code.INTERNAL)),
        *turn.cancel(),
    ]


@given(STEPS)
def test_an_answer_with_nothing_in_it_is_never_completed(steps: list[tuple[str, object]]) -> None:
    """But for a question whose words Coze doesn't say."""
    events = walk(new_turn(), steps)
    if any(isinstance(event, Completed) and not event.awaiting_reply for event in events):
        kinds = {type(event).__name__ for event in events if not isinstance(event, Message) or not event.replace}
        assert fold(events) or "Message" in kinds or "AudioPiece" in kinds


@st.composite
def mangled(draw: st.DrawFn) -> tuple[list[Item], list[Answer]]:
    """A stream of several answers whose pieces are doubled, lost, shuffled and mixed, and Coze's record of it.

    Each answer's last word is its whole text; one may have no pieces, another no surviving one.
    """
    texts = draw(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=3))
    record = [Answer(str(number), text, "text") for number, text in enumerate(texts, start=1)]
    rows: list[list[Item]] = []
    for answer in record:
        pieces = [Delta(answer.message_id, char) for char in answer.content]
        fault = draw(st.sampled_from(["none", "doubled", "lost", "shuffled", "rewritten"]))
        match fault:
            case "doubled":
                pieces = [piece for piece in pieces for _ in range(2)]
            case "lost":
                pieces = pieces[: draw(st.integers(0, len(pieces)))]
            case "shuffled":
                pieces = list(draw(st.permutations(pieces)))
            case "rewritten":
                pieces = [Delta(answer.message_id, "another text")]
            case _:
                pass
        late: list[Item] = [answer, Delta(answer.message_id, "late")]
        rows.append([*pieces, answer, *draw(st.lists(st.sampled_from(late), max_size=2))])
    items: list[Item] = []
    while rows := [row for row in rows if row]:
        row = rows[0] if draw(st.booleans()) else draw(st.sampled_from(rows))
        items.append(row.pop(0))
    return items, record


def expected(items: Sequence[Item], record: list[Answer]) -> str:
    """The record's texts, in the order in which the stream first mentioned them."""
    texts = {answer.message_id: answer.content for answer in record}
    order = dict.fromkeys(item.message_id for item in items if isinstance(item, Delta | Answer))
    return SEPARATOR.join(texts[message_id] for message_id in [*order, *(key for key in texts if key not in order)])


@given(mangled(), st.data())
def test_whatever_happens_to_the_pieces_the_text_ends_as_coze_completed_it(
    stream: tuple[list[Item], list[Answer]], data: st.DataObject
) -> None:
    items, record = stream
    turn = begun()
    events: list[Event] = []
    while items:
        size = data.draw(st.integers(1, len(items)))
        batch, items = items[:size], items[size:]
        events += turn.take(batch)
    events += turn.take([ChatCompleted(None), Done()])
    assert isinstance(events[-1], Completed)
    assert fold(events) == events[-1].content == expected(stream[0], record)
    assert not events[-1].recovered


@given(mangled(), st.data())
def test_a_stream_cut_anywhere_ends_as_coze_completed_it(
    stream: tuple[list[Item], list[Answer]], data: st.DataObject
) -> None:
    items, record = stream
    seen = items[: data.draw(st.integers(0, len(items)))]
    turn = begun()
    events = turn.take(seen) + turn.stream_ended(StreamEnd.BROKEN)
    assert turn.recovered(ChatState("in_progress"), []) is None
    in_any_order = data.draw(st.permutations(record)) if len(record) > 1 else record
    recovered = turn.recovered(COMPLETED, in_any_order)
    if recovered is None:  # what was shown is longer, and begins like it: the list might lag
        recovered = turn.recovered(COMPLETED, in_any_order, final=True)
    assert recovered is not None
    events += recovered
    assert isinstance(events[-1], Completed)
    streamed = dict.fromkeys(item.message_id for item in seen if isinstance(item, Delta | Answer))
    order: list[Item] = [*(Delta(message_id, "") for message_id in streamed), *in_any_order]
    assert fold(events) == events[-1].content == expected(order, record)


@given(mangled(), st.data())
def test_a_process_killed_anywhere_changes_no_character_of_the_end(
    stream: tuple[list[Item], list[Answer]], data: st.DataObject
) -> None:
    items, record = stream
    turn = begun()
    memories: list[bytes] = [json.encode(turn.memory)]
    logs: list[list[Event]] = [[]]
    for item in items[: data.draw(st.integers(0, len(items)))]:
        logs.append([*logs[-1], *turn.take([item])])
        memories.append(json.encode(turn.memory))
    memory = json.decode(data.draw(st.sampled_from(memories[-2:])), type=Memory)  # the last change of one may be lost
    events = data.draw(st.sampled_from(logs[-2:]))
    again = restored(memory, events)
    assert again.content == fold(events)
    events += again.recovered(COMPLETED, record, final=True) or []
    assert isinstance(events[-1], Completed)
    assert fold(events) == events[-1].content
    assert sorted(events[-1].content) == sorted(SEPARATOR.join(answer.content for answer in record))
