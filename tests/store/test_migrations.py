"""A migration never breaks the version before: while nodes are updated one by one, both use the same tables."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from gateway.store import schema
from gateway.store.database import suffices
from tests.databases import PostgresServer
from tests.store.schemas import broken, schema_of
from tests.store.writes import engine_of

FIRST_WITH_NODES = "0004"
"""Until then a database belonged to one process."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "gateway.store:migrations")
    return config


REVISIONS = [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]
LATER = [revision for revision in REVISIONS if revision > FIRST_WITH_NODES]


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    engine = engine_of(url)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def migrated(connection: Connection, revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


async def test_no_migration_breaks_a_version_that_its_name_says_goes_on_working(postgres: PostgresServer) -> None:
    for at, revision in enumerate(LATER, REVISIONS.index(FIRST_WITH_NODES) + 1):
        number, _, oldest = revision.partition("_from_")
        assert number == f"{at + 1:04}", f"{revision} is not named NUMBER_from_OLDEST"
        assert suffices(revision, REVISIONS[at - 1]), f"{revision} leaves out the version before"
        known = next(name for name in REVISIONS if name.startswith(oldest))
        with connected(await postgres.make_empty()) as connection:
            migrated(connection, known)
            before = schema_of(connection)
            migrated(connection, revision)
            assert list(broken(before, schema_of(connection))) == [], revision
    assert REVISIONS[-1] == schema.REVISION


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE turns ADD COLUMN mood text",
        "ALTER TABLE turns ADD COLUMN mood text NOT NULL DEFAULT ''",
        "ALTER TABLE turns ALTER COLUMN message DROP NOT NULL",
        "CREATE TABLE moods (turn text PRIMARY KEY REFERENCES turns (id), mood text NOT NULL CHECK (mood <> ''))",
        "CREATE INDEX turns_status ON turns (status)",
        "DROP INDEX turns_digest",
    ],
)
async def test_what_a_migration_may_do(postgres: PostgresServer, statement: str) -> None:
    assert await after(postgres, statement) == []


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER TABLE turns ADD COLUMN mood text NOT NULL", "turns.mood is new and must have a value"),
        ("ALTER TABLE turns RENAME COLUMN digest TO hash", "turns.digest is gone"),
        ("ALTER TABLE log_stretches DROP COLUMN home", "log_stretches.home is gone"),
        ("DROP TABLE log_rates", "log_rates.account is gone"),
        ("DROP VIEW messages", "messages.id is gone"),
        ("ALTER TABLE turns ALTER COLUMN created_at TYPE numeric", "turns.created_at has become numeric"),
        ("ALTER TABLE conversations ALTER COLUMN shop_id SET NOT NULL", "conversations.shop_id must have a value"),
        ("ALTER TABLE turns ALTER COLUMN digest DROP DEFAULT", "turns.digest has no default any more"),
        ("ALTER TABLE turns ADD CHECK (status <> '')", "turns has a new rule: CHECK"),
        ("CREATE UNIQUE INDEX ON turns (position)", "turns has a new rule: btree"),
        ("ALTER TABLE turns ADD FOREIGN KEY (shop_id) REFERENCES conversations (id)", "turns has a new rule: FOREIGN"),
        ("DROP INDEX log_stretches_place", "log_stretches has lost what ON CONFLICT relies on"),
    ],
)
async def test_what_a_migration_must_not_do(postgres: PostgresServer, statement: str, said: str) -> None:
    found = await after(postgres, statement)
    assert any(one.startswith(said) for one in found), found


async def after(postgres: PostgresServer, statement: str) -> list[str]:
    """What a statement breaks of the newest tables."""
    with connected(await postgres.make()) as connection:
        before = schema_of(connection)
        if statement.startswith("ALTER TABLE turns ALTER COLUMN created_at"):
            connection.exec_driver_sql("DROP VIEW messages")  # else PostgreSQL itself refuses
        connection.exec_driver_sql(statement)
        return list(broken(before, schema_of(connection)))


@pytest.mark.parametrize(
    ("found", "ours", "works"),
    [
        (None, "0004", False),
        ("0003", "0004", False),
        ("0004", "0004", True),
        ("0005", "0004", False),
        ("0005_from_0004", "0004", True),
        ("0005_from_0004", "0003", False),
        ("0005_from_0004", "0005_from_0004", True),
        ("0004", "0005_from_0004", False),
        ("0007_from_0005", "0005_from_0004", True),
        ("0007_from_0006", "0005_from_0004", False),
        ("0010_from_0009", "0009_from_0004", True),
    ],
)
def test_a_version_works_with_newer_tables_that_say_so(found: str | None, ours: str, works: bool) -> None:
    assert suffices(found, ours) is works
