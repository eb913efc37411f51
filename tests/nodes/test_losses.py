"""A database that has lost its last moments, as after a failover: a node writes them again, or joins again."""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg.rows import TupleRow

from gateway.ids import LogKey
from gateway.log import breaks, postgres
from gateway.log.breaks import Known
from gateway.log.journal import BEGIN, END, Fenced, JournalError, Record
from gateway.log.packing import pack
from gateway.log.postgres import PostgresJournal
from gateway.log.saving import Saving
from gateway.log.segments import MESSAGE
from gateway.log.stretch import Stretch
from gateway.log.written import Written
from gateway.postgres.link import Execute
from gateway.telemetry.ledger import Ledger
from tests.contracts.storages import PostgresDatabase
from tests.databases import PostgresServer
from tests.nodes.test_rights import Nodes

KEY = LogKey("conv_1")


class Counted:
    """What a journal tells."""

    def __init__(self) -> None:
        self.again = 0

    def log_committed(self, seconds: float) -> None: ...

    def batches_written_again(self, times: int) -> None:
        self.again += times


class Losing(Nodes):
    """Nodes whose database goes back to an earlier moment, and breaks their connections."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        super().__init__(url, ledger)
        self.storage = PostgresDatabase(url)
        self.told = Counted()
        self.back = 0

    async def open(self) -> PostgresJournal:
        def when_back() -> None:
            self.back += 1

        journal = PostgresJournal(self.url, ledger=self._ledger, told=self.told, when_back=when_back)
        self._journals.append(journal)
        await journal.open()
        return journal

    def remember(self) -> None:
        """The standby has all until now."""
        self.storage.back_up("then")

    async def fail_over(self) -> None:
        """What came since is lost."""
        self.storage.restore("then")
        await self.cut()

    async def cut(self) -> None:
        with psycopg.connect(self.url) as db:
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND datname = current_database()"
            )

        with suppress(JournalError):
            await self.database.ask("SELECT")  # which finds its connection broken

    async def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[TupleRow]:
        return await self.database.ask(sql, *parameters)

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url) as db:
            return db.execute(sql.encode()).fetchall()

    async def text(self, reader: PostgresJournal, number: int) -> str:
        """What whoever buries a node finds of a stretch."""
        (stretch,) = [one for one in await reader.adopt() if one.number == number]
        return "".join(entry.event.content for entry in stretch.read(after=0) if entry.name == "message")  # type: ignore[union-attr]


@pytest.fixture
async def nodes(postgres: PostgresServer, ledger: Ledger) -> AsyncIterator[Losing]:
    made = Losing(await postgres.make(), ledger)
    yield made
    await made.close()


def beginning(number: int, *, key: str = KEY, first: int = 1, mark: str = "") -> Record:
    return number, BEGIN, first, (key, f"00{key[-1]}a", f"turn_{number}", b"", mark, key)


def stretch(number: int, text: str, *, key: str = KEY, ended: float | None = None) -> Stretch:
    made = Stretch(number, key, f"00{key[-1]}a", 1, f"turn_{number}")
    for letter in text:
        made.apply(MESSAGE, letter)
    made.ended = ended
    return made


def piece(number: int, sequence: int, text: str) -> Record:
    return number, MESSAGE, sequence, text


async def attempt(journal: PostgresJournal) -> None:
    """Any write: the first one after a break finds the connection broken, the next one makes a new one."""
    for _ in range(2):
        try:
            await journal.probe()
        except Fenced:
            raise
        except Exception:
            continue
        return


async def test_what_was_lost_is_written_again_under_the_same_numbers(nodes: Losing) -> None:
    one, other = await nodes.open(), await nodes.open()
    assert await nodes.claims(one).claim(KEY) is None
    await one.commit(1, [beginning(7), piece(7, 1, "a")])
    nodes.remember()
    await one.commit(2, [piece(7, 2, "b")])
    await one.commit(3, [piece(7, 3, "c"), beginning(8, key="conv_2", mark="mark"), piece(8, 1, "x")])
    await nodes.fail_over()
    await attempt(one)
    await attempt(other)
    assert nodes.told.again == 2
    assert nodes.back == 2
    await one.commit(4, [piece(7, 4, "d")])
    assert nodes.rows("SELECT number FROM log_batches ORDER BY number") == [(1,), (2,), (3,), (4,)]
    assert nodes.rows("SELECT turn FROM log_stretches WHERE mark = 'mark'") == [("turn_8",)]
    assert not nodes.rows("SELECT * FROM log_locks")
    await nodes.bury(one)
    assert await nodes.text(other, 7) == "abcd"


async def test_a_save_that_was_lost_alone_is_done_again(nodes: Losing) -> None:
    """A save does not wait for the disk, so a crash of PostgreSQL loses it, and none of the batches."""
    one = await nodes.open()
    await one.commit(
        1, [beginning(7), piece(7, 1, "a"), beginning(8, key="conv_2"), piece(8, 1, "x"), (8, END, 1, 5.0)]
    )
    nodes.remember()
    ended = stretch(8, "x", key="conv_2", ended=5.0)
    await one.save([ended, stretch(7, "a")])
    await nodes.fail_over()
    await attempt(one)
    assert nodes.told.again == 0
    assert nodes.rows("SELECT number, kept, batch FROM log_stretches ORDER BY number") == [(7, False, 1), (8, True, 1)]
    assert nodes.rows("SELECT body FROM log_stretches WHERE number = 8") == [(pack(ended),)]
    await one.commit(2, [piece(7, 2, "b")])


async def test_batches_that_are_written_again_with_a_save_wait_for_the_disk(
    nodes: Losing, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed: list[object] = []

    async def watched(run: Execute, known: Known, written: Written) -> int:
        async def watching(sql: str, parameters: Sequence[object] = ()) -> list[TupleRow]:
            if sql == "COMMIT":
                committed.extend(await run("SHOW synchronous_commit"))
            return await run(sql, parameters)

        return await breaks.look_after_break(watching, known, written)

    monkeypatch.setattr(postgres, "look_after_break", watched)
    one = await nodes.open()
    nodes.remember()
    await one.commit(1, [beginning(7), piece(7, 1, "a")])
    await one.save([stretch(7, "a")])
    await nodes.fail_over()
    await attempt(one)
    assert nodes.told.again == 1
    assert committed == [("on",)]


async def test_a_break_without_a_loss_changes_nothing(nodes: Losing) -> None:
    one = await nodes.open()
    await one.commit(1, [beginning(7), piece(7, 1, "a")])
    await one.commit(2, [beginning(8, key="conv_2"), piece(8, 1, "x"), (8, END, 1, 5.0)])
    await one.save([stretch(8, "x", key="conv_2", ended=5.0), stretch(7, "a")])
    await one.forget(before=9)
    await nodes.cut()
    await attempt(one)
    assert nodes.told.again == 0
    assert nodes.back == 1
    await one.commit(3, [piece(7, 2, "b")])
    await nodes.cut()
    await attempt(one)
    assert nodes.told.again == 0
    assert nodes.rows("SELECT number, length(body) > 1 FROM log_batches ORDER BY number") == [(2, False), (3, True)]


async def test_what_another_node_has_erased_was_not_lost(nodes: Losing) -> None:
    one, other = await nodes.open(), await nodes.open()
    await one.commit(1, [beginning(7), piece(7, 1, "a"), (7, END, 1, 5.0), beginning(8, key="conv_2")])
    await other.erase([KEY], [])
    await nodes.cut()
    await attempt(one)
    nodes.remember()
    await one.commit(2, [piece(8, 1, "x")])
    await nodes.fail_over()
    await attempt(one)
    assert nodes.told.again == 1
    assert nodes.rows("SELECT number FROM log_stretches") == [(8,)]


async def test_what_was_saved_and_erased_is_so_again(nodes: Losing) -> None:
    one, other = await nodes.open(), await nodes.open()
    await one.commit(1, [beginning(7), piece(7, 1, "a"), beginning(9, key="conv_3"), piece(9, 1, "secret")])
    nodes.remember()
    await one.commit(2, [piece(7, 2, "b"), beginning(8, key="conv_2"), piece(8, 1, "x"), (8, END, 1, 5.0)])
    ended = stretch(8, "x", key="conv_2", ended=5.0)
    await one.save([ended, stretch(7, "ab")])
    await one.erase(["conv_3"], [9])
    await one.forget(before=3)
    await nodes.fail_over()
    await attempt(one)
    await attempt(other)
    assert nodes.rows("SELECT number, kept, batch FROM log_stretches ORDER BY number") == [(7, False, 2), (8, True, 2)]
    assert nodes.rows("SELECT body FROM log_stretches WHERE number = 8") == [(pack(ended),)]
    await one.commit(3, [piece(7, 3, "c")])
    await one.forget(before=3)
    await nodes.bury(one)
    assert await nodes.text(other, 7) == "abc"
    assert not nodes.storage.mentions(b"secret")


@pytest.mark.parametrize("taken", ["claimed", "begun", "marked", "being marked"])
async def test_nothing_is_written_again_where_another_node_has_begun_something(nodes: Losing, taken: str) -> None:
    one, other = await nodes.open(), await nodes.open()
    nodes.remember()
    assert await nodes.claims(one).claim(KEY) is None
    await one.commit(1, [beginning(7, mark="mark"), piece(7, 1, "a")])
    await nodes.fail_over()
    await attempt(other)
    claims = nodes.claims(other)
    if taken == "being marked":
        assert await claims._locked(other.licence.node, "mark")
    elif taken == "marked":
        await other.commit(1, [beginning(9, key="conv_3", mark="mark"), piece(9, 1, "z")])
    else:
        assert await claims.claim(KEY) is None
        if taken == "begun":
            await other.commit(1, [beginning(9), piece(9, 1, "z"), (9, END, 1, 5.0)])
    for _ in range(2):  # until it joins again
        with pytest.raises(Fenced):
            await attempt(one)
    assert nodes.told.again == 0
    assert not nodes.rows("SELECT 1 FROM log_stretches WHERE number = 7")
    before = one.licence.node
    await one.open()
    assert one.licence.node != before
    await attempt(one)


async def test_a_turn_begins_only_where_no_other_node_has_the_claim(nodes: Losing) -> None:
    one, other = await nodes.open(), await nodes.open()
    nodes.remember()
    assert await nodes.claims(one).claim(KEY) is None
    await nodes.fail_over()
    await attempt(one)
    await attempt(other)
    claims = nodes.claims(other)
    assert await claims.claim(KEY) is None
    with pytest.raises(Fenced):
        await one.commit(1, [beginning(7), piece(7, 1, "a")])
    await other.commit(1, [beginning(8), piece(8, 1, "b")])


async def test_a_burial_that_was_lost_leaves_one_owner(nodes: Losing) -> None:
    paused, other = await nodes.open(), await nodes.open()
    await paused.commit(1, [beginning(7), piece(7, 1, "a")])
    nodes.remember()
    await nodes.bury(paused)
    assert [stretch.number for stretch in await other.adopt()] == [7]
    await other.commit(1, [piece(7, 2, "wrong")])
    await nodes.fail_over()
    with pytest.raises(Fenced):
        await attempt(other)  # it has a turn that is another node's again
    await attempt(paused)
    await paused.commit(2, [piece(7, 2, "b")])
    await other.open()
    await nodes.bury(paused)
    assert await nodes.text(other, 7) == "ab"


async def test_a_joining_that_was_lost_is_done_again_under_another_number(nodes: Losing) -> None:
    nodes.remember()
    one = await nodes.open()
    before = one.licence.node
    await one.commit(1, [beginning((before << 32) + 1), piece((before << 32) + 1, 1, "a")])
    await nodes.fail_over()
    other = await nodes.open()
    assert other.licence.node != before
    with pytest.raises(Fenced):
        await attempt(one)
    assert (await one.open()).next_number >> 32 not in (before, other.licence.node)


async def test_more_than_a_node_remembers_is_not_written_again(nodes: Losing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.log.written._MOST_BYTES", 2000)
    one = await nodes.open()
    await one.commit(1, [beginning(7), piece(7, 1, "a")])
    nodes.remember()
    for number in range(2, 6):
        await one.commit(number, [piece(7, number, "b" * 400)])
    await nodes.fail_over()
    with pytest.raises(Fenced):
        await attempt(one)
    assert nodes.told.again == 0


async def test_a_turn_whose_beginning_was_given_up_does_not_run_later(nodes: Losing) -> None:
    one, other = await nodes.open(), await nodes.open()
    await one.commit(1, [beginning(7), piece(7, 1, "a")])
    done = one._writer.run

    async def unanswered(*asked: object) -> object:
        await done(*asked)  # type: ignore[arg-type]
        raise psycopg.OperationalError("cut")

    one._writer.run = unanswered  # type: ignore[method-assign, assignment]
    with pytest.raises(Exception, match="PostgreSQL"):
        await one.commit(2, [piece(7, 2, "b"), beginning(8, key="conv_2"), piece(8, 1, "x")])
    one._writer.run = done  # type: ignore[method-assign]
    recovered = await one.open()
    assert [stretch.number for stretch in recovered.stretches] == [7]
    assert recovered.stretches[0].last == 2
    assert not await other.adopt()


async def test_a_save_that_comes_after_a_newer_one_changes_nothing(nodes: Losing) -> None:
    """A connection that was given up may still carry it, when the batches between the two are dropped."""
    one, other = await nodes.open(), await nodes.open()
    await one.commit(1, [beginning(7), piece(7, 1, "a")])
    late = Saving(one.licence.node, 1, [stretch(7, "a")])
    await one.commit(2, [piece(7, 2, "b")])
    await one.save([stretch(7, "ab")])
    await one.forget(before=3)
    await late(nodes.run)
    await nodes.bury(one)
    assert await nodes.text(other, 7) == "ab"
