"""A transport from another package: found by its entry point, held to the same rules, as the docs show it."""

import ast
import asyncio
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from adapters import plugin as offered
from gateway.errors import GatewayError
from tests.processes import ROOT
from tests.transports.conftest import Serve
from tests.transports.readers import everything, ndjson, sse

EXAMPLE = Path(__file__).parent / "ndjson_example"


def test_the_docs_show_the_example_as_it_is() -> None:
    shown = (ROOT / "docs" / "transports.md").read_text(encoding="utf-8")
    assert (EXAMPLE / "ndjson_transport.py").read_text(encoding="utf-8").strip() in shown
    points = re.search(r"\[project\.entry-points.*\n.*\n", (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))
    assert points is not None
    assert points[0].strip() in shown


def test_the_example_and_the_docs_import_nothing_of_ours_but_the_plugin_module() -> None:
    example = (EXAMPLE / "ndjson_transport.py").read_text(encoding="utf-8")
    imported: set[str] = set()
    for node in ast.walk(ast.parse(example)):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module or "")
    assert {name for name in imported if name.split(".")[0] in ("adapters", "gateway", "tests")} == {"adapters.plugin"}
    shown = (ROOT / "docs" / "transports.md").read_text(encoding="utf-8")
    assert set(re.findall(r"(?:from|import) ((?:adapters|gateway)\b[\w.]*)", shown)) == {"adapters.plugin"}


def test_the_docs_name_all_that_the_plugin_module_offers() -> None:
    shown = (ROOT / "docs" / "transports.md").read_text(encoding="utf-8")
    assert all(hasattr(offered, name) for name in offered.__all__)
    assert [name for name in offered.__all__ if not re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", shown)] == []


async def test_its_routes_are_there_when_its_package_is(
    serve: Serve, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setattr(sys, "path", [place for place in sys.path if place != str(plugin)])
        served = await serve()
    over = await served.ask("/fault plain pieces:3 rate:0 -- x")
    assert (await served.get(f"/api/coze/turns/{over[0]['turnId']}/ndjson"))[0] == 404
    served = await serve()
    over = await served.ask("/fault plain pieces:3 rate:0 -- x")
    door = served.door(f"turns/{over[0]['turnId']}")
    assert await everything(ndjson, door) == await everything(sse, door)
    assert (await served.get("/api/coze/turns/turn_00000000-0000-4000-8000-000000000000/ndjson"))[0] == 404
    async with served.session.get(f"{served.url}/metrics") as response:
        assert 'gateway_connections_opened_total{transport="ndjson"}' in await response.text()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("transport = None", AttributeError),
        ("class transport:\n    name = 'sse'", GatewayError),
        ("raise ValueError('a bug')", ValueError),
    ],
)
async def test_one_that_cannot_be_added_stops_the_start_and_is_named(
    serve: Serve, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: list[Any], code: str, error: Any
) -> None:
    broken = shutil.copytree(package, tmp_path / "broken")
    (broken / "ndjson_transport.py").write_text(code)
    monkeypatch.setattr(sys, "path", [*sys.path, str(broken)])
    monkeypatch.delitem(sys.modules, "ndjson_transport", raising=False)
    with pytest.raises(error):
        await serve()
    monkeypatch.delitem(sys.modules, "ndjson_transport", raising=False)
    (line,) = [line for line in logs if line["event"] == "gateway.transport_failed"]
    assert (line["object"], line["package"]) == ("ndjson_transport:transport", "coze-gateway-ndjson")


async def test_a_plugins_stream_beats_when_nothing_comes_and_notices_a_client_that_leaves(
    serve: Serve, plugin: Path
) -> None:
    served = await serve(heartbeat_interval=0.1)
    door = await served.start("/fault slow-head:1000 plain -- wait")
    async with served.session.get(f"{served.url}/api/coze/{door.topic}/ndjson") as response:
        assert b'"started"' in await response.content.readline()
        for _ in range(3):
            assert await asyncio.wait_for(response.content.readline(), 1) == b"\n"
    await served.quiet()


async def test_a_plugins_connections_count_towards_the_limits(serve: Serve, plugin: Path) -> None:
    served = await serve(max_connections=1)
    door = await served.start("/fault plain pieces:4000 rate:50 -- busy")
    url = f"{served.url}/api/coze/{door.topic}/ndjson"
    async with served.session.get(url) as response, aiohttp.ClientSession() as another:
        assert response.status == 200
        async with another.get(url) as refused:
            assert (refused.status, (await refused.json())["code"]) == (503, "overloaded")
