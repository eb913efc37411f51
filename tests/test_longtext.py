"""A long text gives back what was put in, and the last event that leaves it out is read with it."""

import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.events import Completed, Message, body
from gateway.log.outline import outline
from gateway.log.packing import pack, unpack
from gateway.log.segments import LAST, MESSAGE, WHOLE
from gateway.log.stretch import Stretch
from gateway.longtext import BLOCK, LongText

LONG = 'a "quoted" line\n' * (BLOCK // 8) + "好\N{GRINNING FACE}\u2028" * 1000


SAID = st.lists(st.tuples(st.sampled_from("ab好\N{GRINNING FACE}\ud800"), st.integers(0, BLOCK)), max_size=6)


@settings(deadline=None, max_examples=40)
@given(SAID, st.data())
def test_any_part_of_a_long_text_is_what_a_string_would_give(said: list[tuple[str, int]], data: st.DataObject) -> None:
    text, plain = LongText(), ""
    for character, times in said:
        text.add(character * times)
        plain += character * times
    start = data.draw(st.integers(0, len(plain)))
    stop = data.draw(st.none() | st.integers(start, len(plain)))
    assert len(text) == len(plain)
    assert text.part(start, stop) == plain[start:stop]
    assert "".join(text.pieces(start, stop)) == plain[start:stop]
    assert str(text) == plain
    assert text.then("c") == plain + "c"


@pytest.mark.parametrize("character", ["好", "\N{GRINNING FACE}"])
def test_reading_a_long_text_takes_little_more_than_twice_its_memory(character: str) -> None:
    text = LongText(character * 5 * BLOCK)
    tracemalloc.start()
    try:
        read = str(text)
        part = text.part(1)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        del read
        read = str(text)
        took = tracemalloc.get_traced_memory()[1] - before + sys.getsizeof(read)
    finally:
        tracemalloc.stop()
    assert part == read[1:]
    assert took < 2.6 * sys.getsizeof(read)


def last(content: str) -> Completed:
    return Completed("conv_1", "turn_1", content, {"content": ""}, recovered=False)


@pytest.mark.parametrize("anew", [False, True], ids=["as it came", "said anew"])
def test_a_last_event_without_its_text_is_read_as_one_with_it(anew: bool) -> None:
    with_it, without = Stretch(1, "k", "e", 1, "turn_1"), Stretch(1, "k", "e", 1, "turn_1")
    text = LONG + "the end"
    for stretch in (with_it, without):
        stretch.apply(MESSAGE, "something else" if anew else LONG)
        if anew:
            stretch.apply(WHOLE, body(Message(LONG, replace=True)))
        stretch.apply(MESSAGE, "the end")
    assert without.says(text)
    assert not without.says(text + "!")
    assert without.says(text + "!", [(2, MESSAGE, 9, "?"), (1, MESSAGE, 9, "!")])
    with_it.apply(WHOLE, body(last(text)))
    without.apply(LAST, body(last("")))
    packed = pack(without)
    assert len(packed) < len(pack(with_it)) - len(text)
    for read in (without, unpack(Stretch(1, "k", "e", 1, "turn_1"), packed)):
        assert read.read(after=0) == with_it.read(after=0)
        assert read.read(after=read.last - 1) == with_it.read(after=read.last - 1)
        assert outline(read).content == text
