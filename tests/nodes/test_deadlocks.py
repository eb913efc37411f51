"""Deadlocks: PostgreSQL ends one of two transactions that wait for each other. It has done nothing, and is repeated."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import psycopg
import pytest

from gateway.ids import ConversationId
from gateway.log.journal import END
from gateway.log.postgres import PostgresJournal
from gateway.postgres.address import conninfo
from gateway.postgres.link import Link
from gateway.store import Store
from gateway.telemetry.ledger import Ledger
from tests.databases import PostgresServer
from tests.nodes.test_losses import KEY, beginning, piece, stretch
from tests.store.writes import begun, update
from tests.waiting import until

_WAITING = (
    "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.datname = current_database() WHERE NOT granted"
)


class Opponent:
    """Another transaction, which locks two rows: the second one only when somebody waits for the first one."""

    def __init__(self, url: str, first: str, second: str) -> None:
        self._url = url
        self._first = first.encode()
        self._second = second.encode()

    async def crossed_by(self, work: Awaitable[object]) -> None:
        """`work` meets it the other way round, and ends well."""
        async with (
            await psycopg.AsyncConnection.connect(self._url) as connection,
            await psycopg.AsyncConnection.connect(self._url, autocommit=True) as looks,
        ):
            await connection.execute("SET deadlock_timeout = '1min'")  # so that the other one is ended
            await connection.execute(self._first)
            task = asyncio.ensure_future(work)

            async def somebody_waits() -> bool:
                ((waiting,),) = await (await looks.execute(_WAITING.encode())).fetchall()
                return bool(waiting)

            await until(somebody_waits)
            await connection.execute(self._second)
        await task


@pytest.fixture
async def url(postgres: PostgresServer) -> str:
    """A database in which who waits looks for a deadlock once, so late that a busy machine has made it by then."""
    url = await postgres.make()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        name = connection.info.dbname
        await connection.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '1500ms'".encode())
    return url


def deadlocks(url: str) -> int:
    """How many of them PostgreSQL has ended. A connection's count comes when it ends, or when it is idle."""
    with psycopg.connect(url) as connection:
        sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(connection.execute(sql.encode()).fetchall()[0][0])


@asynccontextmanager
async def journal(url: str, ledger: Ledger) -> AsyncIterator[PostgresJournal]:
    """A node's, with an ended stretch 7 of one log and a running one, 8, of another."""
    made = PostgresJournal(url, ledger=ledger)
    await made.open()
    await made.commit(1, [beginning(7), piece(7, 1, "a"), (7, END, 1, 5.0), beginning(8, key="conv_2")])
    yield made
    await made.close()


HEAD_FIRST = (
    f"UPDATE log_heads SET head = head WHERE key = '{KEY}'",
    "UPDATE log_stretches SET last = last WHERE number = 7",
)
"""Locks a log's head, and then its stretch."""


async def test_an_erasure_that_meets_another_transaction_the_other_way_round_is_repeated(
    url: str, ledger: Ledger
) -> None:
    async with journal(url, ledger) as node:
        await Opponent(url, *HEAD_FIRST).crossed_by(node.erase([KEY], []))
        assert list(await node.indexes([KEY, "conv_2"])) == ["conv_2"]
    await until(lambda: _counted(url))


async def test_a_save_that_does_is_repeated(url: str, ledger: Ledger) -> None:
    async with journal(url, ledger) as node:
        await Opponent(url, *HEAD_FIRST).crossed_by(node.save([stretch(7, "a", ended=5.0)]))
        assert (await node.turns()) == ["turn_7"]
    await until(lambda: _counted(url))


async def test_a_single_statement_that_does_is_repeated(url: str, ledger: Ledger) -> None:
    async with journal(url, ledger):
        link = Link(conninfo(url), ledger)
        update_one = "UPDATE log_heads SET head = 9 WHERE key = '{}'"
        await Opponent(url, update_one.format("conv_2"), update_one.format(KEY)).crossed_by(
            link.run("UPDATE log_heads SET head = head + 1")
        )
        assert await link.run("SELECT key, head FROM log_heads ORDER BY key") == [(KEY, 10), ("conv_2", 10)]
        await link.close()
    await until(lambda: _counted(url))


async def test_a_deletion_in_the_store_that_does_is_repeated(url: str, ledger: Ledger) -> None:
    store = await Store.open(url, ledger=ledger)
    store.begin(begun(1))
    store.update(update(1, "completed", content="an answer"))
    await store.settled()
    await Opponent(
        url,
        "UPDATE conversations SET title = 'a title' WHERE id = 'conv_1'",
        "UPDATE turns SET feedback = 'like' WHERE id = 'turn_1'",
    ).crossed_by(store.erase(ConversationId("conv_1")))
    assert await store.conversation("conv_1") is None
    assert store.trouble is None
    await store.close()
    await until(lambda: _counted(url))


async def _counted(url: str) -> bool:
    return deadlocks(url) > 0
