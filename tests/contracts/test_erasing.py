"""Logs that are erased, over every journal: they are gone, stay gone, and take nothing else with them."""

import asyncio
import time

import pytest

from gateway.errors import GatewayError
from gateway.ids import LogKey
from tests.contracts.journals import KEY, Bench, last, piece

OTHER = LogKey("conv_2")


async def nothing_is_left(bench: Bench, turn: str = "turn_1", mark: str = "key") -> None:
    assert await bench.log.shelf.find(turn) is None
    assert await bench.log.shelf.marked(mark) is None
    tail = await bench.tail()
    assert (tail.head, tail.spans) == (0, [])


@pytest.mark.parametrize("saved", [False, True])
async def test_an_erased_log_is_gone_with_its_mark_also_after_a_crash(bench: Bench, saved: bool) -> None:
    await bench.turn(mark="key")
    if saved:
        await bench.fold()
    await bench.erase(KEY)
    await nothing_is_left(bench)
    if bench.durable:
        await bench.reopen()
        assert bench.log.keeper.ended() == []
        await nothing_is_left(bench)


async def test_an_erased_log_does_not_come_back_from_batches_that_a_running_neighbour_keeps(bench: Bench) -> None:
    neighbour = await bench.begin("turn_2", OTHER)
    await bench.write(neighbour, piece("a"))
    await bench.turn(mark="key")
    await bench.write(neighbour, piece("b"))
    await bench.erase(KEY)
    await bench.write(neighbour, piece("c"))
    if bench.durable:
        await bench.reopen()
        (neighbour,) = bench.running
        await nothing_is_left(bench)
    assert len(await bench.read(await bench.tail(OTHER))) == 1
    await bench.write(neighbour, piece("d"), end=True)
    await bench.fold()
    assert await bench.log.shelf.find("turn_2") is not None


async def test_a_running_neighbour_gives_up_the_batches_at_the_next_fold(bench: Bench) -> None:
    neighbour = await bench.begin("turn_2", OTHER)
    await bench.write(neighbour, piece("a"))
    await bench.turn()
    await bench.erase(KEY)
    assert not bench.durable or bench.storage.batches()
    await bench.fold()
    assert not bench.storage.batches()
    await bench.write(neighbour, piece("b"))
    if bench.durable:
        await bench.reopen()
        (neighbour,) = bench.running
    assert neighbour.last == 2


async def test_a_stretch_that_is_erased_while_a_save_waits_is_not_saved(bench: Bench) -> None:
    await bench.turn(mark="key")
    bench.journal.writable.clear()
    erasing = asyncio.create_task(bench.erase(KEY))
    await asyncio.sleep(0)
    folding = asyncio.create_task(bench.fold())  # has chosen what it saves, and waits for the same lock
    await asyncio.sleep(0)
    bench.journal.writable.set()
    await asyncio.gather(erasing, folding)
    await nothing_is_left(bench)
    if bench.durable:
        await bench.reopen()
        await nothing_is_left(bench)


@pytest.mark.parametrize("works", [True, False])
async def test_a_note_on_its_way_for_an_erased_log_harms_no_neighbour(bench: Bench, works: bool) -> None:
    """A shop may be told of the end, which the note says, in the moment in which the log is erased."""
    ended = await bench.turn(mark="key")
    neighbour = await bench.begin("turn_2", OTHER)
    await bench.write(neighbour, piece("a"))
    writer = bench.writer(ended)
    writer.note(b"told")
    bench.writer(neighbour).append(piece("b"))
    bench.log.keeper.drop([KEY])
    bench.journal.failing = not works
    if works:
        await bench.log.committed()
    else:
        with pytest.raises(GatewayError):
            await bench.log.committed()
    assert neighbour.last == (2 if works else 1)
    bench.journal.failing = False
    await bench.log.probe()
    third = await bench.turn("turn_3", key=LogKey("conv_3"))
    assert third.ended is not None


async def test_a_turn_that_ends_while_what_runs_is_saved_waits_until_its_end_was_told(bench: Bench) -> None:
    bench.log.keeper.until_told = True
    stretch = await bench.begin()
    await bench.write(stretch, piece("a"))
    bench.journal.writable.clear()
    folding = asyncio.create_task(bench.fold(also_running=True))  # has chosen the running stretch
    await asyncio.sleep(0)
    bench.writer(stretch).append(last("turn_1", "a"))
    bench.writer(stretch).end()
    bench.journal.writable.set()
    await bench.log.committed()
    await folding
    assert stretch.number in bench.log.shelf.unsaved
    assert bench.log.keeper.ended() == [stretch]


async def test_a_journal_that_refuses_changes_nothing(bench: Bench) -> None:
    stretch = await bench.turn(mark="key")
    bench.journal.failing = True
    with pytest.raises(GatewayError):
        await bench.erase(KEY)
    bench.journal.failing = False
    assert await bench.log.shelf.marked("key") == (stretch.turn, stretch.state)
    await bench.erase(KEY)
    await nothing_is_left(bench)


async def test_what_is_saved_after_an_erasing_whose_reply_was_lost_is_erased_by_the_next_one(durable: Bench) -> None:
    stretch = await durable.turn(mark="key")
    await durable.journal.inner.erase([KEY], [stretch.number])
    await durable.fold()
    await durable.erase(KEY)
    await durable.fold()
    await nothing_is_left(durable)
    assert not durable.storage.mentions(b"turn_1")


async def test_a_log_that_is_not_there_is_erased_too(bench: Bench) -> None:
    await bench.erase(LogKey("conv_none"))
    await bench.turn()
    assert await bench.log.shelf.find("turn_1") == await bench.tail()


async def test_a_process_that_has_written_nothing_yet_gives_up_the_batches_of_the_one_before(bench: Bench) -> None:
    await bench.turn()
    if bench.durable:
        await bench.reopen()
    await bench.erase(KEY)
    await bench.fold()
    await nothing_is_left(bench)
    assert not bench.storage.batches()


@pytest.mark.parametrize("neighbour_runs", [False, True])
async def test_a_crash_right_after_an_erasing_leaves_no_word_of_it_and_no_retention_brings_it_back(
    bench: Bench, neighbour_runs: bool
) -> None:
    if neighbour_runs:
        await bench.write(await bench.begin("turn_2", OTHER), piece("a"))
    await bench.turn(mark="key")
    await bench.erase(KEY)
    if not bench.durable:
        return
    await bench.reopen()
    await bench.fold()
    assert bench.storage.mentions(b"turn_2") == neighbour_runs
    assert not bench.storage.mentions(b"turn_1")
    await bench.journal.inner.trim(before=time.time() + 1, now=time.time())
    await bench.reopen()
    assert bench.log.keeper.ended() == []
    assert [stretch.turn for stretch in bench.running] == ["turn_2"] * neighbour_runs
    await nothing_is_left(bench)


async def test_batches_whose_turns_are_all_saved_are_dropped_by_the_next_process(bench: Bench) -> None:
    await bench.turn()
    if not bench.durable:
        return
    # killed before the batches were dropped
    await bench.journal.inner.save([writer.stretch for writer in bench.log.shelf.unsaved.values()])
    await bench.reopen()
    await bench.fold()
    assert not bench.storage.batches()
    assert await bench.log.shelf.find("turn_1") is not None
