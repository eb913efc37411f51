"""PostgreSQL's disk is full: the gateway says so, shows nothing that is not durable, and goes on once there is room."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from gateway.simulator import whole_text
from tests.databases import PostgresServer
from tests.faults.coze import gateway, patience, simulated
from tests.faults.reading import Reader, Refused, client
from tests.waiting import until

LONG = "/fault plain pieces:400 rate:40 -- while the disk is full"
FULL = "PostgreSQL's disk is full"
PATIENT = {"GATEWAY_UPSTREAM_IDLE_TIMEOUT": "60"}  # the database is what is tried here, not Coze


class Disk:
    """A small disk that holds one database's tables; PostgreSQL's own log of changes is elsewhere."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leaves no byte."""
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass

    def empty(self) -> None:
        self._ballast.unlink()


@contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """A folder on a small disk, for PostgreSQL's files."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m,mode=755", "tmpfs", folder], check=True)
    try:
        tables = folder / "tables"
        tables.mkdir()
        shutil.chown(tables, "nobody")
        yield tables
    finally:
        subprocess.run(["umount", folder], check=True)


@asynccontextmanager
async def small_disk(postgres: PostgresServer) -> AsyncIterator[tuple[Disk, str]]:
    """The disk, and the URL of a database on it."""
    folder = Path(postgres.socket).parent / "small-disk"  # which PostgreSQL can reach
    with mounted(folder) as tables:
        url = await postgres.make(on=tables)
        try:
            yield Disk(folder), url
        finally:
            await asyncio.to_thread(postgres.drop, url)


async def readiness(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with session.get(f"{url}/readyz") as response:
        return response.status, await response.text()


async def test_a_full_disk_is_a_pause_then_a_refusal_that_names_it_and_heals_by_itself(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    async with (
        simulated() as coze,
        small_disk(postgres) as (disk, url),
        gateway(tmp_path / "a", coze.url, GATEWAY_DATABASE_URL=url, **PATIENT) as a,
        gateway(tmp_path / "b", coze.url, GATEWAY_DATABASE_URL=url, **PATIENT) as b,
        client() as session,
    ):
        asked, other = Reader(), Reader()
        asking = asyncio.create_task(asked.ask(session, a.url, LONG))
        await asked.until(lambda r: r.text)
        other.turn_id, other.book = asked.turn_id, asked.book
        listening = asyncio.create_task(other.listen(session, b.url, "websocket"))
        await other.until(lambda r: r.text)

        disk.fill()
        await until(lambda: "log.uncertain" in "\n".join(a.text), within=patience(5))
        assert FULL in "\n".join(a.text)
        shown = asked.text
        meanwhile = Reader()
        waiting = asyncio.create_task(meanwhile.ask(session, b.url, "/fault plain rate:0 pieces:4 -- meanwhile"))
        await asyncio.sleep(3)  # for so long it is full
        disk.empty()
        async with asyncio.timeout(patience(5)):
            await waiting
            await asked.until(lambda r: r.text != shown)
        assert meanwhile.last["event"] == "completed"
        assert not asked.named("notice")

        disk.fill()
        message = f"/fault plain -- not for so long {'long ' * 3000}"
        asks = [asyncio.create_task(Reader().ask(session, node.url, message)) for node in (a, b)]
        for ask in asks:
            with pytest.raises(Refused) as refused:
                await ask
            assert (refused.value.status, refused.value.code) == (503, "storage_unavailable")

        async def named() -> bool:
            status, text = await readiness(session, a.url)
            return status == 503 and FULL in text

        await until(named, within=patience(15))
        disk.empty()
        async with asyncio.timeout(patience(25)):
            await asyncio.gather(asking, listening)
        for reader in (asked, other):
            assert reader.last["event"] == "completed"
            assert reader.text == whole_text(LONG)
            assert reader.resets == 0
        assert coze.posts_of(LONG) == 1
        for node in (a, b):
            await until(lambda node=node: _ready(session, node.url), within=patience(5))  # type: ignore[misc]
            assert "Traceback" not in "\n".join(node.text)


async def _ready(session: aiohttp.ClientSession, url: str) -> bool:
    return (await readiness(session, url))[0] == 200
