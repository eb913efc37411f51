"""PostgreSQL may lose its last moments at a failover: the store finds what is missing, and writes it again."""

from contextlib import suppress

import psycopg
import pytest

from gateway.errors import GatewayError
from gateway.store import Store
from tests.store.writes import HEALS, begun, update
from tests.waiting import until

pytestmark = pytest.mark.parametrize("kind", ["postgresql"], indirect=True)


def fail_over(url: str, *, lost: str) -> None:
    """What a conversation had in the database is gone, and so are all connections to it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DELETE FROM turns WHERE conversation_id = %s", (lost,))
        connection.execute("DELETE FROM conversations WHERE id = %s", (lost,))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def told(url: str) -> list[tuple[str, str, str]]:
    """Each turn's id, status and answer."""
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT id, status, content FROM turns ORDER BY id").fetchall()


async def test_what_was_lost_is_written_again_although_the_first_look_meets_a_dead_connection(
    store: Store, url: str
) -> None:
    store.begin(begun(1))
    store.update(update(1, "completed", content="an answer", updated_at=102.0))
    await store.settled()
    before = told(url)
    fail_over(url, lost="conv_1")
    store.look_after_break()
    await until(lambda: told(url) == before, within=HEALS)


async def test_what_was_lost_is_written_again_although_something_newer_is_there(store: Store, url: str) -> None:
    store.begin(begun(1))
    await store.settled()
    before = told(url)
    fail_over(url, lost="conv_1")
    await until(lambda: _written(store), within=HEALS)  # before anybody knows of the break
    store.look_after_break()
    await until(lambda: told(url)[:1] == before, within=HEALS)


async def _written(store: Store) -> bool:
    store.begin(begun(2, "conv_2"))
    with suppress(GatewayError):
        await store.settled()
        return True
    return False
