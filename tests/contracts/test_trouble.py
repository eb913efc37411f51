"""A journal that can't be written: who is told of it, which events are shown all the same, and how it heals."""

import asyncio

import pytest

from gateway.errors import Code, GatewayError
from gateway.events import Failed, Started
from tests.contracts.journals import KEY, Bench, piece


def failure(turn: str = "turn_1", text: str = "") -> Failed:
    return Failed("it broke", Code.STORAGE_UNAVAILABLE.value, True, KEY, turn, text)


async def lose(bench: Bench) -> None:
    with pytest.raises(GatewayError) as refused:
        await bench.log.committed()
    assert refused.value.code is Code.STORAGE_UNAVAILABLE


async def test_the_writer_is_told_once_and_nothing_of_it_is_seen(bench: Bench) -> None:
    stretch = await bench.begin()
    await bench.write(stretch, Started(KEY, "turn_1", "?"))
    tail = await bench.tail()
    bench.journal.failing = True
    for text in "abc":
        bench.writer(stretch).append(piece(text))
    await lose(bench)
    assert [lost for lost, _ in bench.lost] == [stretch]
    assert (tail.head, tail.next, stretch.last) == (1, 2, 1)
    assert bench.log.trouble == "the disk is full"


async def test_a_turn_that_was_never_written_has_never_been(bench: Bench) -> None:
    await bench.turn("turn_0")
    bench.journal.failing = True
    stretch = await bench.begin("turn_1", mark="m")
    bench.writer(stretch).append(Started(KEY, "turn_1", "?"))
    await lose(bench)
    tail = await bench.tail()
    assert [lost for lost, _ in bench.lost] == [stretch]
    assert tail.writer is None
    assert [span.turn for span in tail.spans] == ["turn_0"]
    assert await bench.log.shelf.find("turn_1") is None
    assert await bench.log.shelf.marked("m") is None
    bench.journal.failing = False
    assert (await bench.turn("turn_2")).first == tail.spans[0].last + 1


async def test_the_owed_last_event_is_shown_at_once_and_written_first_when_it_heals(bench: Bench) -> None:
    stretch = await bench.begin()
    await bench.write(stretch, Started(KEY, "turn_1", "?"), piece("a"))
    tail = await bench.tail()
    news = tail.changed()
    bench.journal.failing = True
    bench.writer(stretch).append(piece("lost"))
    await lose(bench)
    bench.writer(stretch).owe(failure(text="a"))
    await asyncio.wait_for(news, 1)
    assert (tail.head, stretch.last, tail.writer) == (3, 3, None)
    assert stretch.ended is not None
    wanted = await bench.read(tail)
    tail.users.add("reader")
    bench.journal.failing = False
    second = await bench.turn("turn_2")
    assert second.first == 4
    assert bench.log.trouble is None
    await bench.fold()
    bench.log.shelf.drop(tail, "reader")
    if bench.durable:
        await bench.reopen()
    assert (await bench.read(await bench.tail()))[: len(wanted)] == wanted


async def test_the_journal_heals_without_a_new_write(bench: Bench) -> None:
    stretch = await bench.begin()
    await bench.write(stretch, Started(KEY, "turn_1", "?"))
    bench.journal.failing = True
    bench.writer(stretch).append(piece("lost"))
    await lose(bench)
    bench.writer(stretch).owe(failure())
    bench.journal.failing = False
    await bench.log.probe()
    assert bench.log.trouble is None
    if bench.durable:
        await bench.reopen()
        assert durably(await bench.read(await bench.tail())) == ["started", "error"]


def durably(entries: list) -> list[str]:  # type: ignore[type-arg]
    return [entry.name for entry in entries]


async def test_a_probe_finds_trouble_before_a_writer_does(bench: Bench) -> None:
    bench.journal.failing = True
    await bench.log.probe()
    assert bench.log.trouble == "the disk is full"
    bench.journal.failing = False
    await bench.log.probe()
    assert bench.log.trouble is None


async def test_an_owed_event_is_not_folded_away_before_it_is_written(durable: Bench) -> None:
    stretch = await durable.begin()
    await durable.write(stretch, Started(KEY, "turn_1", "?"))
    durable.journal.failing = True
    durable.writer(stretch).append(piece("lost"))
    await lose(durable)
    durable.writer(stretch).owe(failure())
    await durable.fold()  # has nothing that it may save, so it does not even try to write
    durable.journal.failing = False
    await durable.log.probe()
    await durable.fold()
    assert durably(await durable.read(await durable.tail())) == ["started", "error"]
    await durable.reopen()
    assert durably(await durable.read(await durable.tail())) == ["started", "error"]


async def test_trouble_of_one_batch_tells_every_writer_in_it(bench: Bench) -> None:
    from gateway.ids import LogKey

    stretches = []
    for number in range(5):
        stretch = await bench.begin(f"turn_{number}", LogKey(f"conv_{number}"))
        await bench.write(stretch, Started(f"conv_{number}", f"turn_{number}", "?"))
        stretches.append(stretch)
    bench.journal.failing = True
    bench.journal.writable.clear()
    for stretch in stretches:
        bench.writer(stretch).append(piece("lost"))
    waiting = [asyncio.create_task(bench.log.committed()) for _ in range(3)]
    await asyncio.sleep(0)
    bench.journal.writable.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, GatewayError) for result in results)
    assert [lost for lost, _ in bench.lost] == stretches
    bench.journal.failing = False
