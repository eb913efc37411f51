"""Fencing: a writer whose stretch was taken over adds nothing more, shows nothing, and owes nothing."""

import asyncio

import pytest

from gateway.errors import GatewayError
from gateway.events import Started
from gateway.ids import LogKey
from gateway.log.journal import Fenced
from gateway.telemetry.ledger import Ledger
from tests.contracts.journals import KEY, Bench, BenchOwner, events, in_a_file, last, piece


async def test_a_writer_that_was_taken_over_from_adds_nothing_and_owes_nothing(bench: Bench) -> None:
    stretch = await bench.begin()
    paused = bench.writer(stretch)
    await bench.write(stretch, Started(KEY, "turn_1", "?"), piece("a"))
    paused.append(piece("b"))  # appended before: it counts
    other = BenchOwner()
    writer = bench.log.take_over(stretch, other)
    assert bench.owner.stopped == [stretch]
    assert not paused.active
    paused.append(piece("never"))
    paused.note(b"never")
    paused.note_more(b"never")
    paused.end()
    paused.owe(last("turn_1", "never"))
    writer.append(piece("c"))
    writer.append(last("turn_1", "abc"))
    writer.end()
    await bench.log.committed()
    assert await events(bench) == ["started", "abc", "completed"]
    assert (stretch.state, bench.lost, other.told) == (b"", [], [])


async def test_what_has_ended_is_not_taken_over(bench: Bench) -> None:
    stretch = await bench.turn()
    with pytest.raises(RuntimeError, match="ended"):
        bench.log.take_over(stretch, BenchOwner())


async def test_a_process_that_was_paused_while_another_took_its_turns_writes_nothing_more(
    durable: Bench, ledger: Ledger
) -> None:
    stretch = await durable.begin()
    await durable.write(stretch, Started(KEY, "turn_1", "?"), piece("a"))
    second = Bench(durable.storage, ledger)
    await second.open()
    (theirs,) = second.running
    await second.write(theirs, piece("b"))
    writer = durable.writer(stretch)
    writer.append(piece("never"))
    with pytest.raises(GatewayError, match=r"another (process|node)"):
        await durable.log.committed()
    assert durable.owner.stopped == [stretch]
    assert durable.lost == []
    assert durable.log.trouble is not None
    writer.append(piece("never"))
    writer.owe(last("turn_1", "never"))
    assert await events(durable) == ["started", "a"]
    with pytest.raises(Fenced):
        await durable.fold(also_running=True)
    with pytest.raises(Fenced):
        await durable.journal.erase([KEY], [stretch.number])
    if durable.storage.kind == "sqlite":  # of several nodes anyone may trim: the database's clock decides
        with pytest.raises(Fenced):
            await durable.trim()
    await durable.log.probe()
    assert "another" in (durable.log.trouble or "")
    await second.write(theirs, piece("c"), last("turn_1", "abc"), end=True)
    await second.fold()
    await second.reopen()
    assert await events(second) == ["started", "abc", "completed"]
    await second.log.close()


@in_a_file
async def test_a_process_that_read_the_log_while_another_still_wrote_it_may_not_write(
    durable: Bench, ledger: Ledger
) -> None:
    stretch = await durable.begin()
    await durable.write(stretch, Started(KEY, "turn_1", "?"))
    for folded in (False, True):
        late = durable.storage.journal(ledger)
        await late.open()
        await durable.write(stretch, piece("a"))
        if folded:
            await durable.fold(also_running=True)
        with pytest.raises(Fenced):
            await late.commit(9, [])
        await late.close()
    await durable.write(stretch, piece("a"), last("turn_1", "aaa"), end=True)
    assert await events(durable) == ["started", "aaa", "completed"]


async def test_a_fenced_process_says_so_and_takes_nothing_more(durable: Bench, ledger: Ledger) -> None:
    stretch = await durable.begin()
    await durable.write(stretch, Started(KEY, "turn_1", "?"))
    second = Bench(durable.storage, ledger)
    await second.open()
    await second.write(second.running[0], piece("b"))
    durable.writer(stretch).append(piece("never"))
    waiting = [asyncio.ensure_future(durable.log.committed()) for _ in range(3)]
    for one in waiting:
        with pytest.raises(GatewayError):
            await one
    assert durable.log.backlog == 0
    await second.log.close()


async def test_a_turn_whose_beginning_a_fenced_process_could_not_write_is_not_found_there(
    durable: Bench, ledger: Ledger
) -> None:
    before = await durable.begin()
    await durable.write(before, Started(KEY, "turn_1", "?"))
    second = Bench(durable.storage, ledger)
    await second.open()
    await second.write(second.running[0], last("turn_1", ""), end=True)
    durable.log.begin(await durable.tail(LogKey("conv_2")), "turn_2", owner=durable.owner, mark="a key")
    with pytest.raises(GatewayError):
        await durable.log.committed()
    assert await durable.log.shelf.marked("a key") is None
    assert await durable.log.shelf.find("turn_2") is None
    await second.log.close()
