"""Real clients: a browser's own EventSource and WebSocket, curl, `websockets`, and npm's `eventsource`."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import websockets
from playwright.async_api import Page, async_playwright

from tests.transports.conftest import Serve, Served
from tests.transports.pages import FOLLOW, NODE
from tests.transports.readers import everything, sse
from tests.waiting import until

ANSWER = "/fault plain pieces:40 rate:40 -- 你好, a real client"
Require = Callable[[str], str]


@pytest.fixture
async def served(serve: Serve) -> Served:
    """Clients that come back by themselves are told to do so soon."""
    return await serve(retry_ms=200)


@pytest.fixture
async def page(require: Require, served: Served) -> AsyncIterator[Page]:
    """A page of the gateway's own origin in a real browser."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=require("chromium"), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        page = await browser.new_page(bypass_csp=True)  # /healthz, a bare page, allows no connection
        await page.goto(f"{served.url}/healthz")
        yield page
        await browser.close()


async def check(served: Served, topic: str, heard: dict[str, Any]) -> None:
    """What a client heard is the whole turn, once."""
    wanted = (await everything(sse, served.door(topic)))[-1]
    assert heard["last"] == wanted
    assert heard["text"] == wanted["content"]
    assert len(heard["ids"]) == len(set(heard["ids"]))


async def test_a_browsers_eventsource_hears_a_turn_live_and_stops_by_itself(served: Served, page: Page) -> None:
    door = await served.start(ANSWER)
    heard = await asyncio.wait_for(
        page.evaluate(FOLLOW, {"kind": "eventsource", "path": f"/api/coze/{door.topic}/events"}), 20
    )
    await check(served, door.topic, heard)
    assert heard["names"].count("message") > 15  # live, not all at the end
    assert max(heard["gaps"][2:-5]) < 500
    assert heard["opens"] == 1
    assert heard["errors"] <= 2  # the end of the stream, and the 204 that stops it


async def test_a_browsers_eventsource_comes_back_by_itself_when_it_is_cut(served: Served, page: Page) -> None:
    door = await served.start("/fault plain pieces:150 rate:40 -- 你好, cut me")
    following = asyncio.create_task(
        page.evaluate(FOLLOW, {"kind": "eventsource", "path": f"/api/coze/{door.topic}/events"})
    )
    for _ in range(2):
        await until(lambda: served.services.ledger.count("connection"))
        await asyncio.sleep(0.3)  # some of the answer comes
        for heart in list(served.services.hub._heartbeats._hearts):
            heart.transport.abort()  # type: ignore[attr-defined]
        await asyncio.sleep(0.05)  # so that the next round finds the new connection
    heard = await asyncio.wait_for(following, 30)
    await check(served, door.topic, heard)
    assert heard["opens"] >= 2


async def test_a_browsers_websocket_hears_a_turn_live_and_is_closed_cleanly(served: Served, page: Page) -> None:
    door = await served.start(ANSWER)
    heard = await asyncio.wait_for(
        page.evaluate(FOLLOW, {"kind": "websocket", "path": f"/api/coze/{door.topic}/ws"}), 20
    )
    await check(served, door.topic, heard)
    assert heard["closed"] == [1000, True]
    assert heard["names"].count("message") > 15


async def test_curl_prints_the_answer_piece_by_piece(served: Served, require: Require) -> None:
    body = json.dumps({"userId": "u", "botId": "b", "message": ANSWER})
    process = await asyncio.create_subprocess_exec(
        require("curl"), "-sN", "-X", "POST", f"{served.url}/api/coze/chat/stream",
        "-H", "Content-Type: application/json", "-d", body, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    times, events = [], []
    async with asyncio.timeout(20):
        async for line in process.stdout:
            if line.startswith(b"data: "):
                times.append(asyncio.get_running_loop().time())
                events.append(json.loads(line[6:]))
        assert await process.wait() == 0
    assert (events[0]["event"], events[-1]["event"]) == ("started", "completed")
    assert "".join(e["content"] for e in events if e["event"] == "message") == events[-1]["content"]
    assert times[-1] - times[0] > 0.6


async def test_the_websockets_library_hears_pings_and_closes(served: Served) -> None:
    door = await served.start(ANSWER)
    url = f"{served.url.replace('http', 'ws')}/api/coze/{door.topic}/ws"
    events = []
    async with websockets.connect(url) as socket:
        pong = await socket.ping()
        await asyncio.wait_for(pong, 2)
        await socket.send('{"type":"ping"}')
        async for message in socket:
            said = json.loads(message)
            if said != {"type": "pong"}:
                events.append(said)
    assert socket.close_code == 1000
    assert "".join(e["content"] for e in events if e["event"] == "message") == events[-1]["content"]


@pytest.fixture(scope="session")
def eventsource(require: Require, pytestconfig: pytest.Config) -> Path:
    """npm's `eventsource`, installed once into pytest's cache."""
    folder = Path(pytestconfig.cache.mkdir("eventsource"))
    package = folder / "node_modules" / "eventsource"
    if not (package / "package.json").exists():
        npm = require("npm")
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
        done = subprocess.run(
            [*command, "eventsource@4"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=90,
            check=False,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"npm can't install eventsource: {done.stderr[-200:]}")
    return package


async def test_npms_eventsource_hears_a_turn_and_stops_at_the_204(
    served: Served, require: Require, eventsource: Path
) -> None:
    door = await served.start(ANSWER)
    process = await asyncio.create_subprocess_exec(
        require("node"), "-e", NODE, "--", str(eventsource), f"{served.url}/api/coze/{door.topic}/events",
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    try:
        out, _ = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    await check(served, door.topic, json.loads(out))
