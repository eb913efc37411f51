"""Adopting: what a dead node left is given to the turns once, also where something fails or is erased meanwhile."""

from collections.abc import AsyncIterator

import pytest

from gateway.errors import GatewayError
from gateway.events import Completed, Text
from gateway.ids import LogKey
from gateway.log.journal import Fenced, JournalError
from gateway.log.stretch import Stretch
from gateway.telemetry.ledger import Ledger
from tests.databases import PostgresServer
from tests.nodes.members import Member
from tests.nodes.test_following import KEY, OTHER, names


@pytest.fixture
async def adopts(postgres: PostgresServer, ledger: Ledger) -> AsyncIterator[Member]:
    """A node that finds what another one left: a running turn in each of two logs, and an ended one in a third."""
    url = await postgres.make()
    dead, adopts = Member(url, ledger), Member(url, ledger)
    for node in (dead, adopts):
        await node.join()
    await dead.begin("one")
    await dead.begin("two", key=OTHER, turn="turn_2")
    await dead.end(await dead.begin("three", key=LogKey("conv_3"), turn="turn_3"), "three")
    await dead.die()
    yield adopts
    for node in (dead, adopts):
        await node.close()


def turns(stretches: list[Stretch]) -> set[str]:
    return {stretch.turn for stretch in stretches}


def unsaved(node: Member) -> set[str]:
    return {writer.stretch.turn for writer in node.log.shelf.unsaved.values()}


async def test_what_is_erased_before_its_turn_goes_on_does_not_come_back(
    adopts: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(running: list[Stretch], ended: list[Stretch], lost: list[str]) -> None:
        raise JournalError("away")

    with monkeypatch.context() as patch:
        patch.setattr(adopts.duties, "adopt", fails)
        with pytest.raises(JournalError):
            await adopts.round()
    assert unsaved(adopts) == {"turn_1", "turn_2", "turn_3"}
    await adopts.log.keeper.erase([KEY])
    before = adopts.log.shelf.loaded(OTHER)
    await adopts.round()
    assert unsaved(adopts) == {"turn_2", "turn_3"}
    assert adopts.log.shelf.loaded(KEY) is None
    assert adopts.log.shelf.loaded(OTHER) is before
    assert not await adopts.database.ask("SELECT 1 FROM log_stretches WHERE key = %s", KEY)
    await adopts.round()
    assert turns(adopts.duties.adopted[-1]) >= {"turn_2", "turn_3"}
    assert len(adopts.duties.adopted) == 1


async def test_what_is_erased_while_it_is_put_into_its_log_does_not_come_back(adopts: Member) -> None:
    async def erase() -> None:
        adopts.around.pause = None
        await adopts.log.keeper.erase([KEY])

    adopts.around.pause = erase  # when its log's index was read
    await adopts.round()
    assert adopts.around.pause is None
    assert unsaved(adopts) == {"turn_2", "turn_3"}
    assert adopts.log.shelf.loaded(KEY) is None


async def test_however_many_logs_it_adopts_their_indexes_are_read_at_once(adopts: Member) -> None:
    reads = 0

    async def count() -> None:
        nonlocal reads
        reads += 1

    adopts.around.pause = count
    await adopts.round()
    assert reads == 1
    assert unsaved(adopts) == {"turn_1", "turn_2", "turn_3"}


async def test_what_could_not_be_put_into_its_log_is_put_there_later(adopts: Member) -> None:
    async def fail() -> None:
        adopts.around.pause = None
        raise JournalError("away")

    adopts.around.pause = fail
    with pytest.raises(JournalError):
        await adopts.round()
    assert not adopts.duties.adopted
    await adopts.round()
    assert unsaved(adopts) == {"turn_1", "turn_2", "turn_3"}
    assert [turns(stretches) for stretches in adopts.duties.adopted] == [{"turn_1", "turn_2", "turn_3"}]
    reader = await adopts.reader()
    assert await names(reader) == ["started", "message"]
    reader.close()


@pytest.fixture
async def comes_late(postgres: PostgresServer, ledger: Ledger) -> AsyncIterator[Member]:
    """A node that may begin a turn in a conversation, and has not adopted the one before: the conversation was released
    after that turn, whose node died before it saved the turn."""
    url = await postgres.make()
    dead, adopts = Member(url, ledger), Member(url, ledger)
    for node in (dead, adopts):
        await node.join()
    await dead.end(await dead.begin("one"), "one")
    await dead.database.ask("UPDATE log_heads SET node = NULL WHERE key = %s", KEY)
    await dead.die()
    yield adopts
    for node in (dead, adopts):
        await node.close()


async def test_a_turn_that_ended_before_the_one_that_runs_here_is_adopted_and_moves_no_event(
    comes_late: Member, ledger: Ledger
) -> None:
    adopts = comes_late
    await adopts.log.shelf.tail(KEY, newest=True)
    writer = await adopts.begin("two", turn="turn_2")
    async with adopts.log.committer.writing:
        writer.append(Text("message", "three"))  # waits to be written
        await adopts.log.take_in(await adopts.journal.adopt())
        writer.append(Text("message", "four"))
    await adopts.end(writer, "twothreefour")
    assert unsaved(adopts) == {"turn_1", "turn_2"}
    positions = [row[0] for row in await adopts.database.ask("SELECT head FROM log_heads WHERE key = %s", KEY)]
    assert positions == [writer.stretch.last] == [3 + 5]
    follows = Member(adopts.url, ledger)
    await follows.join()
    reader = await follows.reader(turn="turn_2")
    assert "".join([entry.body.decode() for entry in await reader.take()]).count("twothreefour") == 2
    reader.close()
    await follows.close()


async def test_a_turn_that_was_adopted_late_moves_nothing_of_one_whose_end_is_on_its_way(
    comes_late: Member,
) -> None:
    """Nobody writes the log at that moment, and yet more is to come than the database has."""
    adopts = comes_late
    tail = await adopts.log.shelf.tail(KEY, newest=True)
    writer = await adopts.begin("two", turn="turn_2")
    async with adopts.log.committer.writing:
        writer.append(Completed(KEY, "turn_2", "two", None, False))
        writer.end()
        await adopts.log.take_in(await adopts.journal.adopt())
        assert (tail.head, tail.next) == (5, 7)
    await adopts.begin("three", turn="turn_3")
    assert [(span.first, span.last) for span in tail.spans] == [(1, 3), (4, 6), (7, 8)]


async def test_what_a_node_leaves_is_whole_although_it_stops_while_it_joins_again(
    postgres: PostgresServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL was silent for so long that it gave up its turns. It has let its writers go, and not buried itself."""

    async def silent(*_: object) -> None:
        raise Fenced("PostgreSQL does not answer")

    url = await postgres.make()
    stops, adopts = Member(url, ledger), Member(url, ledger)
    for node in (stops, adopts):
        await node.join()
    writer = await stops.begin("one", "two")
    stops.around.failing = True
    with pytest.raises(JournalError):
        await stops.log.keeper.fold(also_running=True)  # so that it has something to tidy
    stops.around.failing = False
    with monkeypatch.context() as patch:
        patch.setattr(stops.journal, "commit", silent)
        patch.setattr(stops.journal, "open", silent)
        writer.append(Text("message", "never"))
        with pytest.raises(GatewayError):
            await stops.log.committed()
        with pytest.raises(Fenced):
            await stops.round()
    await stops.close()
    await adopts.round()
    reader = await adopts.reader()
    assert [entry.body.count(b"onetwo") for entry in await reader.take()] == [0, 1]
    reader.close()
    await adopts.close()
