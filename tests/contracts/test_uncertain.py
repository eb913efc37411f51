"""A journal that does not say whether a batch arrived: it is asked, and nothing is lost, doubled or shown too early."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.errors import GatewayError
from gateway.events import Started
from gateway.ids import LogKey
from gateway.log import batches
from gateway.log.journal import Journal, JournalError, Record, Uncertain
from gateway.log.stretch import Stretch
from tests.contracts.journals import KEY, Around, Bench, BenchOwner, Doubtful, events, fields, last, piece


class Silent(Around):
    """Takes batches, or loses them, and does not reply until it `answers`."""

    def __init__(self, inner: Journal, *, arrives: bool) -> None:
        super().__init__(inner)
        self.arrives = arrives
        self.answers = asyncio.Event()
        self.asked = asyncio.Event()
        self.given: list[int] = []

    async def commit(self, number: int, batch: list[Record]) -> None:
        self.given.append(number)
        self.asked.set()
        if self.arrives or self.answers.is_set():
            await super().commit(number, batch)
        if not self.answers.is_set():
            raise Uncertain("no reply")

    async def holds(self, number: int) -> bool:
        if not self.answers.is_set():
            raise JournalError("no reply")
        return await super().holds(number)


@pytest.fixture(params=[True, False], ids=["it arrived", "it did not arrive"])
async def silent(request: pytest.FixtureRequest, durable: Bench) -> AsyncIterator[Silent]:
    """Replaces the durable bench's journal from now on."""
    durable.around = lambda inner: Silent(inner, arrives=request.param)
    await durable.reopen()
    durable.around = Around
    silent = durable.journal
    assert isinstance(silent, Silent)
    yield silent
    silent.answers.set()


async def test_a_silent_journal_is_asked_until_it_answers_and_has_the_batch_once(
    durable: Bench, silent: Silent
) -> None:
    stretch = await durable.begin()
    durable.writer(stretch).append(Started(KEY, "turn_1", "?"))
    durable.writer(stretch).append(piece("a"))
    committed = asyncio.ensure_future(durable.log.committed())
    await silent.asked.wait()
    assert await events(durable) == []
    silent.answers.set()
    await committed
    assert silent.given == [1] if silent.arrives else [1, 1]
    await durable.write(stretch, piece("b"), last("turn_1", "ab"), end=True)
    assert await events(durable) == ["started", "ab", "completed"]
    assert durable.lost == []
    await durable.reopen()
    assert await events(durable) == ["started", "ab", "completed"]


async def test_records_that_count_as_lost_do_not_appear_later_although_they_arrived(
    durable: Bench, silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent.answers.set()
    stretch = await durable.begin()
    await durable.write(stretch, Started(KEY, "turn_1", "?"))
    silent.answers.clear()
    monkeypatch.setattr(batches, "PATIENCE", 0.05)
    durable.owner.then = lambda lost: durable.writer(lost).owe(last("turn_1", ""))
    durable.writer(stretch).append(piece("never seen"))
    with pytest.raises(GatewayError, match="no reply"):
        await durable.log.committed()
    if durable.journal.shared:
        await _goes_on_as_another(durable, silent, stretch)
        return
    assert [lost for lost, _ in durable.lost] == [stretch]
    assert await events(durable) == ["started", "completed"]
    silent.answers.set()
    await durable.log.probe()
    assert durable.log.trouble is None
    await durable.reopen()
    assert await events(durable) == ["started", "completed"]


async def _goes_on_as_another(durable: Bench, silent: Silent, stretch: Stretch) -> None:
    """Other processes may go on with the turn: its end is not shown, and what arrived counts."""
    assert durable.owner.stopped == [stretch]
    assert durable.lost == []
    assert await events(durable) == ["started"]
    silent.answers.set()
    await durable.log.probe()
    assert durable.log.trouble is not None
    (adopted,) = await durable.log.rejoin()
    assert durable.log.trouble is None
    assert await events(durable) == ["started", *(["never seen"] if silent.arrives else [])]
    owner = BenchOwner()
    writer = durable.log.take_over(adopted, owner)
    writer.append(last("turn_1", "never seen" if silent.arrives else ""))
    writer.end()
    await durable.log.committed()
    assert (await events(durable))[-1] == "completed"


async def test_a_batch_that_is_given_again_changes_nothing(durable: Bench) -> None:
    stretch: Stretch = await durable.begin()
    await durable.write(stretch, Started(KEY, "turn_1", "?"), piece("a"))
    number = durable.log.committer.batches.last
    journal = durable.journal.inner
    await journal.commit(number, [(stretch.number, 0, 3, "never")])
    assert await journal.holds(number)
    assert not await journal.holds(number + 1)
    await durable.reopen()
    assert await events(durable) == ["started", "a"]


async def test_a_journal_that_loses_replies_now_and_then_is_as_good_as_any(
    durable: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_ASK_AGAIN", 0.001)
    durable.around = Doubtful
    await durable.reopen()
    for number in range(12):
        await durable.turn(f"turn_{number}", key=LogKey(f"conv_{number}"))
    await durable.reopen()
    for number in range(12):
        tail = await durable.tail(LogKey(f"conv_{number}"))
        text = "".join(f"turn_{number}:{piece} " for piece in range(5))
        found = [fields(entry) for entry in await durable.read(tail)]
        assert [event["event"] for event in found] == ["started", "message", "completed"]
        assert found[1]["content"] == found[2]["content"] == text
    assert durable.lost == []
