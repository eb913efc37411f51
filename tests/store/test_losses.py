"""PostgreSQL may lose its last moments at a failover: the store finds what is missing, and writes it again."""

from contextlib import suppress

import psycopg
import pytest

from gateway.errors import GatewayError
from gateway.ids import ConversationId, TurnId
from gateway.store import Store
from gateway.store.rows import Feedback
from tests.store.conftest import OpenStore
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


CONVERSATION, TURN = ConversationId("conv_1"), TurnId("turn_1")
LIKED, DISLIKED = Feedback("like", "good"), Feedback("unlike", "no")


async def annotate(store: Store, title: str, feedback: Feedback) -> None:
    await store.annotations.rename(CONVERSATION, title)
    await store.annotations.rate(TURN, feedback)


async def looked(*stores: Store) -> None:
    """Each has noticed a break, and has written what it thinks is lost, one after the other."""
    for store in stores:
        store.look_after_break()
        await store.probe()
        await store.settled()


def annotations(url: str) -> tuple[str | None, str | None, str | None]:
    with psycopg.connect(url) as connection:
        ((title,),) = connection.execute("SELECT title FROM conversations").fetchall()
        ((feedback, comment),) = connection.execute("SELECT feedback, feedback_comment FROM turns").fetchall()
    return title, feedback, comment


def keep(url: str) -> None:
    """The standby has all until now."""
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept_turns AS SELECT * FROM turns")
        connection.execute("CREATE TABLE kept_conversations AS SELECT * FROM conversations")


def go_back(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("DELETE FROM turns")
        connection.execute("DELETE FROM conversations")
        connection.execute("INSERT INTO conversations SELECT * FROM kept_conversations")
        connection.execute("INSERT INTO turns OVERRIDING SYSTEM VALUE SELECT * FROM kept_turns")


@pytest.fixture
async def both(open_store: OpenStore, url: str) -> tuple[Store, Store]:
    """Two nodes' stores, with a turn."""
    one, other = await open_store(), await open_store()
    one.begin(begun(1))
    one.update(update(1, "completed", content="an answer", updated_at=102.0))
    await one.settled()
    return one, other


async def test_a_break_without_a_loss_reverts_nothing_that_another_node_was_told_since(
    both: tuple[Store, Store], url: str
) -> None:
    one, other = both
    await annotate(one, "first", LIKED)
    await annotate(other, "second", DISLIKED)
    await looked(one)
    assert annotations(url) == ("second", "unlike", "no")
    await other.annotations.rename(CONVERSATION, None)
    await other.annotations.rate(TURN, Feedback("none"))
    await looked(one, other)
    assert annotations(url) == (None, None, None)


@pytest.mark.parametrize("last", [0, 1])
async def test_of_what_several_nodes_have_lost_the_newest_holds(both: tuple[Store, Store], url: str, last: int) -> None:
    one, other = both
    keep(url)
    await annotate(one, "first", LIKED)
    await annotate(other, "second", DISLIKED)
    go_back(url)
    await looked(both[1 - last], both[last])
    assert annotations(url) == ("second", "unlike", "no")


async def test_what_was_lost_does_not_replace_what_was_said_since(both: tuple[Store, Store], url: str) -> None:
    one, other = both
    keep(url)
    for title in ("one", "two", "three"):
        await annotate(one, title, LIKED)
    go_back(url)
    await annotate(other, "newest", DISLIKED)
    await looked(one)
    assert annotations(url) == ("newest", "unlike", "no")


async def test_a_title_for_what_was_deleted_is_never_written(both: tuple[Store, Store], url: str) -> None:
    one, other = both
    await other.erase(CONVERSATION)
    await annotate(one, "late", LIKED)
    other.begin(begun(1))
    await other.settled()
    await looked(one)
    assert annotations(url) == (None, None, None)
