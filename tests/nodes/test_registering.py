"""Registering: the store's rows of a turn that begins are written together with the turn, or not at all."""

from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from gateway.log.journal import BEGIN, Record
from gateway.log.postgres import PostgresJournal
from gateway.log.rows import Rows
from gateway.store.store import Store
from gateway.telemetry.ledger import Ledger
from gateway.turns.orders import Note, Order
from gateway.turns.projection import begun
from gateway.turns.registering import TurnRegister
from tests.databases import PostgresServer


def note(message: str = "hello", *, conversation: str = "conv_1") -> Note:
    return Note(Order("user_1", "bot_1", message, shop_id="shop_1"), conversation, 1_700_000_000.123456)


def beginning(number: int, state: bytes, *, key: str = "conv_1", turn: str | None = None) -> Record:
    return number, BEGIN, 1, (key, "00aa", f"turn_{number}" if turn is None else turn, state, "", key)


def rows(url: str, table: str) -> list[dict[str, Any]]:
    with psycopg.connect(url, row_factory=dict_row) as db:
        return db.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    return await postgres.make()


@pytest.fixture
def journal(url: str, ledger: Ledger) -> PostgresJournal:
    return PostgresJournal(url, ledger=ledger, register=TurnRegister())


@pytest.mark.parametrize("message", ["hello", 'a "quote" \\ and 你好 😀', "a NUL \0 and \ufdd0", ""])
async def test_the_rows_are_those_that_the_store_writes(
    message: str, url: str, journal: PostgresJournal, postgres: PostgresServer, ledger: Ledger
) -> None:
    await journal.open()
    await journal.commit(1, [beginning(7, note(message).pack()), beginning(8, note(message).pack())])
    await journal.close()
    elsewhere = await postgres.make()
    for database in (elsewhere, url):  # where they are already, the store changes nothing
        store = await Store.open(database, ledger=ledger)
        store.begin(begun("turn_7", note(message)))
        store.begin(begun("turn_8", note(message)))
        await store.settled()
        await store.close()
        assert rows(database, "conversations") == rows(url, "conversations")
        found, expected = rows(database, "turns"), rows(url, "turns")
        assert [row | {"ordinal": 0} for row in found] == [row | {"ordinal": 0} for row in expected]
        assert len(found) == 2


async def test_what_is_no_turn_has_no_row(url: str, journal: PostgresJournal) -> None:
    await journal.open()
    await journal.commit(1, [beginning(7, b"", key="shop_1", turn="")])
    await journal.close()
    assert rows(url, "turns") == rows(url, "conversations") == []


async def test_a_turn_whose_row_no_database_takes_begins_without_it(url: str, journal: PostgresJournal) -> None:
    await journal.open()
    await journal.commit(1, [beginning(7, b"damaged"), beginning(8, note(conversation="conv_2").pack(), key="conv_2")])
    assert await journal.holds(1)
    await journal.close()
    with psycopg.connect(url) as db:
        assert db.execute("SELECT turn FROM log_stretches ORDER BY number").fetchall() == [("turn_7",), ("turn_8",)]


async def test_a_row_that_the_database_refuses_does_not_keep_the_turn_from_beginning(
    url: str, journal: PostgresJournal
) -> None:
    await journal.open()
    await journal.commit(1, [beginning(7, note().pack())])
    with psycopg.connect(url) as db:
        db.execute("ALTER TABLE turns ADD CONSTRAINT never CHECK (message <> 'refused')")
    await journal.commit(2, [beginning(8, note("refused", conversation="conv_2").pack(), key="conv_2")])
    assert await journal.holds(2)
    await journal.close()
    assert [row["id"] for row in rows(url, "turns")] == ["turn_7"]


async def test_a_turn_that_nobody_was_told_of_leaves_no_row(url: str, journal: PostgresJournal) -> None:
    await journal.open()
    await journal.commit(1, [beginning(7, note().pack())])
    await journal.commit(
        2, [beginning(8, note().pack()), beginning(9, note(conversation="conv_2").pack(), key="conv_2")]
    )
    (batch,) = journal._written.after(1)
    assert isinstance(batch, Rows)
    journal._in_doubt = batch  # as if the reply had been lost
    await journal.open()
    await journal.close()
    assert [row["id"] for row in rows(url, "turns")] == ["turn_7"]
    assert [row["id"] for row in rows(url, "conversations")] == ["conv_1"]
