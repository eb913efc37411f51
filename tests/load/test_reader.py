"""The reader finds what is wrong with a text, and only that."""

from collections import Counter
from collections.abc import Sequence

import pytest

from tests.load.reader import Book, Event, Reader

PIECES = [Event("message", id=f"e-{n}", content=f"{100 + n / 10:.6f} ") for n in range(1, 6)]
WHOLE = "".join(piece.content or "" for piece in PIECES)
DONE = Event("completed", id="e-6", content=WHOLE)


def joined(*pieces: Event) -> Event:
    return Event("message", id=pieces[-1].id, content="".join(piece.content or "" for piece in pieces))


def read(events: Sequence[Event], book: Book) -> dict[str, int]:
    wrong: Counter[str] = Counter()
    reader = Reader(book, wrong)
    for event in events:
        reader.take(event)
    return dict(+wrong)


@pytest.mark.parametrize("pieces", [0, 5], ids=["plain text", "text that tells its time"])
def test_readers_that_got_all_of_it_are_right_however_it_was_merged(pieces: int) -> None:
    book = Book(pieces)
    assert read([*PIECES, DONE], book) == {}
    assert read([joined(*PIECES[:3]), joined(*PIECES[3:]), DONE], book) == {}
    assert read([PIECES[0], joined(*PIECES[1:]), DONE], book) == {}


@pytest.mark.parametrize(
    ("events", "wrong"),
    [
        ([*PIECES[:2], *PIECES[3:], DONE], {"lost": 1, "unequal": 1, "differing": 2}),
        ([*PIECES[:3], PIECES[2], *PIECES[3:], DONE], {"doubled": 1, "unequal": 1, "differing": 3}),
        ([PIECES[1], PIECES[0], *PIECES[2:], DONE], {"disordered": 1, "lost": 1, "unequal": 1, "differing": 5}),
    ],
    ids=["lost", "doubled", "disordered"],
)
def test_with_pieces_that_tell_their_time_each_fault_has_its_name(events: list[Event], wrong: dict[str, int]) -> None:
    book = Book(5)
    assert read([*PIECES, DONE], book) == {}
    assert read(events, book) == wrong


def test_pieces_without_a_time_are_known_to_be_repeated_by_their_ids() -> None:
    book = Book()
    read([*PIECES, DONE], book)
    assert read([*PIECES, PIECES[4], DONE], book)["doubled"] == 1


def test_a_text_that_another_reader_does_not_have_at_the_same_id_is_seen() -> None:
    book = Book()
    read(PIECES[:1], book)
    assert read([Event("message", id="e-1", content="another")], book) == {"differing": 1}


def test_an_answer_that_is_not_the_whole_is_seen_by_a_single_reader() -> None:
    assert read([*PIECES[:4], DONE], Book()) == {"unequal": 1}


def test_other_events_that_come_twice_are_seen() -> None:
    suggestion = Event("suggestion", id="e-6", content="And then?")
    assert read([*PIECES, suggestion, Event("suggestion", id="e-7"), suggestion], Book()) == {"doubled": 1}


def test_an_answer_anew_and_a_reset_begin_the_text_anew() -> None:
    anew = Event("message", id="e-7", content="New.", replace=True)
    assert read([*PIECES, anew, Event("completed", id="e-8", content="New.")], Book(5)) == {}
    reset = Event("reset", id="e-4", content=WHOLE[:44])
    assert read([PIECES[0], reset, PIECES[4], DONE], Book(5)) == {"reset": 1}


def test_cards_are_no_text() -> None:
    card = Event("message", id="e-0", content="{}", content_type="card")
    assert read([card, *PIECES, DONE], Book(5)) == {}
