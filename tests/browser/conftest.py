"""A stub gateway, and tabs of a real browser. Every error or warning in a tab fails the test."""

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from adapters.browser import PAGE_PATH
from tests.browser import stub as stubs
from tests.conftest import Require
from tests.folders import prepared
from tests.processes import GatewayProcess

# Without these, a browser that is root and without a network complains, and asks its maker's hosts for things.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--process-per-site",  # a tab more is no process more
]
_VIEWPORT: Any = {"width": 1280, "height": 860}
PLAIN = " ".join(f"word{i}" for i in range(160))
"""An answer whose text on the page is the text that was sent."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The browser, its tabs and the stubs live in one event loop; so must the tests that use them."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@dataclass
class Stub:
    """A running stub gateway."""

    url: str
    app: web.Application

    @property
    def world(self) -> stubs.World:
        """The world that the page lives in."""
        return self.app[stubs.WORLDS].setdefault("", stubs.World())

    def behaves(self, **manners: Any) -> None:
        for name, value in manners.items():
            assert hasattr(self.world.manners, name), name
            setattr(self.world.manners, name, value)

    def by_hand(self) -> "asyncio.Queue[stubs.Turn]":
        """From now on turns only begin. The queue gives them to the test, which appends their events."""
        begun: asyncio.Queue[stubs.Turn] = asyncio.Queue()
        world = self.world

        async def write(turn: stubs.Turn) -> None:
            ids = {"conversationId": turn.conversation, "turnId": turn.id}
            await world.append(turn, {"event": "started", **ids, "input": turn.input})
            begun.put_nowait(turn)

        setattr(world, "write", write)  # noqa: B010 - a method is not to be assigned, says mypy
        return begun


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stub_server() -> AsyncIterator[Stub]:
    """One address for all tests, so that the browser loads and compiles its scripts only once."""
    app = stubs.make_app()
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield Stub(f"http://127.0.0.1:{runner.addresses[0][1]}", app)
    await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="session")
async def stub(stub_server: Stub) -> AsyncIterator[Stub]:
    """A stub gateway that has no turns yet."""
    yield stub_server
    worlds = stub_server.app[stubs.WORLDS]
    for world in worlds.values():
        for task in world.tasks:
            task.cancel()
    worlds.clear()


def _quick(folder: Path) -> dict[str, str]:
    return {"GATEWAY_DATA_DIR": str(prepared(folder / "data")), "GATEWAY_SIMULATOR_FIRST_MS": "100"}


@pytest_asyncio.fixture(loop_scope="session")
async def gateway(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[GatewayProcess]]]:
    """`await gateway("--port", "1234", GATEWAY_…=…)`: the real one, as a process, its data in the test's folder."""
    started: list[GatewayProcess] = []

    async def start(*flags: str, **environment: str) -> GatewayProcess:
        process = await GatewayProcess.hatch("serve", "--port", "0", *flags, environment=_quick(tmp_path) | environment)
        started.append(process)
        await process.ready()
        return process

    yield start
    for process in started:
        await process.kill()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def quick_gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayProcess]:
    """The real gateway for tests that need only answers: these are quick, and Coze may be silent for a second."""
    settings = {"GATEWAY_SIMULATOR_RATE": "400", "GATEWAY_UPSTREAM_IDLE_TIMEOUT": "1"}
    process = await GatewayProcess.hatch(
        "serve", "--port", "0", environment=_quick(tmp_path_factory.mktemp("quick")) | settings
    )
    await process.ready()
    yield process
    await process.kill()


@dataclass
class Tab:
    """A tab with the page open, and what it complained about."""

    page: Page
    home: str
    complaints: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    faulty: bool = False
    """A fault was put in: the browser's own lines about the network are expected."""

    async def open(self, path: str = PAGE_PATH) -> None:
        await self.page.goto(self.home + path)
        await self.page.wait_for_selector("html[data-ready=true]")

    async def ask(self, message: str) -> None:
        await self.page.fill("#message", message)
        await self.page.keyboard.press("Enter")

    async def over(self, state: str = "completed", nth: int = -1) -> str:
        """The text of a turn's answer, once the turn is over and all of it is typed."""
        await self.page.locator(f'.turn[data-state="{state}"]').nth(nth).wait_for(timeout=30_000)
        turn = self.page.locator(".turn").nth(nth)  # with two contents, where a card stands between
        unfinished = turn.locator(".content:not([data-typed=whole])")
        await expect(unfinished).to_have_count(0, timeout=30_000)
        await self.page.wait_for_timeout(50)  # what came with the last event is taken up in the next frame
        await expect(unfinished).to_have_count(0, timeout=30_000)
        return "\n\n".join(await turn.locator(".content").all_inner_texts()).strip()

    async def figure(self, name: str) -> str:
        return await self.page.locator(f"[data-figure={name}]").inner_text()

    def check(self) -> None:
        assert self.complaints == []
        assert self.strangers == []


NETWORK_LINE = re.compile(
    r"net::ERR_|Failed to load resource|WebSocket connection to|closed before the connection is established", re.I
)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(require: Require) -> AsyncIterator[Browser]:
    chromium = require("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS, headless=True)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def first_page(browser: Browser, stub_server: Stub) -> AsyncIterator[Page]:
    """A page of the one context, which stays open: with it stays what was loaded and compiled."""
    context = await browser.new_context(locale="en-US", viewport=_VIEWPORT)
    await context.add_init_script(
        "addEventListener('securitypolicyviolation',"
        " (e) => console.error('POLICY', e.violatedDirective, e.blockedURI, e.sample))"
    )
    page = await context.new_page()
    await page.goto(f"{stub_server.url}/page/icon.svg")
    yield page
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def context(first_page: Page) -> AsyncIterator[BrowserContext]:
    """A browser context, cleaned for each test: starting a new one takes longer than most tests."""
    context = first_page.context
    origins: set[str] = set()
    context.on("request", note := lambda request: origins.add("/".join(request.url.split("/")[:3])))
    yield context
    context.remove_listener("request", note)
    for page in context.pages:
        if page is not first_page:
            await page.close()
    await context.set_offline(False)
    await context.clear_permissions()
    await context.clear_cookies()
    session = await context.new_cdp_session(first_page)
    for origin in origins:
        if origin.startswith("http"):
            await session.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "all"})
    await session.detach()
    assert not await first_page.evaluate("'__pwClock' in window"), "a clock was left behind: use tab_with_a_clock"


@pytest_asyncio.fixture(loop_scope="session")
async def new_tab(context: BrowserContext, stub: Stub, gateway: object) -> AsyncIterator[Callable[..., Any]]:
    """`await new_tab()`: one more tab of the same browser, watched. Looked at before any gateway is ended."""
    tabs: list[Tab] = []

    async def make(home: str = stub.url, within: BrowserContext = context) -> Tab:
        page = await within.new_page()
        tab = Tab(page, home)
        tabs.append(tab)

        def console(message: Any) -> None:
            if message.type not in ("error", "warning"):
                return
            if tab.faulty and NETWORK_LINE.search(message.text):
                return
            tab.complaints.append(f"{message.type}: {message.text}")

        def request(request: Any) -> None:
            if not request.url.startswith((home, "data:", "blob:")):
                tab.strangers.append(request.url)

        page.on("console", console)
        page.on("pageerror", lambda error: tab.complaints.append(f"page error: {error}"))
        page.on("request", request)
        return tab

    yield make
    for tab in tabs:
        tab.check()


@pytest_asyncio.fixture(loop_scope="session")
async def tab_with_a_clock(browser: Browser, new_tab: Callable[..., Any]) -> AsyncIterator[Tab]:
    """A tab whose time the test may move: in a context of its own, because a clock stays with all later pages."""
    context = await browser.new_context(locale="en-US", viewport=_VIEWPORT)
    tab: Tab = await new_tab(within=context)
    await tab.open()
    await tab.page.clock.install()
    yield tab
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def tab(new_tab: Callable[..., Any]) -> Tab:
    tab: Tab = await new_tab()
    await tab.open()
    return tab
