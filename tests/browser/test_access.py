"""Everyone can use it: axe, keyboard, narrow screens, less motion."""

from pathlib import Path
from typing import Any, Literal

import pytest

from tests.browser.conftest import PLAIN, Stub, Tab
from tests.browser.test_messages import MARKDOWN

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text(encoding="utf-8")


async def findings(tab: Tab) -> list[str]:
    """What axe finds that is serious."""
    await tab.page.evaluate(AXE)
    found: list[dict[str, Any]] = await tab.page.evaluate("axe.run(document).then((result) => result.violations)")
    return [
        f"{v['id']} ({v['impact']}): {node['html'][:160]} {node['failureSummary'][:300]}"
        for v in found
        if v["impact"] in ("serious", "critical", "moderate")
        for node in v["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
async def test_axe_finds_nothing_serious(tab: Tab, stub: Stub, scheme: Literal["light", "dark"], width: int) -> None:
    page = tab.page
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    await page.set_viewport_size({"width": width, "height": 800})
    assert await findings(tab) == []
    image = "![a cat](https://h.invalid/cat.png)"
    tool = {"event": "tool", "phase": "call", "name": "weather", "content": "{}"}
    card = {"event": "message", "contentType": "card", "content": '{"title":"Parcel","eta":"Monday"}'}
    stub.behaves(answer=MARKDOWN + image, delay=0, reasoning="Hm.", suggestions=["More?"], events=[tool, card])
    await tab.ask("hi")
    await tab.over()
    stub.behaves(fail={"code": "upstream_failed", "error": "Coze broke off."})
    await tab.ask("again")
    await tab.over("error")
    assert await findings(tab) == []
    if width < 900:
        await page.click("#panel-button")
        await page.locator("#panel-close").wait_for()
    await page.locator(".settings summary").click()
    assert await findings(tab) == []


async def test_it_can_be_used_by_keyboard_alone(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer=PLAIN, delay=0)
    page = tab.page
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.className") == "skip"
    await page.keyboard.press("Enter")
    await page.keyboard.type("one")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("two")
    await page.keyboard.press("Enter")
    await tab.over()
    assert await page.locator(".asked p").inner_text() == "one\ntwo"
    reached = set()
    for _ in range(60):
        await page.keyboard.press("Tab")
        reached.add(await page.evaluate("document.activeElement.id"))
    assert {"theme", "new", "scroll", "message", "send", "cut", "elsewhere", "transport", "slow", "fault"} <= reached


async def test_the_panel_is_a_sheet_on_a_phone_and_gives_the_focus_back(tab: Tab) -> None:
    page = tab.page
    await page.set_viewport_size({"width": 375, "height": 700})
    await page.locator("#cut").wait_for(state="hidden")
    await page.click("#panel-button")
    await page.locator("#cut").wait_for()
    assert await page.evaluate("document.activeElement.id") == "panel-close"
    await page.keyboard.press("Escape")
    await page.locator("#cut").wait_for(state="hidden")
    assert await page.evaluate("document.activeElement.id") == "panel-button"


@pytest.mark.parametrize("width", [320, 375, 768, 1920])
async def test_nothing_is_wider_than_the_screen(tab: Tab, stub: Stub, width: int) -> None:
    await tab.page.set_viewport_size({"width": width, "height": 640})
    wide = "| " + " | ".join("column" * 3 for _ in range(12)) + " |\n|" + "--|" * 12 + "\n"
    stub.behaves(answer=f"{MARKDOWN}\n\n{wide}\n{'x' * 400}\n\n```\n{'y' * 400}\n```\n", delay=0, piece=50)
    await tab.ask("z" * 300)
    await tab.over()
    for tag in ("zh", "en", "es"):
        await tab.page.click(f"[data-language={tag}]")
        assert await tab.page.evaluate("document.documentElement.scrollWidth") <= width
        assert await tab.page.evaluate("document.querySelector('#scroll').scrollWidth") <= width


async def test_a_screen_reader_hears_the_beginning_and_the_end(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer=PLAIN, delay=0.002)
    await tab.page.evaluate(
        """() => {
            window.heard = [];
            const announcer = document.querySelector("#announcer");
            new MutationObserver(() => heard.push(announcer.textContent)).observe(announcer, { childList: true });
        }"""
    )
    await tab.ask("hi")
    await tab.over()
    assert await tab.page.evaluate("heard") == [
        "The bot is answering.",
        f"Answer finished, {len(PLAIN):,} characters.",
    ]


async def test_with_less_motion_text_comes_without_typing(tab: Tab, stub: Stub) -> None:
    await tab.page.emulate_media(reduced_motion="reduce")
    stub.behaves(answer=PLAIN, delay=0)
    await tab.ask("hi")
    assert await tab.over() == PLAIN
    assert await tab.page.locator("#status i").evaluate("(e) => getComputedStyle(e).animationName") == "none"
