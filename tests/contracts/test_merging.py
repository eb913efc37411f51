"""Merged reads: whatever is merged, the fold at every position is that of the single events."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from gateway.events import text_json
from gateway.log.entry import Entry
from gateway.log.packing import pack, unpack
from gateway.log.segments import MESSAGE, REASONING, WHOLE
from gateway.log.stretch import Stretch
from tests.contracts.journals import fields


class Said(NamedTuple):
    kind: int
    text: str


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
EVENTS = st.lists(st.builds(Said, st.sampled_from([MESSAGE, MESSAGE, MESSAGE, REASONING, WHOLE]), TEXTS), max_size=150)


def written(events: list[Said], first: int = 1) -> Stretch:
    stretch = Stretch(1, "conv_1", "e", first, "turn_1")
    for kind, text in events:
        stretch.apply(kind, b'"event":"suggestion","content":' + text_json(text) if kind == WHOLE else text)
    return stretch


def fold(entries: list[Entry]) -> list[tuple[str, str]]:
    """Runs of equal kind joined, wholes alone: what a reader makes of entries."""
    found: list[tuple[str, str]] = []
    for entry in entries:
        event = fields(entry)
        if found and found[-1][0] == event["event"] != "suggestion":
            found[-1] = (event["event"], found[-1][1] + event["content"])
        else:
            found.append((event["event"], event["content"]))
    return found


def single(events: list[Said], first: int) -> list[Entry]:
    """The same events, never merged."""
    out = []
    for number, event in enumerate(events):
        out += written([event], first + number).read(after=0)
    return out


@given(EVENTS, st.integers(1, 1000))
def test_a_merged_read_at_every_position_equals_the_single_events(events: list[Said], first: int) -> None:
    stretch = written(events, first)
    singles = single(events, first)
    assert stretch.last == first + len(events) - 1
    for after in range(first - 2, stretch.last + 2):
        entries = stretch.read(after=after)
        assert fold(entries) == fold([e for e in singles if e.sequence > after])
        sequences = [entry.sequence for entry in entries]
        assert sequences == sorted(set(sequences))
        assert all(after < sequence <= stretch.last for sequence in sequences)
        assert not entries or sequences[-1] == stretch.last


@given(EVENTS, st.data())
def test_reading_on_in_any_steps_gives_the_same(events: list[Said], data: st.DataObject) -> None:
    stretch = written(events)
    entries: list[Entry] = []
    after = 0
    while after < stretch.last:
        some = stretch.read(after=after, limit=data.draw(st.integers(0, 4)))
        stop = data.draw(st.integers(1, len(some)))
        entries += some[:stop]
        after = entries[-1].sequence
    assert fold(entries) == fold(single(events, 1))


@given(EVENTS, EVENTS)
def test_a_stretch_that_is_read_while_it_grows_gives_the_same_at_the_end(early: list[Said], late: list[Said]) -> None:
    stretch = written(early)
    for at, (kind, text) in enumerate(late):
        after = max(0, stretch.last - at % 7)
        before = stretch.read(after=after)
        assert fold(before) == fold([e for e in single(early + late[:at], 1) if e.sequence > after])
        stretch.apply(kind, b'"event":"suggestion","content":' + text_json(text) if kind == WHOLE else text)
    assert fold(stretch.read(after=0)) == fold(single(early + late, 1))


@given(EVENTS, EVENTS)
def test_what_is_stored_comes_back_the_same_at_every_position_and_can_go_on(
    events: list[Said], more: list[Said]
) -> None:
    stretch = written(events, 5)
    back = unpack(Stretch(1, "conv_1", "e", 5, "turn_1"), pack(stretch))
    for kind, text in more:
        for one in (stretch, back):
            one.apply(kind, b'"event":"suggestion","content":' + text_json(text) if kind == WHOLE else text)
    assert back.last == stretch.last
    for after in range(4, stretch.last + 1):
        assert back.read(after=after) == stretch.read(after=after)
