"""Moving from a data folder to PostgreSQL: whoever read or asked there goes on here, and a failure leaves nothing."""

import asyncio
import contextlib
import hashlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from adapters.moving import move
from gateway.config.settings import Settings
from gateway.errors import GatewayError
from gateway.postgres.failures import NoReply
from gateway.postgres.filling import Filling, filling
from gateway.simulator import whole_text
from tests.databases import PostgresServer
from tests.faults.coze import SWIFT, simulated
from tests.faults.reading import client
from tests.folders import prepared
from tests.nodes.cluster import Cluster, cluster
from tests.nodes.test_commands import SECRET, command, tables, traces
from tests.processes import clean_environment
from tests.transports.book import Book, Reader
from tests.transports.readers import TRANSPORTS, Event, everything, first
from tests.waiting import until

pytestmark = pytest.mark.timeout(240)

QUICK = "/fault plain pieces:12 rate:0 -- quick"
BROKEN = "/fault failed -- breaks"
LONG = "/fault reasoning pieces:800 rate:40 -- a long one"
SECRETLY = f"/fault echo rate:0 -- {SECRET}"
WAYS = ("sse", "websocket", "shared", "longpoll")


@contextlib.asynccontextmanager
async def on_sqlite(session: aiohttp.ClientSession, coze: str, data: Path) -> AsyncIterator[Cluster]:
    """One gateway on a data folder."""
    found = Cluster(session, SWIFT | {"COZE_API_BASE": coze, "GATEWAY_DATA_DIR": str(prepared(data))})
    try:
        await found.start()
        yield found
    finally:
        await asyncio.gather(*(node.kill() for node in found.nodes))


def hashes(data: Path) -> dict[str, str]:
    """The files that hold anything. What SQLite's readers share in memory is no data."""
    files = [file for file in data.iterdir() if not file.name.endswith("-shm") and file.stat().st_size]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


async def messages(found: Cluster, conversation: str) -> Any:
    async with found.session.get(f"{found.url(0)}/api/coze/conversations/{conversation}/messages") as response:
        return await response.json()


async def heard(found: Cluster, turn: str, after: str | None = None) -> list[Event]:
    return await everything(TRANSPORTS["sse"], found.door(0, f"turns/{turn}"), after)


async def test_readers_askers_and_turns_go_on_in_postgresql(postgres: PostgresServer, tmp_path: Path) -> None:
    data, url = tmp_path / "data", await postgres.make_empty()
    async with simulated() as coze, client() as session:
        async with on_sqlite(session, coze.url, data) as before:
            done, conversation = await before.begin(0, QUICK, shopId="s", key="first")
            whole = await heard(before, done)
            failed, _ = await before.begin(0, BROKEN)
            cancelled, _ = await before.begin(0, LONG)
            await before.post(0, f"turns/{cancelled}/cancel")
            for turn in (failed, cancelled):
                await heard(before, turn)
            ends = {turn: await heard(before, turn) for turn in (failed, cancelled)}  # as all who come later
            assert [events[-1]["event"] for events in ends.values()] == ["error", "cancelled"]
            told = await first(TRANSPORTS["sse"], before.door(0, "shops/s"), "0", 2)
            refused = await command(tmp_path, url, "move")
            assert (refused.returncode, refused.stdout) == (1, "")
            assert "another gateway is using the data folder" in refused.stderr
            running, busy = await before.begin(0, LONG, shopId="s")
            queued, _ = await before.begin(0, QUICK, conversationId=busy, onBusy="queue", key="waits")
            readers = [Reader(book) for book in [Book()] for _ in WAYS]
            for number, (reader, way) in enumerate(zip(readers, WAYS, strict=True)):
                await before.go_on(reader, 0, running, way, pieces=5 + 3 * number)
            stood = {turn: await before.state(0, turn) for turn in (done, failed, cancelled)}
            history = await messages(before, conversation)
            gone, erased = await before.begin(0, SECRETLY)
            await heard(before, gone)
            async with session.delete(f"{before.url(0)}/api/coze/conversations/{erased}") as response:
                assert response.status == 204
            await before.nodes[0].kill()
        left = b"".join(file.read_bytes() for file in data.glob("log.db*"))
        assert SECRET.encode() not in left  # neither in stretches nor in batches
        kept = hashes(data)
        moved = await command(tmp_path, url, "move")
        assert (moved.returncode, moved.stderr) == (0, "")
        assert moved.stdout.endswith("with 2 turns that the next start goes on with; the data folder was not changed\n")
        assert hashes(data) == kept
        again = await command(tmp_path, url, "move")
        assert (again.returncode, again.stdout) == (1, "")
        assert again.stderr == "data was moved into this database before\n"
        assert traces(url) == []
        with psycopg.connect(url) as connection:  # no node may claim it before one has adopted the turn that waits
            heads = connection.execute("SELECT node FROM log_heads WHERE key = %s", (busy,)).fetchall()
            assert heads == [(-1,)]
        async with cluster(postgres, coze.url, nodes=2, GATEWAY_DATABASE_URL=url) as after:
            asked = {"userId": "u", "botId": "b", "message": QUICK, "shopId": "s"}
            for way in (*WAYS, "sse-post"):
                for at in (None, *(event["id"] for event in whole[:-1])):
                    rest = await everything(
                        TRANSPORTS[way], after.door(1, f"turns/{done}", body=asked, key="first"), at
                    )
                    assert rest[-1] == whole[-1], way
                    assert "reset" not in [event["event"] for event in rest]
            for turn, events in ends.items():
                assert await heard(after, turn) == events
            assert {turn: await after.state(0, turn) for turn in stood} == stood
            assert await messages(after, conversation) == history
            async with session.get(f"{after.url(0)}/api/coze/turns/{gone}") as response:
                assert response.status == 404
            for number, (reader, way) in enumerate(zip(readers, WAYS, strict=True)):
                await after.go_on(reader, number % 2, running, way, within=60)
                assert reader.last is not None
                assert (reader.last["event"], reader.last["recovered"]) == ("completed", True)
                assert reader.text == whole_text(LONG)
            assert (await after.last(1, queued, within=30))["content"] == whole_text(QUICK)
            assert (await after.ask(0, QUICK, shopId="s", key="first"))[1]["turnId"] == done
            waited = {"conversationId": busy, "onBusy": "queue"}
            assert (await after.ask(1, QUICK, key="waits", **waited))[1]["turnId"] == queued
            assert (await after.ask(1, LONG, key="waits", **waited))[0] == 422
            more, _ = await after.begin(1, QUICK, conversationId=conversation)
            following = await first(TRANSPORTS["sse"], after.door(0, f"conversations/{conversation}"), whole[-1]["id"])
            assert (following[0]["event"], following[0]["turnId"]) == ("started", more)
            news = await first(TRANSPORTS["longpoll"], after.door(1, "shops/s"), "0", 4)
            assert news[:2] == told
            assert [(event["type"], event["turnId"]) for event in news[2:]] == [
                ("turn.started", running),
                ("turn.completed", running),
            ]


async def a_folder(data: Path, coze: str) -> tuple[str, str]:
    """One whole turn, and its conversation, of a gateway that was stopped."""
    async with client() as session, on_sqlite(session, coze, data) as found:
        turn, conversation = await found.begin(0, QUICK)
        await heard(found, turn)
        assert await found.nodes[0].terminate() == 0
    return turn, conversation


def grown(data: Path, turns: int) -> None:
    """Repeats the folder's one turn, with a megabyte each in the database and in the log."""
    text = "x" * 2**20
    with closing(sqlite3.connect(data / "gateway.db")) as store, store:
        columns = [row[1] for row in store.execute("PRAGMA table_info(turns)") if row[1] not in ("ordinal", "id")]
        listed = ", ".join(columns)
        values = ", ".join("?" if column == "content" else column for column in columns)
        for number in range(turns):
            sql = f"INSERT INTO turns (id, {listed}) SELECT 'more_{number}', {values} FROM turns WHERE ordinal = 1"
            store.execute(sql, (text,))
    with closing(sqlite3.connect(data / "log.db")) as log, log:
        for number in range(turns):
            log.execute(
                "INSERT INTO stretches SELECT 1000 + ?1, 'key_' || ?1, epoch, first, last, 'more_' || ?1, '', ended,"
                " state, zeroblob(1048576) FROM stretches WHERE turn <> '' LIMIT 1",
                (number,),
            )


MEASURED = """
import re, sys
from gateway.__main__ import main
assert main(["move"]) == 0
print(re.search("VmHWM: +([0-9]+)", open("/proc/self/status").read().replace(chr(9), " "))[1])
"""


def peak(folder: Path, url: str) -> int:
    """The most memory that a move had, in MiB."""
    environment = clean_environment() | {"GATEWAY_DATABASE_URL": url}
    said = subprocess.check_output([sys.executable, "-c", MEASURED], env=environment, cwd=folder, timeout=120)
    return int(said.split()[-1]) // 1024


async def test_a_large_folder_passes_through_a_little_memory(postgres: PostgresServer, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with simulated() as coze:
        await a_folder(data, coze.url)
    small = await asyncio.to_thread(peak, tmp_path, await postgres.make_empty())
    grown(data, 60)
    url = await postgres.make_empty()
    large = await asyncio.to_thread(peak, tmp_path, url)
    assert large - small < 40, f"{small} MiB, then {large} MiB"
    assert len(tables(url, named="turns")) == 61


async def test_a_move_that_is_killed_or_fails_leaves_nothing_and_is_done_again(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, url = tmp_path / "data", await postgres.make_empty()
    async with simulated() as coze:
        turn, conversation = await a_folder(data, coze.url)
    grown(data, 30)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "move"),
        env=clean_environment() | {"GATEWAY_DATABASE_URL": url},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while not (await process.stdout.readline()).startswith(b"turns: "):
            pass
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
    assert not [*tables(url, named="turns"), *tables(url, named="log_stretches"), *tables(url, named="log_heads")]
    with closing(sqlite3.connect(data / "gateway.db")) as store, store:
        store.execute("UPDATE turns SET conversation_id = 'nowhere' WHERE ordinal = 7")
    failed = await command(tmp_path, url, "move")
    assert failed.returncode == 1
    assert failed.stderr == "PostgreSQL refuses a row: PostgreSQL reports ForeignKeyViolation (23503)\n"
    assert not tables(url, named="turns")
    with closing(sqlite3.connect(data / "gateway.db")) as store, store:
        store.execute("UPDATE turns SET conversation_id = ?", (conversation,))
    run = Filling.run

    async def unheard(self: Filling, sql: str, *parameters: Any) -> Any:
        rows = await run(self, sql, *parameters)
        if sql == "COMMIT":
            raise psycopg.OperationalError("the connection was cut before the reply")
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(Filling, "run", unheard)
        with pytest.raises(GatewayError, match="has not said whether everything was moved: try again to see"):
            await move(Settings(data_dir=data, database_url=url), print)
    again = await command(tmp_path, url, "move")
    assert again.returncode == 1
    assert again.stderr == "data was moved into this database before\n"
    assert len(tables(url, named="turns")) == 31
    async with simulated() as coze, cluster(postgres, coze.url, nodes=1, GATEWAY_DATABASE_URL=url) as found:
        assert (await found.state(0, turn))["content"] == whole_text(QUICK)
        more, _ = await found.begin(0, QUICK, conversationId=conversation)  # its ordinal is free
        assert (await found.last(0, more))["event"] == "completed"


async def refusal(data: Path, url: str) -> str:
    with pytest.raises(GatewayError) as caught:
        await move(Settings(data_dir=data, database_url=url), print)
    return str(caught.value)


async def test_what_is_refused_says_why_and_changes_nothing(postgres: PostgresServer, tmp_path: Path) -> None:
    data, url = tmp_path / "data", await postgres.make()
    assert await refusal(data, url) == f"there is no {data}/gateway.db: is GATEWAY_DATA_DIR right?"
    assert not data.exists()
    async with simulated() as coze:
        await a_folder(data, coze.url)
        with psycopg.connect(url) as connection:
            connection.execute("INSERT INTO log_heads (key, epochs, head) VALUES ('conv_1', 'a', 1)")
        assert (await refusal(data, url)).startswith("the database is not empty (there are rows in log_heads)")
        other = await postgres.make()
        async with cluster(postgres, coze.url, nodes=1, GATEWAY_DATABASE_URL=other) as found:
            await until(lambda: tables(other, named="log_nodes"))
            assert (await refusal(data, other)).startswith("a gateway uses the database, or was killed there")
            turn, _ = await found.begin(0, QUICK)
            assert (await found.last(0, turn))["event"] == "completed"
    with closing(sqlite3.connect(data / "gateway.db")) as store, store:
        store.execute("UPDATE alembic_version SET version_num = '0003'")
    said = "is another version's; first start this version once without GATEWAY_DATABASE_URL"
    assert await refusal(data, url) == f"{data} {said}"
    (data / "log.db").write_bytes(b"nonsense " * 1000)
    assert await refusal(data, url) == f"the data folder {data} can't be read: file is not a database"
    nowhere = await command(tmp_path, "", "move")
    assert nowhere.returncode == 2
    assert nowhere.stderr.startswith("GATEWAY_DATABASE_URL: ")


async def test_a_server_that_stops_answering_ends_the_move(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await postgres.make()
    monkeypatch.setattr("gateway.postgres.filling._REPLY_SECONDS", 0.5)
    rows = (("x" * 10_000 + str(number), 1) for number in count())

    async def fill() -> None:
        async with asyncio.timeout(30), filling(url, print, locked=("log_locks",)) as target:
            postgres.send(signal.SIGSTOP)
            await target.copy("log_locks", ("name", "node"), rows, of=0)

    try:
        with pytest.raises(NoReply):
            await fill()
    finally:
        postgres.send(signal.SIGCONT)
    assert not tables(url, named="log_locks")
