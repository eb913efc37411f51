"""The text of one turn, put together from what Coze streams."""

from gateway.events import Event
from gateway.turns.answer import Answers
from gateway.upstream.protocol import ChatCompleted, Done
from tests.turns import a, anew, begun, d, fold, piece


def shown(*items: object) -> tuple[list[Event], str]:
    turn = begun()
    events = turn.take(list(items))  # type: ignore[arg-type]
    assert fold(events) == turn.content
    return events, turn.content


def test_pieces_of_an_answer_pass_as_they_are() -> None:
    assert shown(d("1", "西"), d("1", "湖"), a("1", "西湖", "text")) == ([piece("西"), piece("湖")], "西湖")


def test_a_whole_answer_adds_what_its_pieces_left_out() -> None:
    assert shown(d("1", "ab"), a("1", "abcd")) == ([piece("ab"), piece("cd")], "abcd")


def test_a_whole_answer_that_says_something_else_replaces_the_text() -> None:
    assert shown(d("1", "50$\\%$"), a("1", "50%"))[0] == [piece("50$\\%$"), anew("50%")]


def test_a_whole_answer_shorter_than_its_pieces_replaces_the_text() -> None:
    assert shown(d("1", "abc"), a("1", "ab"))[0] == [piece("abc"), anew("ab")]


def test_an_answer_without_pieces_is_one_piece() -> None:
    assert shown(a("1", "all at once"))[0] == [piece("all at once")]


def test_empty_pieces_and_empty_answers_show_nothing_and_need_no_blank_line() -> None:
    assert shown(d("1", ""), a("2", ""), d("3", "x"), a("4", ""), d("3", "y"))[0] == [piece("x"), piece("y")]


def test_answers_are_parted_by_a_blank_line_that_is_part_of_the_text() -> None:
    events, text = shown(d("1", "a"), a("1", "a"), d("2", "b"), d("2", "c"), a("2", "bc"), a("3", "d"))
    assert events == [piece("a"), piece("\n\nb"), piece("c"), piece("\n\nd")]
    assert text == "a\n\nbc\n\nd"


def test_the_rest_of_an_earlier_answer_replaces_the_text_in_place() -> None:
    assert shown(d("1", "a"), d("2", "b"), a("1", "ax"))[0][-1] == anew("ax\n\nb")


def test_a_piece_for_an_earlier_answer_is_held_until_that_answer_is_complete() -> None:
    events, _ = shown(d("1", "a"), d("2", "b"), d("1", "c"), d("2", "d"))
    assert events == [piece("a"), piece("\n\nb"), piece("d")]
    events, _ = shown(d("1", "a"), d("2", "b"), d("1", "c"), d("2", "d"), a("1", "ac"))
    assert events[-1] == anew("ac\n\nbd")


def test_what_is_still_held_at_the_end_is_shown_before_the_last_event() -> None:
    turn = begun()
    turn.take([d("1", "a"), d("2", "b"), d("1", "c")])
    events = turn.cancel()
    assert events[0] == anew("ac\n\nb")
    assert len(events) == 2


def test_held_pieces_of_an_answer_without_a_last_word_are_not_lost_when_the_chat_completes() -> None:
    events, text = shown(d("1", "a"), d("2", "b"), d("1", "c"), ChatCompleted(None), Done())
    assert events[-2] == anew("ac\n\nb")
    assert text == "ac\n\nb"


def test_held_pieces_that_the_whole_answer_contradicts_change_nothing() -> None:
    assert shown(d("1", "a"), d("2", "b"), d("1", "a"), a("1", "a"), a("2", "b"))[0] == [piece("a"), piece("\n\nb")]
    assert shown(d("1", "a"), d("2", "b"), d("1", "x"), a("1", "a"), a("2", "c"))[0][-1] == anew("a\n\nc")


def test_doubled_lost_and_shuffled_pieces_end_as_the_whole_answer() -> None:
    assert shown(d("1", "a"), d("1", "a"), d("1", "b"), a("1", "ab"))[1] == "ab"
    assert shown(d("1", "b"), d("1", "a"), a("1", "ab"))[1] == "ab"
    assert shown(d("1", "a"), d("1", "c"), a("1", "abc"))[1] == "abc"


def test_what_comes_for_an_answer_after_it_was_whole_is_ignored() -> None:
    events, text = shown(d("1", "a"), a("1", "a"), d("1", "late"), a("1", "a"), a("1", "other"))
    assert events == [piece("a")]
    assert text == "a"


def test_an_answer_that_coze_takes_back_leaves_the_text() -> None:
    assert shown(d("1", "a"), d("2", "b"), a("1", ""))[0][-1] == anew("b")
    assert shown(d("1", "a"), a("1", ""), d("2", "b"))[0] == [piece("a"), anew(""), piece("b")]


def test_pieces_without_an_id_are_one_answer_until_it_is_whole() -> None:
    events, text = shown(d("", "a"), d("0", "b"), a("0", "ab"), d("0", "c"), a("", "cd"))
    assert events == [piece("a"), piece("b"), piece("\n\nc"), piece("d")]
    assert text == "ab\n\ncd"


def test_a_whole_answer_with_an_id_completes_pieces_that_had_none() -> None:
    assert shown(d("0", "a"), a("9", "ab"), d("9", "late"), d("0", "c"))[1] == "ab\n\nc"
    turn = begun()
    turn.take([d("0", "a")])
    assert turn.memory.answers == [("", 0)]
    turn.take([a("9", "a")])
    assert turn.memory.answers == [("9", 0)]


def test_a_whole_answer_without_an_id_completes_the_pieces_that_it_begins_with() -> None:
    assert shown(d("9", "a"), a("0", "ab"), d("9", "late"))[1] == "ab"
    assert shown(d("9", "a"), a("0", "zzz"))[1] == "a\n\nzzz"


def test_the_same_whole_answer_twice_without_an_id_counts_once() -> None:
    assert shown(a("0", "x"), a("0", "x"))[0] == [piece("x")]


def test_nul_line_ends_and_separators_are_data() -> None:
    text = "a\0b\r\nc\rd\u2028e\u0085\n\n"
    assert shown(d("1", text), a("1", text)) == ([piece(text)], text)


def test_starts_count_code_points_and_give_the_answers_back() -> None:
    answers = Answers()
    for message_id, text in (("1", "👩‍👩‍👧"), ("2", "b\n\nb"), ("3", "c")):
        answers.delta(message_id, text)
    assert answers.starts() == [("1", 0), ("2", 7), ("3", 13)]
    again = Answers.restore(answers.text, answers.starts())
    assert [(part.id, part.text) for part in again.parts] == [("1", "👩‍👩‍👧"), ("2", "b\n\nb"), ("3", "c")]


def test_starts_that_the_text_contradicts_cost_an_id_and_never_a_character() -> None:
    for starts in ([("1", 0), ("2", 99)], [("1", 0), ("2", 2)], [], [("2", 5)], [("1", 0), ("2", 4)]):
        answers = Answers.restore("abcdef", starts)
        assert answers.text == "abcdef"
    assert Answers.restore("", [("1", 0)]).parts == []
    assert [part.text for part in Answers.restore("\n\nx", [("1", 0), ("2", 2)]).parts] == ["\n\nx"]
