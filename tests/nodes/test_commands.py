"""The command line on a PostgreSQL database, beside running nodes and without any."""

import asyncio
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from gateway.postgres.failures import sentence
from tests.databases import PostgresServer
from tests.faults.coze import SWIFT, simulated
from tests.nodes.cluster import Cluster, cluster
from tests.processes import GatewayProcess, hatched
from tests.transports.readers import Event, sse
from tests.waiting import until

pytestmark = pytest.mark.timeout(180)

SECRET = "zebra-umbrella"
NOTIFIED = "." * 80
"""A shop's notifications keep the first 80 characters for a while."""

QUICK = f"/fault echo rate:0 -- {NOTIFIED} {SECRET} answer"
SLOW = f"/fault plain pieces:4000 rate:20 -- {NOTIFIED} {SECRET} question"
LONG = "/fault plain pieces:200 rate:50 -- somebody else's"


def tables(url: str, **only: str) -> list[str]:
    """Every row of every table, as text."""
    with psycopg.connect(url) as connection:
        names = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_name LIKE %s",
            (only.get("named", "%"),),
        ).fetchall()
        return [str(row) for (name,) in names for row in connection.execute(f"SELECT t::text FROM {name} t".encode())]


def traces(url: str) -> list[str]:
    """The rows in which somebody's word is: text as it is, and in the log's bytes."""
    return [row for row in tables(url) if SECRET in row or SECRET.encode().hex() in row]


async def command(folder: Path, url: str, *arguments: str) -> Any:
    return await asyncio.to_thread(partial(hatched, *arguments, folder=folder, GATEWAY_DATABASE_URL=url))


async def _over(found: Cluster, node: int, topic: str, begun: asyncio.Event) -> list[Event]:
    """What a reader is given until it is sent away."""
    events: list[Event] = []
    async with aclosing(sse(found.door(node, topic), None)) as reading:
        async for event in reading:
            events.append(event)
            begun.set()
    return events


async def test_the_operator_deletes_what_a_user_wrote_while_nodes_run(postgres: PostgresServer, tmp_path: Path) -> None:
    url = await postgres.make()
    async with (
        simulated() as coze,
        cluster(postgres, coze.url, nodes=2, GATEWAY_DATABASE_URL=url) as found,
    ):
        _, done = await found.begin(0, QUICK, userId="ann", shopId="a")
        kept, _ = await found.begin(0, QUICK.replace(SECRET, "bob's"), userId="bob", shopId="a")
        _, elsewhere = await found.begin(0, QUICK, userId="ann", shopId="b")
        running, busy = await found.begin(1, SLOW, userId="ann", shopId="a")
        queued, _ = await found.begin(0, QUICK, userId="ann", conversationId=busy, onBusy="queue")
        begun = [asyncio.Event() for _ in range(2)]
        readers = [asyncio.create_task(_over(found, node, f"turns/{running}", begun[node])) for node in (0, 1)]
        async with asyncio.timeout(10):
            for one in begun:
                await one.wait()
        for shop in ("a", "b"):
            deleted = await command(tmp_path, url, "delete", "--user", "ann", "--shop", shop)
            assert (deleted.returncode, deleted.stderr) == (0, "")
            assert set(deleted.stdout.split()) == {"deleted", *([done, busy] if shop == "a" else [elsewhere])}
        async with asyncio.timeout(5):
            for events in await asyncio.gather(*readers):
                assert events[-1]["event"] == "cancelled"
        for node in (0, 1):
            for turn in (running, queued):
                status, _ = await found.post(node, f"turns/{turn}/cancel")
                assert status == 404
            assert (await found.ask(node, QUICK, userId="ann", conversationId=busy))[0] == 404
            assert (await found.state(node, kept))["status"] == "completed"
        await until(lambda: not traces(url))  # batches of the log go within seconds
        assert len(tables(url, named="log_nodes")) == 2
        again = await command(tmp_path, url, "delete", "--user", "ann")
        assert (again.returncode, again.stdout, again.stderr) == (1, "", "there is no such conversation\n")
    assert not (tmp_path / "data").exists()


async def test_the_operator_deletes_what_nodes_left_that_were_killed(postgres: PostgresServer, tmp_path: Path) -> None:
    url = await postgres.make()
    async with (
        simulated() as coze,
        cluster(postgres, coze.url, nodes=1, GATEWAY_DATABASE_URL=url) as found,
    ):
        running, busy = await found.begin(0, SLOW, userId="ann")
        queued, _ = await found.begin(0, QUICK, userId="ann", conversationId=busy, onBusy="queue")
        kept, _ = await found.begin(0, LONG, userId="bob")
        await found.speaks(0, kept)
        await found.nodes[0].kill()
        deleted = await command(tmp_path, url, "delete", "--conversation", busy)
        assert (deleted.returncode, deleted.stdout) == (0, f"deleted {busy}\n"), deleted.stderr
        assert not traces(url)
        await found.start()
        for turn in (running, queued):
            assert (await found.post(1, f"turns/{turn}/cancel"))[0] == 404
        last = await found.last(1, kept)
        assert (last["event"], last["recovered"]) == ("completed", True)


async def test_the_operator_deletes_what_a_node_was_killed_before_it_stored(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = await postgres.make()
    async with (
        simulated() as coze,
        cluster(postgres, coze.url, nodes=1, GATEWAY_DATABASE_URL=url) as found,
    ):
        _, busy = await found.begin(0, SLOW, userId="ann")
        await found.nodes[0].kill()
        with psycopg.connect(url) as connection:
            for statement in (
                "DELETE FROM turns",
                "DELETE FROM conversations",
                "UPDATE log_nodes SET beat = beat - interval '1 hour'",
            ):
                connection.execute(statement.encode())
        deleted = await command(tmp_path, url, "delete", "--user", "ann")
        assert (deleted.returncode, deleted.stdout) == (0, f"deleted {busy}\n"), deleted.stderr
        assert not traces(url)


async def test_processes_that_start_at_once_on_an_empty_database_all_find_its_tables(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = await postgres.make_empty()
    async with simulated() as coze:
        settings = SWIFT | {"COZE_API_BASE": coze.url, "GATEWAY_DATABASE_URL": url}
        migrating = [command(tmp_path, url, "migrate") for _ in range(5)]
        starting = [GatewayProcess.hatch("serve", "--port", "0", environment=settings) for _ in range(5)]
        *migrated, nodes = await asyncio.gather(*migrating, asyncio.gather(*starting))
        try:
            assert [(one.returncode, one.stderr) for one in migrated] == [(0, "")] * 5
            assert all("the database is up to date" in one.stdout for one in migrated)
            for node in nodes:
                await node.ready(within=90)
            assert len(tables(url, named="alembic_version")) == 1
        finally:
            await asyncio.gather(*(node.kill() for node in nodes))


@pytest.mark.parametrize("arguments", [("migrate",), ("delete", "--user", "u")])
def test_a_database_that_is_not_there_is_a_sentence_without_its_password(
    tmp_path: Path, postgres: PostgresServer, arguments: tuple[str, ...]
) -> None:
    done = hatched(*arguments, folder=tmp_path, GATEWAY_DATABASE_URL="postgresql://u:hunter2@127.0.0.1:1/gateway")
    assert done.returncode == 1
    assert done.stderr.endswith("PostgreSQL does not answer: postgresql://u@127.0.0.1:1/gateway\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("prepared", "user", "name", "why"),
    [
        ("", "nobody_there", "", "PostgreSQL does not know the user"),
        ("", "gateway", "not_there", "PostgreSQL has no such database"),
        ("CREATE ROLE few LOGIN CONNECTION LIMIT 0", "few", "", "PostgreSQL takes no more connections"),
        ("CREATE ROLE no_login NOLOGIN", "no_login", "", "PostgreSQL refuses the user or the password"),
    ],
    ids=["user", "database", "connections", "login"],
)
async def test_why_a_database_takes_no_connection_is_a_sentence(
    tmp_path: Path, postgres: PostgresServer, prepared: str, user: str, name: str, why: str
) -> None:
    url = urlsplit(await postgres.make())
    if prepared:
        with psycopg.connect(url.geturl(), autocommit=True) as connection:
            connection.execute(prepared)
    asked = url._replace(netloc=f"{user}@{url.netloc.rpartition('@')[2]}", path=f"/{name}" if name else url.path)
    for arguments in (("migrate",), ("delete", "--user", "u")):
        done = hatched(*arguments, folder=tmp_path, GATEWAY_DATABASE_URL=asked.geturl())
        assert done.returncode == 1
        assert why in done.stderr
        assert done.stderr.startswith("nothing was ")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ('FATAL:  password authentication failed for user "x"', "PostgreSQL refuses the user or the password"),
        ("server does not support SSL, but SSL was required", "PostgreSQL does not speak TLS as sslmode asks"),
        ("failed to resolve host 'nowhere': [Errno -2]", "PostgreSQL's host can't be found"),
        ("session is read-only", "PostgreSQL is not as target_session_attrs asks"),
        ("server closed the connection unexpectedly", "PostgreSQL does not answer"),
    ],
)
def test_what_libpq_says_of_a_connection_is_told_in_a_sentence_without_names(said: str, why: str) -> None:
    assert sentence(psycopg.OperationalError(f"connection failed: {said}")) == why


async def test_nodes_of_the_version_before_go_on_and_start_beside_newer_tables(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = await postgres.make()
    async with (
        simulated() as coze,
        cluster(postgres, coze.url, nodes=1, GATEWAY_DATABASE_URL=url) as found,
    ):
        turn, conversation = await found.begin(0, LONG)
        with psycopg.connect(url) as connection:
            for table in ("turns", "conversations", "log_stretches", "log_heads", "log_batches", "log_nodes"):
                connection.execute(f"ALTER TABLE {table} ADD COLUMN mood text NOT NULL DEFAULT ''".encode())
            connection.execute("CREATE TABLE moods (turn text PRIMARY KEY)")
            connection.execute("UPDATE alembic_version SET version_num = '9999_from_0004'")
        await found.start()
        for node in (0, 1):
            assert (await found.last(node, turn))["event"] == "completed"
            more, _ = await found.begin(node, "/fault plain pieces:3 rate:0 -- more", conversationId=conversation)
            assert (await found.last(1 - node, more))["event"] == "completed"
        assert "revision 9999_from_0004" in (await command(tmp_path, url, "migrate")).stdout
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999_from_9998'")
        refused = await command(tmp_path, url, "migrate")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "was made by a newer version of the gateway (its revision is '9999_from_9998'" in refused.stderr
        more, _ = await found.begin(0, "/fault plain pieces:3 rate:0 -- more")
        assert (await found.last(1, more))["event"] == "completed"
