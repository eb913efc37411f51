"""Surrogate pairs that Coze sends in two halves: read as the character that they are, wherever the cut is."""

import json
from typing import Any

import pytest

from gateway.events import Completed
from gateway.turns.turn import Turn
from gateway.upstream.coze_protocol import ChatReader
from gateway.upstream.protocol import Answer, ChatCompleted, Created, Delta, Done, Item, Reasoning, StreamEnd
from gateway.upstream.sse import SseDecoder
from gateway.upstream.surrogates import HALVES_LIMIT, mend, mend_inside
from tests.turns import fold, last, new_turn

CREATED = {"id": "7", "conversation_id": "8"}


def record(event: str, **fields: Any) -> bytes:
    return f"event:conversation.{event}\ndata:{json.dumps(fields)}\n\n".encode()


def piece(text: str, message_id: str = "9", *, reasoning: bool = False) -> bytes:
    said = {"content": "", "reasoning_content": text} if reasoning else {"content": text}
    return record("message.delta", id=message_id, type="answer", content_type="text", chat_id="7", **said)


def whole(text: str, message_id: str = "9") -> bytes:
    return record("message.completed", id=message_id, type="answer", content_type="text", chat_id="7", content=text)


BORN, OVER = record("chat.created", **CREATED), record("chat.completed", **CREATED)
DONE = b'event:done\ndata:"[DONE]"\n\n'


def items_of(*records: bytes, size: int = 10**9) -> list[Item]:
    decoder, reader = SseDecoder(), ChatReader()
    text = b"".join(records)
    items: list[Item] = []
    for at in range(0, len(text), size):
        items += reader.items(decoder.feed(text[at : at + size]))
    return items


def played(*records: bytes) -> tuple[Turn, str, Completed]:
    """The turn, the text that its readers have, and its last event; the same however the bytes are cut."""
    turns = []
    for size in (1, 7, 10**9):
        turn = new_turn()
        events = turn.take(items_of(BORN, *records, OVER, DONE, size=size))
        events += turn.stream_ended(StreamEnd.FINISHED)
        end = last(events)
        assert isinstance(end, Completed)
        assert end.content == fold(events) == turn.content
        end.content.encode()
        turns.append((turn, fold(events), end))
    assert turns[0][1] == turns[1][1] == turns[2][1]
    return turns[0]


def test_a_pair_split_over_two_pieces_comes_once_with_the_second() -> None:
    items = items_of(piece("a\ud83d"), piece("\ude00b"))
    assert items == [Delta("9", "a"), Delta("9", "😀b")]
    assert items_of(piece("\ud83d"), piece("\ude00")) == [Delta("9", "😀")]


def test_a_chain_of_halves_makes_each_character() -> None:
    flag = "🇩🇪".encode("utf-16-le")
    halves = [flag[i : i + 2].decode("utf-16-le", "surrogatepass") for i in range(0, len(flag), 2)]
    assert fold_deltas(items_of(*map(piece, halves))) == "🇩🇪"
    assert items_of(piece("\ud83d"), piece("\ude00\ud83d"), piece("\ude01!")) == [Delta("9", "😀"), Delta("9", "😁!")]


def fold_deltas(items: list[Item]) -> str:
    return "".join(item.text for item in items if isinstance(item, Delta))


def test_a_pair_split_in_the_thinking_is_one_too() -> None:
    items = items_of(piece("hm\ud83d", reasoning=True), piece("\ude00", reasoning=True), piece("x"))
    assert items == [Reasoning("9", "hm"), Reasoning("9", "😀"), Delta("9", "x")]


def test_halves_of_the_thinking_and_of_the_answer_are_strangers() -> None:
    items = items_of(piece("a\ud83d", reasoning=True), piece("\ude00b"), OVER)
    assert items[:2] == [Reasoning("9", "a"), Delta("9", "\ufffdb")]
    assert [i for i in items if isinstance(i, Reasoning)] == [Reasoning("9", "a"), Reasoning("9", "\ufffd")]


def test_halves_of_two_answers_are_strangers() -> None:
    mixed = items_of(piece("a\ud83d", "1"), piece("b\ud83d", "2"), piece("\ude00", "1"), piece("\ude01", "2"))
    assert mixed == [Delta("1", "a"), Delta("2", "b"), Delta("1", "😀"), Delta("2", "😁")]


def test_records_between_two_halves_do_not_part_them() -> None:
    verbose = record("message.completed", id="5", type="verbose", content="{}", chat_id="7")
    turn, text, _ = played(piece("a\ud83d"), verbose, b": ping\n\n", piece("\ude00b"), whole("a😀b"))
    assert text == "a😀b"
    assert len(turn._answers.parts) == 1


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ([piece("a\ud83d"), whole("a😀")], "a😀"),
        ([piece("a\ud83d"), whole("a😀b")], "a😀b"),
        ([piece("a\ud83d"), whole("a\ud83d")], "a\ufffd"),
        ([piece("a\ud83d"), whole("a")], "a"),
        ([piece("a\ud83d"), whole("a😀", "")], "a😀"),
        ([piece("a\ud83d", ""), whole("a😀", "9")], "a😀"),
        ([piece("a\ud83d")], "a\ufffd"),
        ([piece("\ud83d")], "\ufffd"),
        ([piece("\ude00b")], "\ufffdb"),
        ([piece("a\ud83d"), piece("b"), whole("a\ufffdb")], "a\ufffdb"),
        ([piece("a\ud83d"), piece("b")], "a\ufffdb"),
        ([piece("a\ud83d"), piece("\ud83d\ude00")], "a\ufffd😀"),
        ([piece("a\ud83d", "1"), piece("b", "2")], "a\ufffd\n\nb"),
    ],
)
def test_the_log_and_the_last_event_have_the_same_text(records: list[bytes], text: str) -> None:
    assert played(*records)[1] == text


def test_the_old_form_splits_them_too() -> None:
    def old(text: str) -> bytes:
        message = {"role": "assistant", "type": "answer", "content": text, "content_type": "text"}
        return f"data:{json.dumps({'event': 'message', 'message': message, 'index': 0})}\n\n".encode()

    done = b'data:{"event":"done"}\n\n'
    assert items_of(old("a\ud83d"), old("\ude00"), done) == [
        Delta("0", "a"),
        Delta("0", "😀"),
        ChatCompleted(None),
        Done(),
    ]
    assert items_of(old("a\ud83d"), done)[:2] == [Delta("0", "a"), Delta("0", "\ufffd")]


def test_where_the_stream_breaks_the_record_has_the_rest() -> None:
    assert items_of(BORN, piece("a\ud83d"), DONE) == [Created("7", "8"), Delta("9", "a"), Done()]
    assert items_of(piece("a\ud83d"), DONE) == [Delta("9", "a"), Delta("9", "\ufffd"), Done()], "there is no record"


def test_a_failure_shows_what_was_held_back() -> None:
    for failure in (
        record("chat.failed", code=4000),
        b'event:error\ndata:{"code":4000}\n\n',
        b'data:{"code":4000}\n\n',
    ):
        assert items_of(piece("a\ud83d"), failure)[1] == Delta("9", "\ufffd")


def test_a_whole_message_holds_nothing_back() -> None:
    assert items_of(whole("a\ud83d")) == [Answer("9", "a\ufffd", "text")]


def test_ids_and_names_hold_no_half() -> None:
    [item] = items_of(piece("a\ud83d", "9\ud83d"))
    assert item == Delta("9\ufffd", "a")


def test_no_more_halves_are_held_than_the_limit() -> None:
    items = items_of(*(piece("\ud83d", str(number)) for number in range(HALVES_LIMIT + 5)))
    assert items == [Delta(str(number), "\ufffd") for number in range(HALVES_LIMIT, HALVES_LIMIT + 5)]


@pytest.mark.parametrize(
    ("text", "mended", "inside"),
    [
        ("", "", ""),
        ("\ud83d", "\ufffd", "\ud83d"),
        ("\ude00b", "\ufffdb", "\ude00b"),
        ("\ude00\ud83d", "\ufffd\ufffd", "\ude00\ud83d"),
        ("\ud83d\ude00", "😀", "😀"),
        ("x\ud83dy", "x\ufffdy", "x\ufffdy"),
        ("\ude00x\ud83d", "\ufffdx\ufffd", "\ude00x\ud83d"),
    ],
)
def test_halves_are_mended_but_for_the_edges(text: str, mended: str, inside: str) -> None:
    assert mend(text) == mended
    assert mend_inside(text) == inside
