"""The event log over every journal: order, written then seen, groups, positions, marks, keeping."""

import asyncio

import pytest

from gateway.events import FollowUp, Started
from gateway.ids import LogKey
from gateway.log.journal import JournalError
from gateway.log.tail import Tail
from tests.contracts.journals import KEY, Bench, fields, last, piece, thought
from tests.waiting import until


async def test_events_are_seen_in_the_order_in_which_they_were_appended(bench: Bench) -> None:
    stretch = await bench.begin()
    await bench.write(stretch, Started(KEY, "turn_1", "?"), thought("hm"), piece("a"), FollowUp("b?"), piece("c"))
    entries = stretch.read(after=0)
    assert [fields(e)["event"] for e in entries] == ["started", "reasoning", "message", "suggestion", "message"]
    assert [e.sequence for e in entries] == [1, 2, 3, 4, 5]


async def test_nothing_is_seen_before_it_is_written(bench: Bench) -> None:
    tail = await bench.tail()
    stretch = bench.log.begin(tail, "turn_1", owner=bench.owner).stretch
    bench.journal.writable.clear()
    for text in "abc":
        bench.writer(stretch).append(piece(text))
    for _ in range(20):
        await asyncio.sleep(0)
    assert (tail.head, stretch.last, stretch.read(after=0)) == (0, 0, [])
    assert tail.next == 4
    news = tail.changed()
    bench.journal.writable.set()
    await asyncio.wait_for(news, 1)
    await bench.log.committed()
    assert tail.head == 3


async def test_what_comes_while_one_batch_is_written_goes_into_the_next_one_together(bench: Bench) -> None:
    stretches = [await bench.begin(f"turn_{n}", LogKey(f"conv_{n}")) for n in range(20)]
    await bench.log.committed()
    bench.journal.writable.clear()
    bench.writer(stretches[0]).append(piece("first"))
    await until(lambda: bench.log.committer.in_flight)  # the commit before may be followed by a pause
    commits = bench.journal.commits
    for stretch in stretches:
        for number in range(10):
            bench.writer(stretch).append(piece(str(number)))
    bench.journal.writable.set()
    await bench.log.committed()
    assert bench.journal.commits == commits + 2
    assert bench.journal.batches[-2:] == [1, 200]


async def test_a_long_text_is_written_in_portions_and_what_comes_with_its_end_is_written_with_it(bench: Bench) -> None:
    stretch = await bench.begin()
    await bench.log.committed()
    text = "0123456789" * 400_000
    before = len(bench.journal.batches)
    bench.writer(stretch).append(piece("short"))
    bench.writer(stretch).append(piece(text))
    bench.writer(stretch).append(last("turn_1", "short" + text))
    bench.writer(stretch).end()
    await bench.log.committed()
    assert stretch.ended is not None
    sizes = bench.journal.batches[before:]
    assert len(sizes) == 4
    assert max(sizes) <= 17
    *_, end = stretch.read(after=0)
    assert fields(end)["event"] == "completed"
    assert fields(end)["content"] == "short" + text


async def test_positions_are_contiguous_over_the_turns_of_a_log(bench: Bench) -> None:
    spans = [await bench.turn(f"turn_{n}", pieces=n) for n in range(4)]
    expected = 1
    for stretch in spans:
        assert stretch.first == expected
        expected = stretch.last + 1
    tail = await bench.tail()
    assert (tail.head, tail.next, tail.floor) == (expected - 1, expected, 0)


async def test_two_cannot_write_one_log_at_the_same_time(bench: Bench) -> None:
    await bench.begin()
    with pytest.raises(RuntimeError, match="being written"):
        await bench.begin("turn_2")


async def test_a_turn_is_found_running_finished_and_stored_and_the_newest_of_a_mark(bench: Bench) -> None:
    log = bench.log
    assert await log.shelf.find("turn_1") is None
    assert await log.shelf.marked("m") is None
    first = await bench.begin("turn_1", state=b"one", mark="m")
    await bench.write(first, piece("a"))
    assert await log.shelf.find("turn_1") is await bench.tail()
    assert await log.shelf.marked("m") == ("turn_1", b"one")
    bench.writer(first).note(b"one more")
    await bench.write(first, last("turn_1", "a"), end=True)
    assert await log.shelf.marked("m") == ("turn_1", b"one more")
    await bench.fold()
    assert await log.shelf.marked("m") == ("turn_1", b"one more")
    found = await log.shelf.find("turn_1")
    assert found is not None
    assert found.key == KEY
    await bench.turn("turn_2", state=b"two", mark="m")
    assert await log.shelf.marked("m") == ("turn_2", b"two")
    await bench.fold()
    assert await log.shelf.marked("m") == ("turn_2", b"two")
    assert await log.shelf.marked("") is None


async def test_a_finished_turn_is_the_same_from_memory_and_from_the_journal_at_every_position(bench: Bench) -> None:
    stretch = await bench.turn(pieces=30)
    tail = await bench.tail()
    wanted = {after: await bench.read(tail, after=after) for after in range(stretch.last + 1)}
    await bench.fold()
    assert bench.log.shelf.tails() == []  # nobody looks: nothing stays in memory
    again = await bench.tail()
    assert again is not tail
    assert (again.epochs.text, again.head, again.floor) == (tail.epochs.text, tail.head, tail.floor)
    assert {after: await bench.read(again, after=after) for after in wanted} == wanted


async def test_a_tail_that_is_used_stays_and_leaves_with_its_last_user(bench: Bench) -> None:
    await bench.turn()
    tail = await bench.tail()
    tail.users.add("reader")
    await bench.fold()
    assert bench.log.shelf.tails() == [tail]
    assert tail.spans[0].stretch is not None
    bench.log.shelf.drop(tail, "reader")
    assert bench.log.shelf.tails() == []


async def test_two_who_ask_for_a_tail_at_once_get_the_same_one_even_if_the_first_leaves_at_once(bench: Bench) -> None:
    await bench.turn()
    await bench.fold()

    async def glance() -> None:
        tail = await bench.tail()
        tail.users.add("glance")
        bench.log.shelf.drop(tail, "glance")

    async def stay() -> Tail:
        tail = await bench.tail()
        tail.users.add("stay")
        return tail

    _, tail = await asyncio.gather(glance(), stay())
    assert await bench.tail() is tail
    bench.log.shelf.drop(tail, "stay")


async def test_retention_takes_whole_turns_and_their_marks_and_positions_are_never_given_again(bench: Bench) -> None:
    bench.retention = bench.log.keeper.retention = 100
    first = await bench.turn("turn_1", mark="m")
    await bench.fold()
    await bench.later(60)
    second = await bench.turn("turn_2")
    await bench.fold()
    await bench.trim()
    assert (await bench.tail()).floor == 0
    await bench.later(60)
    tail = await bench.tail()
    tail.users.add("reader")
    await bench.trim()
    assert tail.floor == first.last
    assert await bench.log.shelf.find("turn_1") is None
    assert await bench.log.shelf.marked("m") is None
    assert fields((await bench.read(tail, after=first.last))[0])["turnId"] == "turn_2"
    bench.log.shelf.drop(tail, "reader")
    await bench.later(60)
    await bench.trim()
    tail = await bench.tail()
    assert (tail.floor, tail.head) == (second.last, second.last)
    third = await bench.turn("turn_3")
    assert (third.first, third.epochs) == (second.last + 1, first.epochs)


async def test_a_running_turn_is_never_taken(bench: Bench) -> None:
    bench.log.keeper.retention = 1
    stretch = await bench.begin()
    await bench.write(stretch, Started(KEY, "turn_1", "?"))
    await bench.later(1000)
    await bench.fold()
    await bench.trim()
    assert (await bench.tail()).floor == 0
    await bench.write(stretch, piece("still here"), last("turn_1", "still here"), end=True)
    assert [e.sequence for e in await bench.read(await bench.tail())] == [1, 2, 3]


async def test_folding_drops_the_batches_that_nobody_needs(durable: Bench) -> None:
    running = await durable.begin("turn_r", LogKey("conv_r"))
    await durable.write(running, piece("r"))
    for number in range(20):
        await durable.turn(f"turn_{number}", key=LogKey(f"conv_{number}"))
    assert durable.storage.batches() > 20
    await durable.fold()
    assert durable.storage.saved() == 20
    before = durable.storage.batches()
    await durable.write(running, last("turn_r", "r"), end=True)
    await durable.fold()
    assert durable.storage.batches() == 0 < before


async def test_batches_that_could_not_be_dropped_are_dropped_by_the_next_fold(
    durable: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*, before: int) -> None:
        raise JournalError("the disk is full")

    await durable.turn()
    with monkeypatch.context() as planted:
        planted.setattr(durable.journal, "forget", refuse)
        with pytest.raises(JournalError, match="the disk is full"):
            await durable.fold()
    assert (durable.storage.saved(), durable.storage.batches() > 0) == (1, True)
    await durable.fold()
    assert durable.storage.batches() == 0


async def test_what_another_process_trimmed_leaves_the_memory_of_this_one(durable: Bench) -> None:
    durable.retention = durable.log.keeper.retention = 100
    first = await durable.turn("turn_1")
    tail = await durable.tail()
    tail.users.add("reader")
    await durable.fold()
    await durable.later(60)
    await durable.turn("turn_2")
    await durable.fold()
    await durable.later(60)
    now = durable.clock.now
    await durable.journal.inner.trim(before=now - 100, now=now)
    assert tail.floor == 0
    await durable.trim()
    assert tail.floor == first.last
    durable.log.shelf.drop(tail, "reader")


async def test_an_ended_turn_is_kept_through_restarts_until_its_end_was_told(durable: Bench) -> None:
    durable.log.keeper.until_told = True
    told = await durable.turn("turn_1")
    untold = await durable.turn("turn_2")
    tail = durable.log.shelf.create(LogKey("turn_3"))
    queue = durable.log.begin(tail, "turn_3", owner=durable.owner).stretch  # keeps a queued turn: has no event
    durable.writer(queue).end()
    shop = await durable.begin("", LogKey("shop:1"))
    await durable.write(shop, piece("a"), end=True)
    durable.log.keeper.told("turn_1")
    durable.log.keeper.told("unknown")
    await durable.fold()
    assert durable.log.keeper.ended() == [untold]
    await durable.log.close()
    await durable.open()
    durable.log.keeper.until_told = True
    (again,) = durable.log.keeper.ended()
    assert (again.turn, again.last) == ("turn_2", untold.last)
    wanted = [told.first, told.last - 1, told.last, untold.first, untold.last - 1, untold.last]
    assert [entry.sequence for entry in await durable.read(await durable.tail())] == wanted
    await durable.fold()
    assert durable.log.keeper.ended() == [again]
    durable.log.keeper.told("turn_2")
    await durable.fold()
    assert durable.log.keeper.ended() == []


async def test_what_ended_under_a_clock_that_was_ahead_is_kept_for_one_retention_more_and_not_for_ever(
    durable: Bench,
) -> None:
    durable.log.keeper.retention = 100
    await durable.later(1_000_000)
    await durable.turn("turn_1")
    await durable.fold()
    await durable.reopen()
    durable.log.keeper.retention = 100
    await durable.later(-1_000_000)
    await durable.trim()
    assert await durable.log.shelf.find("turn_1") is not None
    await durable.later(101)
    await durable.trim()
    durable.log.shelf.drop(await durable.tail(), None)
    assert await durable.log.shelf.find("turn_1") is None
