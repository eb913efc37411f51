"""The limits that licences and claims set to a node, at the points where the model found that it could do more."""

import time
from collections.abc import AsyncIterator

import pytest
from psycopg import AsyncConnection

from gateway.ids import LogKey
from gateway.log.epochs import epoch_mark
from gateway.log.journal import BEGIN, END, Fenced, JournalError, Record
from gateway.log.log import EventLog
from gateway.log.postgres import PostgresJournal
from gateway.log.shelf import Shelf
from gateway.log.writer import Writer
from gateway.nodes.claims import Claims
from gateway.nodes.database import Database
from gateway.nodes.following import Following
from gateway.nodes.post import Post
from gateway.nodes.rings import Rings
from gateway.postgres.address import conninfo
from gateway.reading.subscribing import Subscriptions
from gateway.telemetry.ledger import Ledger
from tests.databases import PostgresServer
from tests.waiting import until

KEY = "conv_1"


class Nodes:
    """Journals on one database, one node each, and their claims."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        self.url = url
        self._ledger = ledger
        self.database = Database(url, ledger)
        self._journals: list[PostgresJournal] = []

    async def open(self) -> PostgresJournal:
        journal = PostgresJournal(self.url, ledger=self._ledger)
        self._journals.append(journal)
        await journal.open()
        return journal

    def claims(self, journal: PostgresJournal) -> Claims:
        async def settled() -> None: ...

        rings = Rings(self.url, ledger=self._ledger, heard=lambda _: None)
        return Claims(self.database, journal.licence, Post(self.database, journal.licence, rings), rings, settled)

    async def bury(self, journal: PostgresJournal) -> None:
        """Buries a node, which does not know it."""
        number = journal.licence.node
        await self.database.ask("UPDATE log_nodes SET beat = beat - interval '1 hour' WHERE id = %s", number)
        (other,) = [one for one in self._journals if one is not journal][:1]
        assert await other.licence.bury_the_dead() == 1

    async def close(self) -> None:
        for journal in self._journals:
            await journal.close()
        await self.database.close()


@pytest.fixture
async def nodes(postgres: PostgresServer, ledger: Ledger) -> AsyncIterator[Nodes]:
    made = Nodes(await postgres.make(), ledger)
    yield made
    await made.close()


async def test_a_node_that_is_paused_in_the_middle_of_a_transaction_is_buried_in_time(
    nodes: Nodes,
) -> None:
    paused, other = await nodes.open(), await nodes.open()
    number = paused.licence.node
    await nodes.database.ask("UPDATE log_nodes SET beat = beat - interval '1 hour' WHERE id = %s", number)
    connection = await AsyncConnection.connect(conninfo(nodes.url))
    try:
        await connection.execute("SELECT id FROM log_nodes WHERE id = %s FOR SHARE", (number,))  # as it begins to save
        await until(lambda: _buries(other), within=8.0)
    finally:
        await connection.close()


async def _buries(journal: PostgresJournal) -> bool:
    """Whether it buries somebody now."""
    try:
        return await journal.licence.bury_the_dead() == 1
    except JournalError:
        return False  # it waits for a lock no longer than this


def beginning(number: int) -> list[Record]:
    return [(number, BEGIN, 1, (KEY, "epoch", "turn_1", b"", "", KEY))]


async def test_a_buried_node_adopts_nothing(nodes: Nodes) -> None:
    dead, paused, other = await nodes.open(), await nodes.open(), await nodes.open()
    await dead.commit(1, beginning(7))
    await nodes.bury(paused)
    await nodes.bury(dead)
    assert await paused.adopt() == []
    with pytest.raises(Fenced):
        await paused.commit(1, beginning(8))
    assert [stretch.number for stretch in await other.adopt()] == [7]


async def test_what_was_adopted_without_an_answer_is_adopted_again(nodes: Nodes) -> None:
    dead, other = await nodes.open(), await nodes.open()
    await other.commit(1, [(5, BEGIN, 1, ("conv_2", "epoch", "turn_2", b"", "", "conv_2"))])
    await dead.commit(1, beginning(7))
    await nodes.bury(dead)
    answered = other.licence.adopt

    async def unanswered(*_: object) -> None:
        await answered(1)
        raise ConnectionError

    other.licence.adopt = unanswered  # type: ignore[method-assign, assignment]
    with pytest.raises(ConnectionError):
        await other.adopt()
    other.licence.adopt = answered  # type: ignore[method-assign]
    assert [stretch.number for stretch in await other.adopt()] == [7]
    assert await other.adopt() == []


async def test_nobody_claims_a_conversation_in_which_a_dead_nodes_turn_waits(nodes: Nodes) -> None:
    dead, other, third = await nodes.open(), await nodes.open(), await nodes.open()
    key = LogKey(KEY)
    assert await nodes.claims(dead).claim(key) is None
    await dead.commit(1, beginning(7))
    await nodes.bury(dead)
    claims = nodes.claims(third)
    holder = await claims.claim(key)
    assert holder is not None
    assert await claims.ask(holder, b"never sent") is None
    assert [stretch.number for stretch in await other.adopt()] == [7]
    assert await claims.claim(key) == other.licence.node
    assert await nodes.claims(other).claim(key) is None


async def test_a_lock_is_its_nodes_own_also_when_the_reply_was_lost(nodes: Nodes) -> None:
    one = await nodes.open()
    claims = nodes.claims(one)
    assert await claims._locked(one.licence.node, "mark")
    assert await claims._locked(one.licence.node, "mark")


class Unasked:
    """The owner of a writer in tests that never call it."""

    about: dict[str, object] = {}

    def lost(self, writer: Writer, error: JournalError) -> None: ...
    def fenced(self, writer: Writer) -> None: ...


async def test_a_node_that_does_not_know_that_it_was_buried_resets_no_reader(nodes: Nodes, ledger: Ledger) -> None:
    paused, _ = await nodes.open(), await nodes.open()
    log = EventLog(
        paused,
        ledger=ledger,
        retention=60,
        clock=time.time,
        follow=lambda shelf: Following(nodes.database, paused.licence, shelf),
    )
    tail = log.shelf.create(LogKey(KEY))
    log.begin(tail, "turn_1", owner=Unasked())
    readers = Subscriptions(log.shelf, ledger=ledger)
    written_by_another = f"{epoch_mark(KEY)}another-7"
    subscription, exactly = await readers.subscribe(LogKey(KEY), asked=written_by_another, turn="turn_1")
    assert not exactly  # it has its licence, so nobody else can have written
    subscription.close()
    await nodes.bury(paused)
    with pytest.raises(JournalError, match="joins again"):
        await readers.subscribe(LogKey(KEY), asked=written_by_another, turn="turn_1")


async def test_positions_of_a_turn_that_its_node_has_not_saved_yet_are_not_taken_for_removed(nodes: Nodes) -> None:
    writes, reads = await nodes.open(), await nodes.open()
    await writes.commit(1, beginning(7))
    shelf = Shelf(reads)
    tail = await shelf.tail(LogKey(KEY))
    await writes.commit(2, [(7, END, 3, 0.0)])
    await shelf.refresh([tail])
    assert (tail.head, tail.next) == (0, 4)
