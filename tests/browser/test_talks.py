"""The list of the user's conversations beside the one that is shown, and what the user thinks of answers."""

from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import Stub, Tab
from tests.browser.test_access import findings
from tests.browser.test_history import talk
from tests.processes import GatewayProcess

NewTab = Callable[..., Awaitable[Tab]]
Start = Callable[..., Awaitable[GatewayProcess]]


async def titles(page: Page) -> list[str]:
    return await page.locator(".talk span").all_inner_texts()


async def three(tab: Tab, stub: Stub) -> None:
    """The tab has asked in three conversations, and shows the last one."""
    stub.behaves(answer="Hello.", delay=0)
    for number in ("one", "two", "three"):
        await tab.page.click("#new")
        await tab.ask(number)
        await tab.over()
        await tab.page.locator(".talk span", has_text=number).first.wait_for(state="attached")


async def test_the_list_stands_beside_the_conversation_and_its_links_open_others(tab: Tab, stub: Stub) -> None:
    page = tab.page
    await page.set_viewport_size({"width": 1440, "height": 860})
    await page.get_by_text("There are no conversations yet.").wait_for()
    await three(tab, stub)
    await expect(page.locator(".talk span")).to_have_text(["three", "two", "one"])
    assert await page.locator(".talk[aria-current=true] span").all_inner_texts() == ["three"]
    await page.get_by_role("navigation", name="Conversations").get_by_role("link", name="one").click()
    await expect(page.locator(".asked p")).to_have_text(["one"])
    await expect(page.locator(".talk[aria-current=true] span")).to_have_text(["one"])
    await page.go_back()
    await expect(page.locator(".asked p")).to_have_text(["three"])
    assert await page.is_hidden("#talks-button")
    chat, list_ = [await page.locator(name).bounding_box() for name in (".chat", "#talks")]
    assert chat is not None
    assert list_ is not None
    assert list_["x"] + list_["width"] < chat["x"]


@pytest.mark.parametrize("width", [320, 375, 1000])
async def test_on_a_narrow_screen_it_is_a_drawer_that_the_keyboard_opens_and_closes(
    tab: Tab, stub: Stub, width: int
) -> None:
    page = tab.page
    await page.set_viewport_size({"width": width, "height": 667})
    await three(tab, stub)
    assert await page.is_hidden("#talks-list")
    await page.focus("#talks-button")
    await page.keyboard.press("Enter")
    await page.locator("#talks-list").wait_for()
    assert await page.locator("#talks-button").get_attribute("aria-expanded") == "true"
    assert await page.evaluate("document.activeElement.id") == "talks-close"
    outside = "() => { const { right, left } = document.querySelector('#talks').getBoundingClientRect();"
    assert await page.evaluate(f"{outside} return right > innerWidth || left < 0; }}") is False
    await page.keyboard.press("Escape")
    await page.locator("#talks-list").wait_for(state="hidden")
    assert await page.evaluate("document.activeElement.id") == "talks-button"
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent.slice(0, 5)") == "three"
    for _ in range(2):
        await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent.slice(0, 3)") == "two"
    await page.keyboard.press("Enter")
    await page.locator("#talks-list").wait_for(state="hidden")
    await expect(page.locator(".asked p")).to_have_text(["two"])


async def test_a_conversation_gets_another_title_or_keeps_its_own(tab: Tab, stub: Stub) -> None:
    page = tab.page
    await page.set_viewport_size({"width": 1440, "height": 860})
    await three(tab, stub)
    pencil = page.get_by_role("button", name="Give it another title").nth(1)
    await pencil.focus()
    await page.keyboard.press("Enter")
    field = page.get_by_role("textbox", name="Title")
    assert await field.input_value() == "two"
    await page.keyboard.type("never")
    await page.keyboard.press("Escape")
    assert await titles(page) == ["three", "two", "one"]
    assert await page.evaluate("document.activeElement.textContent.slice(0, 3)") == "two"
    await pencil.click()
    await page.keyboard.type("Schuhe <b>与鞋</b>")
    await page.keyboard.press("Enter")
    await expect(page.locator(".talk span")).to_have_text(["three", "Schuhe <b>与鞋</b>", "one"])
    assert await page.evaluate("document.activeElement.textContent.slice(0, 6)") == "Schuhe"
    assert list(stub.world.titles.values()) == ["Schuhe <b>与鞋</b>"]


@pytest.mark.parametrize("width", [375, 1440])
async def test_axe_finds_nothing_serious_in_the_list(tab: Tab, stub: Stub, width: int) -> None:
    page = tab.page
    await page.set_viewport_size({"width": width, "height": 800})
    await three(tab, stub)
    if width < 1000:
        await page.click("#talks-button")
    for tongue in ("es", "zh", "en"):
        await page.evaluate("(tongue) => document.querySelector(`[data-language=${tongue}]`).click()", tongue)
        assert await findings(tab) == []
    await page.get_by_role("button", name="Give it another title").first.click()
    assert await findings(tab) == []


async def test_an_answer_is_liked_or_not_and_the_gateway_knows(tab: Tab, stub: Stub) -> None:
    page = tab.page
    stub.behaves(answer="Hello.", delay=0)
    await tab.ask("hi")
    await tab.over()
    (turn,) = stub.world.turns
    good, bad = (page.get_by_role("button", name=f"{kind} answer") for kind in ("Good", "Bad"))
    for press, given in ((good, "like"), (bad, "unlike"), (bad, "none"), (good, "like")):
        async with page.expect_response("**/feedback"):
            await press.click()
        assert stub.world.feedback[turn] == given
        assert await good.get_attribute("aria-pressed") == str(given == "like").lower()
        assert await bad.get_attribute("aria-pressed") == str(given == "unlike").lower()
    await page.reload()
    await expect(good).to_have_attribute("aria-pressed", "true")
    tab.faulty = True
    stub.behaves(busy_feedback=1)
    await bad.click()
    await page.locator("#alert").wait_for()
    await expect(good).to_have_attribute("aria-pressed", "true")
    await expect(bad).to_have_attribute("aria-pressed", "false")


async def test_the_real_gateways_list_grows_shrinks_and_follows_the_user(new_tab: NewTab, gateway: Start) -> None:
    process = await gateway(GATEWAY_SIMULATOR_RATE="0", GATEWAY_SIMULATOR_FIRST_MS="0", GATEWAY_TURNS_PER_MINUTE="1000")
    for number in range(31):
        await talk(process, f"/fault plain pieces:1 -- {number}")
    tab = await new_tab(process.url)
    page = tab.page
    await page.set_viewport_size({"width": 1440, "height": 860})
    await tab.open()
    links = page.locator(".talk")
    await expect(links).to_have_count(30)
    await page.click("#talks-more")
    await expect(links).to_have_count(31)
    await tab.ask("/fault plain pieces:1 -- mine")
    await tab.over()
    await expect(links.first.locator("span")).to_have_text("/fault plain pieces:1 -- mine")
    await page.get_by_role("button", name="Good answer").click()
    await expect(page.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")
    await page.get_by_role("button", name="Give it another title").first.click()
    await page.keyboard.type("My own title")
    await page.keyboard.press("Enter")
    await expect(links.first.locator("span")).to_have_text("My own title")
    await page.reload()
    await expect(links.first.locator("span")).to_have_text("My own title")
    await expect(page.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")
    await page.click("#delete")
    await page.click("#deletion-yes")
    await expect(links.first.locator("span")).not_to_have_text("My own title")
    await page.locator(".settings summary").click()
    await page.fill("#userId", "somebody-else")
    await page.keyboard.press("Tab")
    await page.get_by_text("There are no conversations yet.").wait_for()
