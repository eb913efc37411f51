"""Reopening: after a crash the same events are at the same positions, and what nobody saw may be gone."""

import random

import pytest

from gateway.events import FollowUp, Started
from gateway.ids import LogKey
from gateway.log.entry import Entry
from tests.contracts.journals import KEY, Bench, fields, last, piece, thought


async def test_a_running_turn_is_found_again_with_its_events_note_and_mark(durable: Bench) -> None:
    stretch = await durable.begin(state=b"note", mark="m")
    await durable.write(stretch, Started(KEY, "turn_1", "?"), thought("hm"), piece("a"), piece("b"))
    durable.writer(stretch).note(b"later ")
    durable.writer(stretch).note_more(b"no")
    durable.writer(stretch).note_more(b"te")
    await durable.write(stretch, FollowUp("c?"))
    tail = await durable.tail()
    wanted = {after: stretch.read(after=after) for after in range(6)}
    log = await durable.reopen()
    (again,) = durable.running
    assert (again.turn, again.key, again.first, again.last, again.ended) == ("turn_1", KEY, 1, 5, None)
    assert again.state == b"later note"
    assert {after: again.read(after=after) for after in wanted} == wanted
    found = await durable.tail()
    assert (found.head, found.next, found.writer) == (5, 6, durable.writer(again))
    assert [found.position(sequence) for sequence in range(6)] == [tail.position(sequence) for sequence in range(6)]
    assert await log.shelf.marked("m") == ("turn_1", b"later note")
    await durable.write(again, piece("d"), last("turn_1", "abd"), end=True)
    assert [e.sequence for e in await durable.read(found)] == [1, 2, 4, 5, 6, 7]
    assert (await durable.turn("turn_2")).first == 8


async def test_after_a_crash_uncommitted_events_are_gone_and_their_positions_are_free(durable: Bench) -> None:
    stretch = await durable.begin()
    await durable.write(stretch, Started(KEY, "turn_1", "?"))
    durable.journal.writable.clear()
    durable.writer(stretch).append(piece("never seen"))
    await durable.reopen()
    (again,) = durable.running
    assert again.last == 1
    await durable.write(again, piece("seen"))
    assert [e.sequence for e in again.read(after=1)] == [2]


async def test_a_finished_turn_that_was_not_folded_is_there_and_then_folded(durable: Bench) -> None:
    await durable.turn("turn_1")
    tail = await durable.tail()
    wanted = await durable.read(tail)
    await durable.reopen()
    assert durable.running == []
    again = await durable.tail()
    assert (again.position(again.head), again.head) == (tail.position(tail.head), tail.head)
    assert await durable.read(again) == wanted
    await durable.fold()
    assert durable.log.keeper.ended() == []
    assert durable.storage.saved() == 1
    assert await durable.read(await durable.tail()) == wanted


async def test_a_turn_folded_while_it_runs_goes_on_after_a_crash(durable: Bench) -> None:
    stretch = await durable.begin()
    await durable.write(stretch, Started(KEY, "turn_1", "?"), piece("a"))
    await durable.fold(also_running=True)
    await durable.write(stretch, piece("b"))
    await durable.reopen()
    (again,) = durable.running
    assert again.read(after=1) == stretch.read(after=1)
    await durable.write(again, last("turn_1", "ab"), end=True)
    await durable.fold()
    assert (await durable.tail()).head == 4


async def test_closing_in_peace_keeps_a_running_turn_too(durable: Bench) -> None:
    stretch = await durable.begin()
    await durable.write(stretch, Started(KEY, "turn_1", "?"), piece("a"))
    durable.writer(stretch).append(piece("b"))
    await durable.log.close()
    await durable.open()
    (again,) = durable.running
    assert [e.sequence for e in again.read(after=0)] == [1, 3]


async def test_positions_of_a_turn_whose_time_was_up_at_the_restart_are_never_given_again(durable: Bench) -> None:
    """Killed between a turn's end and its folding, started again after the retention: a position that a client holds
    must not come to mean another turn's text."""
    first = await durable.turn("turn_1")
    await durable.fold()
    second = await durable.turn("turn_2", pieces=20)
    await durable.later(durable.retention + 10)
    await durable.reopen()
    third = await durable.turn("turn_3", pieces=20)
    assert third.epochs != second.epochs or third.first > second.last
    assert first.epochs == second.epochs


async def test_numbers_are_never_given_twice_over_restarts(durable: Bench) -> None:
    numbers = set()
    for round_ in range(5):
        for turn in range(3):
            numbers.add((await durable.turn(f"turn_{round_}_{turn}", key=LogKey(f"conv_{turn}"))).number)
        if round_ % 2:
            await durable.fold()
        await durable.reopen()
    assert len(numbers) == 15


@pytest.mark.parametrize("seed", range(10))
async def test_any_course_of_writing_folding_and_crashing_keeps_what_was_seen(durable: Bench, seed: int) -> None:
    rng = random.Random(seed)
    keys = [LogKey(f"conv_{number}") for number in range(3)]
    running: dict[LogKey, tuple[str, str]] = {}
    count = 0

    async def everything() -> dict[LogKey, list[tuple[str, Entry]]]:
        tails = [await durable.tail(key) for key in keys]
        return {tail.key: [(tail.position(e.sequence), e) for e in await durable.read(tail)] for tail in tails}

    for _ in range(60):
        key = rng.choice(keys)
        match rng.choice(["begin", "write", "write", "write", "end", "fold", "fold all", "crash", "trim"]):
            case "begin" if key not in running:
                count += 1
                stretch = await durable.begin(f"turn_{count}", key)
                await durable.write(stretch, Started(key, stretch.turn, "?"))
                running[key] = (stretch.turn, "")
            case "write" if key in running:
                turn, text = running[key]
                stretch = (await durable.tail(key)).spans[-1].stretch  # type: ignore[assignment]
                new = [rng.choice("abcdef文😀") * rng.randint(1, 3) for _ in range(rng.randint(1, 80))]
                await durable.write(stretch, *map(piece, new))
                running[key] = (turn, text + "".join(new))
            case "end" if key in running:
                turn, text = running.pop(key)
                stretch = (await durable.tail(key)).spans[-1].stretch  # type: ignore[assignment]
                await durable.write(stretch, last(turn, text), end=True)
            case "fold":
                await durable.fold()
            case "fold all":
                await durable.fold(also_running=True)
            case "trim":
                await durable.trim()
            case "crash":
                before = await everything()
                await durable.reopen()
                assert len(durable.running) == len(running)
                assert await everything() == before
            case _:
                pass
    for key, (_, text) in running.items():
        stretch = (await durable.tail(key)).spans[-1].stretch  # type: ignore[assignment]
        said = stretch.read(after=stretch.first)
        assert "".join(fields(entry)["content"] for entry in said) == text


async def test_what_was_added_to_a_note_is_there_once_when_it_was_saved_and_is_read_again(durable: Bench) -> None:
    stretch = await durable.begin(state=b"note")
    other = await durable.begin("turn_2", key=LogKey("conv_2"))
    await durable.write(other, Started("conv_2", "turn_2", "?"))
    for more in (b" 1", b" 2", b" 3"):
        durable.writer(stretch).note_more(more)
        await durable.write(stretch, piece("a"))
        await durable.fold(also_running=more == b" 2")
    await durable.reopen()
    assert [again.state for again in durable.running if again.turn == "turn_1"] == [b"note 1 2 3"]


async def test_two_turns_of_a_log_that_are_both_unsaved_are_found_whole(durable: Bench) -> None:
    await durable.turn("turn_1")
    await durable.fold()
    await durable.turn("turn_2")
    stretch = await durable.begin("turn_3")
    await durable.write(stretch, Started(KEY, "turn_3", "?"), piece("a"))
    before = await durable.read(await durable.tail())
    await durable.reopen()
    assert [again.turn for again in durable.running] == ["turn_3"]
    assert await durable.read(await durable.tail()) == before
