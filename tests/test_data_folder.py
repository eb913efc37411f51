"""The data folder under any name that a file system allows."""

import os
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from gateway.log.sqlite import SqliteJournal
from gateway.telemetry.ledger import Ledger
from tests.processes import GatewayProcess
from tests.test_cli import run
from tests.transports.conftest import serving

NAMES = [
    "a%20b",
    "a?mode=memory&vfs=none#c",
    "数据 é 'b\"c\\d;token=abcdefgh",
    "file:a",
    "two\nlines",
    os.fsdecode(b"not-\xff-utf8"),
]


@pytest.mark.parametrize("name", NAMES)
async def test_both_databases_lie_in_the_folder_that_was_named_and_are_found_again(
    start_gateway: Callable[..., Awaitable[GatewayProcess]], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name / "inner"
    gateway = await start_gateway(GATEWAY_DATA_DIR=str(folder))
    body = {"userId": "u", "botId": "b", "message": "/fault plain pieces:3 rate:0 -- hi"}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{gateway.url}/api/coze/chat", json=body) as response:
            assert response.status == 200
            conversation = (await response.json())["conversationId"]
        async with session.get(f"{gateway.url}/readyz") as response:
            assert response.status == 200, await response.text()
    assert await gateway.terminate() == 0
    assert {"log.db", "gateway.db", "lock"} <= {file.name for file in folder.iterdir()}
    assert os.listdir(tmp_path) == [name]
    async with serving(tmp_path, data_dir=folder) as again:
        _, _, answer = await again.get(f"/api/coze/conversations/{conversation}/messages")
        assert len(answer["messages"]) == 2


@pytest.mark.parametrize("name", ["file:a%20b", "file:a", ":memory:"])
async def test_a_relative_folder_is_a_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir(name)
    journal = SqliteJournal(Path(name) / "log.db", ledger=Ledger())
    await journal.open()
    await journal.close()
    assert os.listdir(tmp_path) == [name]
    assert "log.db" in os.listdir(tmp_path / name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_check_config_prints_it_so_that_it_can_be_read_again(tmp_path: Path, name: str, encoding: str) -> None:
    folder = str(tmp_path / name)
    done = run("check-config", folder=tmp_path, GATEWAY_DATA_DIR=folder, PYTHONIOENCODING=f"{encoding}:strict")
    assert (done.returncode, done.stderr) == (0, "")
    if "\udcff" not in name:  # TOML is UTF-8: it has no way to write that one
        assert tomllib.loads(done.stdout)["data_dir"] == folder


def test_what_is_no_path_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text('data_dir = "a\\u0000b"\n')
    done = run("check-config", "--config", "f.toml", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("f.toml: data_dir=")
