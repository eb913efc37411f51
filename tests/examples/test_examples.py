"""Every example runs as it stands: against a real gateway, in a real browser, through connections that break."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

from gateway.simulator import whole_text
from tests.conftest import Require
from tests.faults.proxy import proxied
from tests.processes import ROOT, GatewayProcess

EXAMPLES = ROOT / "examples"
QUESTION = '/fault plain pieces:60 rate:30 -- 你好, "quoted" and \\ back'
Start = Callable[..., Awaitable[GatewayProcess]]
Port = Callable[[], int]


def copied(folder: Path, **constants: str) -> Path:
    """The examples in a folder of their own, with other addresses in place of those that they show."""
    for file in EXAMPLES.iterdir():
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            for shown, used in constants.items():
                text = text.replace({"gateway": "http://127.0.0.1:3000", "port": "port=8000"}[shown], used)
            (folder / file.name).write_text(text, encoding="utf-8")
            (folder / file.name).chmod(file.stat().st_mode)
    return folder


@asynccontextmanager
async def running(*command: str, folder: Path, port: int) -> AsyncIterator[None]:
    """A server that is started, waited for until it listens, and ended by its id."""
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(15):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    assert process.returncode is None, "it ended"
                    await asyncio.sleep(0.05)  # a foreign program can only be asked again
                    continue
                writer.close()
                break
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def page(require: Require) -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=require("chromium"), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield await browser.new_page()
        await browser.close()


async def test_a_page_of_another_origin_asks_with_the_token_that_its_backend_mints(
    start_gateway: Start, page: Page, tmp_path: Path, free_port: Port
) -> None:
    port = free_port()
    (tmp_path / "jwt.secret").write_text("0123456789abcdef0123456789abcdef0123456789abcdef\n")
    gateway = await start_gateway(
        GATEWAY_AUTH="jwt",
        GATEWAY_JWT_SECRET_FILE=str(tmp_path / "jwt.secret"),
        GATEWAY_ALLOWED_ORIGINS=f"http://127.0.0.1:{port}",
        GATEWAY_SIMULATOR_RATE="400",
    )
    folder = copied(tmp_path, gateway=gateway.url, port=f"port={port}")
    async with running(sys.executable, "backend.py", folder=folder, port=port):
        await page.goto(f"http://127.0.0.1:{port}/")
        for question in (QUESTION, "/fault plain -- once more"):
            await page.fill("input", question)
            await page.get_by_role("button", name="Ask").click()
            await page.locator("#stop:disabled").wait_for()
            await page.locator("#state", has_text="completed").wait_for()
            assert await page.locator("#answer").text_content() == whole_text(question)
        await page.fill("input", "/fault plain pieces:200 rate:20 -- stop me")
        await page.get_by_role("button", name="Ask").click()
        await page.get_by_role("button", name="Stop").click()
        await page.locator("#state", has_text="cancelled").wait_for()


@pytest.mark.parametrize("example", ["ask.py", "ask.sh"])
async def test_a_client_by_hand_prints_the_whole_answer_although_its_connection_is_cut(
    start_gateway: Start, require: Require, example: str
) -> None:
    require("curl")
    gateway = await start_gateway()
    async with proxied(gateway.url) as proxy:
        command = [sys.executable, str(EXAMPLES / example)] if example == "ask.py" else [str(EXAMPLES / example)]
        asking = await asyncio.create_subprocess_exec(
            *command,
            QUESTION,
            env=os.environ | {"GATEWAY_URL": proxy.url, "PYTHONUNBUFFERED": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert asking.stdout is not None
        try:
            async with asyncio.timeout(60):
                out = await asking.stdout.read(150)
                assert proxy.cut_all() == 1
                rest, errors = await asking.communicate()
        finally:
            if asking.returncode is None:
                asking.kill()
                await asking.wait()
        assert asking.returncode == 0, errors
        text = (out + rest).decode()
        if example == "ask.sh":
            events = [json.loads(line) for line in text.splitlines()]
            assert len({event["id"] for event in events}) == len(events)
            assert events[0]["event"] == "started"
            assert events[-1]["event"] == "completed"
            text = "".join(event["content"] for event in events if event["event"] == "message")
        assert text.rstrip("\n") == whole_text(QUESTION)


async def test_a_client_by_hand_says_what_is_wrong_with_its_question(start_gateway: Start, require: Require) -> None:
    require("curl")
    gateway = await start_gateway()
    for command in ([sys.executable, str(EXAMPLES / "ask.py")], [str(EXAMPLES / "ask.sh")]):
        done = await asyncio.to_thread(
            subprocess.run,
            [*command, "x" * 16_001],
            env=os.environ | {"GATEWAY_URL": gateway.url},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1
        assert "message" in done.stderr


MOUNT = """
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Chat } from "./Chat.jsx";
createRoot(document.querySelector("main")).render(
  <StrictMode><Chat gateway="GATEWAY" botId="7566252531572473891" userId="u-1" /></StrictMode>);
"""
PACKAGES = ("react@19", "react-dom@19", "react-markdown@10", "esbuild@0.27")


@pytest.fixture(scope="session")
def bundler(require: Require, pytestconfig: pytest.Config) -> Path:
    """A folder with React and a bundler, in pytest's cache, so that only the first run fetches them."""
    require("node")
    folder = Path(pytestconfig.cache.mkdir("react-example"))
    if not (folder / "node_modules" / "react-markdown" / "package.json").exists():
        flags = ("--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--prefix", str(folder))
        done = subprocess.run(
            (require("npm"), "install", *flags, *PACKAGES), capture_output=True, text=True, timeout=240, check=False
        )
        if done.returncode:
            pytest.skip(f"npm could not install {', '.join(PACKAGES)}: {done.stderr[-300:]}")
    return folder


@pytest.mark.timeout(300)
async def test_the_react_component_renders_a_conversation(
    start_gateway: Start, require: Require, page: Page, bundler: Path, tmp_path: Path, free_port: Port
) -> None:
    port = free_port()
    gateway = await start_gateway(GATEWAY_ALLOWED_ORIGINS=f"http://127.0.0.1:{port}", GATEWAY_SIMULATOR_RATE="400")
    folder = copied(tmp_path)
    shutil.copytree(ROOT / "adapters" / "browser" / "client", folder / "client")
    (folder / "node_modules").symlink_to(bundler / "node_modules")
    (folder / "main.jsx").write_text(MOUNT.replace("GATEWAY", gateway.url), encoding="utf-8")
    (folder / "index.html").write_text(
        '<!doctype html><meta charset="utf-8"><main></main><script src="app.js"></script>'
    )
    esbuild = next((bundler / "node_modules" / "@esbuild").glob("*/bin/esbuild"))
    flags = ("--bundle", "--jsx=automatic", "--outfile=app.js", "--log-level=warning")
    built = await asyncio.create_subprocess_exec(esbuild, "main.jsx", *flags, cwd=folder)
    assert await built.wait() == 0
    async with running(sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", folder=folder, port=port):
        await page.goto(f"http://127.0.0.1:{port}/index.html")
        for question in ("/fault plain echo **bold** words", "/fault plain -- and another"):
            await page.fill("input", question)
            await page.get_by_role("button", name="Ask").click()
        second = page.locator("article").nth(1)
        await page.locator('article[data-status="completed"]').nth(1).wait_for()
        assert await page.locator("article").nth(0).locator("strong").text_content() == "bold"
        assert re.sub(r"\s", "", (await second.inner_text())).count("completed") == 1
        assert await page.locator("article").count() == 2


def described() -> list[tuple[str, Any]]:
    return [(file.name, file) for file in EXAMPLES.iterdir() if file.is_file() and file.suffix != ".md"]


@pytest.mark.parametrize(("name", "file"), described(), ids=[name for name, _ in described()])
def test_every_example_is_described(name: str, file: Path) -> None:
    assert f"]({name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
