"""The client module: its own tests in Node, and pages of another origin with a real gateway."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import BrowserContext, Page

from tests.browser.conftest import Stub
from tests.conftest import Require
from tests.processes import GatewayProcess

Start = Callable[..., Awaitable[GatewayProcess]]

HERE = Path(__file__).parent
MODULE = HERE.parent.parent / "adapters" / "browser" / "client" / "coze-gateway.js"


async def passed(node: str, file: str, stub: Stub, share: int, shares: int) -> int:
    """How many tests of a share of a file passed; none failed."""
    environment = {"PATH": os.environ.get("PATH", ""), "STUB_URL": stub.url, "MODULE": MODULE.as_uri()}
    process = await asyncio.create_subprocess_exec(
        node, "--experimental-websocket", "--test", "--test-reporter=tap", str(HERE / file),
        env=environment | {"SHARE": str(share), "SHARES": str(shares)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 110)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output.decode()
    assert process.returncode == 0, text[-6000:]
    found = re.search(r"^# pass (\d+)$", text, re.M)
    assert found
    return int(found[1])


@pytest.mark.parametrize(
    ("file", "least", "shares"), [("client.test.js", 103, 8), ("away.test.js", 14, 1), ("hostile.test.js", 111, 2)]
)
async def test_the_module_passes_its_own_tests_in_node(
    stub: Stub, require: Require, file: str, least: int, shares: int
) -> None:
    """Side by side, since most of them wait."""
    node = require("node")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(passed(node, file, stub, share, shares)) for share in range(shares)]
    assert sum(task.result() for task in tasks) >= least, "tests were left out"


def test_the_types_name_every_export(require: Require) -> None:
    script = f"console.log(Object.keys(await import({json.dumps(MODULE.as_uri())})).join())"
    command = [require("node"), "--input-type=module", "--eval", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    types = MODULE.with_suffix(".d.ts").read_text(encoding="utf-8")
    declared = re.findall(r"^export (?:class|function) (\w+)", types, re.M)
    assert sorted(done.stdout.strip().split(",")) == sorted(declared)


ASK = """async (base) => {
    const { chat } = await import(`${base}/client/coze-gateway.js`);
    window.states = []; // [when, state, reason]
    window.asked = []; // when
    window.pieces = 0;
    const network = { fetch: (...given) => { asked.push(performance.now()); return fetch(...given); } };
    const line = chat({
        baseUrl: base, userId: "u", botId: "b", message: "Tell me about streaming", network, random: () => 0.5,
        onEvent: ({ event }) => { pieces += event === "message"; },
        onState: (state, { reason }) => states.push([performance.now(), state, reason]),
    });
    window.ended = line.done.then(({ event }) => ({ event }), ({ code, message }) => ({ code, message }));
}"""


@pytest_asyncio.fixture(loop_scope="session")
async def shop(context: BrowserContext) -> AsyncIterator[Page]:
    """A page of another origin than any gateway's, with nothing on it."""
    app = web.Application()

    async def empty(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>shop</title>", content_type="text/html")

    app.router.add_get("/", empty)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    page = await context.new_page()
    await page.goto(f"http://127.0.0.1:{runner.addresses[0][1]}/")
    yield page
    await page.close()
    await runner.cleanup()


@pytest.mark.parametrize("place", ["http", "file"])
async def test_a_page_of_an_origin_that_is_not_allowed_is_told_which_setting_lacks_it(
    shop: Page, gateway: Start, tmp_path: Path, place: str
) -> None:
    started = await gateway()
    if place == "file":
        (tmp_path / "shop.html").write_text("<!doctype html><title>shop</title>", encoding="utf-8")
        await shop.goto((tmp_path / "shop.html").as_uri())
    await shop.evaluate(ASK, started.url)
    ended: dict[str, Any] = await shop.evaluate("ended")
    assert ended["code"] == "forbidden_origin"
    assert "GATEWAY_ALLOWED_ORIGINS" in ended["message"]
    advice = f"Add {await shop.evaluate('origin')} to" if place == "http" else "serve it over http"
    assert advice in ended["message"]
    states = [state[1:] for state in await shop.evaluate("states")]
    assert ["waiting", "forbidden_origin"] in states
    assert states[-1][0] == "closed"


async def test_a_page_of_an_allowed_origin_outlives_the_gateways_crash_and_asks_little_meanwhile(
    shop: Page, gateway: Start, free_port: Callable[[], int]
) -> None:
    settings = {"GATEWAY_ALLOWED_ORIGINS": await shop.evaluate("location.origin"), "GATEWAY_SIMULATOR_RATE": "60"}
    port = str(free_port())
    first = await gateway("--port", port, **settings)
    await shop.evaluate(ASK, first.url)
    await shop.wait_for_function("pieces > 0")
    await first.kill()
    killed = await shop.evaluate("performance.now()")
    await shop.wait_for_function("states.filter(([, state]) => state === 'waiting').length === 4")
    asked, away = await shop.evaluate(
        "(from) => [asked.filter((at) => at > from).length, performance.now() - from]", killed
    )
    assert asked <= 2 + away / 1_000, f"{asked} requests in {away:.0f} ms"
    await gateway("--port", port, **settings)
    ready = await shop.evaluate("performance.now()")
    await shop.wait_for_function("(from) => states.some(([at, state]) => state === 'open' && at > from)", arg=killed)
    assert await shop.evaluate("performance.now()") - ready < 10_000
    assert await shop.evaluate("ended") == {"event": "completed"}
