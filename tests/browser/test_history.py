"""What the page shows of a conversation that it did not see happen, from the real gateway's record."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import ClientSession
from playwright.async_api import Route, expect

from tests.browser.conftest import Tab
from tests.processes import GatewayProcess

NewTab = Callable[..., Awaitable[Tab]]
Start = Callable[..., Awaitable[GatewayProcess]]
PAGE = "/sse-stream-test.html"


async def talk(process: GatewayProcess, *messages: str) -> str:
    """Has a conversation the older way, to its end. @returns its id"""
    known: dict[str, str] = {}
    async with ClientSession(process.url) as session:
        for message in messages:
            body = {"userId": "test-user", "botId": "b", "shopId": "test-shop", "message": message, **known}
            async with session.post("/api/coze/chat", json=body) as response:
                known = {"conversationId": response.headers["X-Conversation-Id"]}
    return known["conversationId"]


async def small_pages(route: Route) -> None:
    """Three messages a page: each begins in the middle of a turn."""
    await route.continue_(url=route.request.url.replace("limit=100", "limit=3"))


async def test_earlier_messages_come_when_asked_for_and_the_reader_stays_in_place(
    new_tab: NewTab, gateway: Start
) -> None:
    process = await gateway(GATEWAY_SIMULATOR_RATE="0", GATEWAY_SIMULATOR_FIRST_MS="0")
    paragraph = "a line of it\n\n" * 12
    asked = [f"/fault echo -- {n} {paragraph}" for n in ("one", "two", "three", "four")]
    asked.insert(1, "/fault code:4000 -- it fails")
    conversation = await talk(process, *asked)
    tab = await new_tab(process.url)
    page = tab.page
    await page.route("**/messages?**", small_pages)
    await tab.open(f"{PAGE}#{conversation}")
    answers = page.locator(".content[data-typed=whole]")
    await page.locator("#earlier").wait_for()
    assert await page.locator(".turn").count() == 1, "an answer without its question waits for it"
    await page.evaluate("document.querySelector('#scroll').scrollTop = 0")
    before = await page.evaluate("document.querySelector('.turn').getBoundingClientRect().top")
    await page.locator("#earlier").click()
    await page.locator(".turn").nth(2).wait_for()
    after = await page.evaluate("[...document.querySelectorAll('.turn')].at(-1).getBoundingClientRect().top")
    assert abs(after - before) < 3
    assert await answers.nth(1).inner_text() != ""
    while await page.locator("#earlier").is_visible():
        count = await page.locator(".turn").count()
        await page.locator("#earlier").click()
        await page.wait_for_function("(n) => document.querySelectorAll('.turn').length > n", arg=count)
        await page.locator("#earlier:disabled").wait_for(state="hidden")
    shown = [text.split(" -- ")[1].split()[0] for text in await page.locator(".asked p").all_inner_texts()]
    assert shown == ["one", "it", "two", "three", "four"]
    failed = page.locator(".turn", has_text="it fails")
    assert await failed.locator(".failure p").is_visible(), "no answer is an empty bubble"


async def test_what_is_kept_of_the_turns_is_shown_again(new_tab: NewTab, gateway: Start) -> None:
    process = await gateway(GATEWAY_SIMULATOR_RATE="0", GATEWAY_SIMULATOR_FIRST_MS="0")
    tab = await new_tab(process.url)
    page = tab.page
    failing = "/fault code:4000 -- it fails"
    everything = "/fault reasoning tool multi audio -- hello"
    conversation = await talk(process, failing, everything, "/fault plain -- and now?", everything)
    record = await last_turn(process, conversation)
    await tab.open(f"{PAGE}#{conversation}")
    await page.locator(".turn:last-child .suggestions button").first.wait_for()
    for nth in (3, 1):
        turn = page.locator(".turn").nth(nth)
        await turn.locator(".extras audio").wait_for()
        assert await turn.locator(".suggestions button").count() == len(record["suggestions"]) > 0
        assert await turn.locator(".thinking p").text_content() == record["reasoning"] != ""
        await turn.locator(".card").wait_for()
        await turn.locator(".tools li").first.wait_for()
    at_end = """() => {
        const { scrollHeight, scrollTop, clientHeight } = document.querySelector("#scroll");
        return scrollHeight - scrollTop - clientHeight < 60;
    }"""
    await page.wait_for_function(at_end, timeout=3_000)
    failure = page.locator(".turn").first.locator(".failure")
    sentence = await failure.locator("p").inner_text()
    assert sentence not in ("", "The answer failed.")
    assert await failure.locator("small").inner_text() != ""
    await page.click("[data-language=es]")
    assert await page.locator(".turn").first.get_attribute("data-state") == "error"

    conversation = await talk(process, failing)
    await page.evaluate("(id) => { location.hash = id; }", conversation)
    await page.locator(".turn:only-child .failure small").wait_for()
    assert await page.locator(".failure p").inner_text() == sentence
    assert await page.locator(".failure .retry").count() in (0, 1)


async def last_turn(process: GatewayProcess, conversation: str) -> dict[str, Any]:
    async with ClientSession(process.url) as session:
        async with session.get(f"/api/coze/conversations/{conversation}/messages") as response:
            turn = (await response.json())["messages"][-1]["turnId"]
        async with session.get(f"/api/coze/turns/{turn}") as response:
            record: dict[str, Any] = await response.json()
            return record


async def test_results_of_tools_that_were_not_taken_are_kept_and_forms_go_where_others_answered(
    new_tab: NewTab, gateway: Start
) -> None:
    process = await gateway(GATEWAY_SIMULATOR_RATE="200")
    first, second = await new_tab(process.url), await new_tab(process.url)
    for tab in (first, second):
        tab.faulty = True
        await tab.open()
    await first.page.select_option("#fault", "action")
    await first.ask("What can you do?")
    form, other = first.page.locator("form.outputs"), second.page.locator("form.outputs")
    await other.wait_for()
    await form.locator("input").first.fill("sunny")
    await first.page.route("**/tool-outputs", lambda route: route.fulfill(status=502, body="<h1>proxy</h1>"))
    await form.get_by_role("button").click()
    await form.locator("[role=alert]", has_text="with status 502").wait_for()
    await first.page.unroute("**/tool-outputs")
    await first.page.route("**/tool-outputs", lambda route: route.abort())
    await form.get_by_role("button").click()
    await form.locator("[role=alert]", has_text="could not be reached").wait_for()
    assert await form.locator("input").first.input_value() == "sunny"
    await first.page.unroute("**/tool-outputs")
    await form.get_by_role("button").click()
    await first.over()
    await second.over()
    for tab in (first, second):  # the word that they were taken may come after the answer
        await expect(tab.page.locator("form.outputs")).to_have_count(0)
    assert await first.page.get_by_text("have been given already").count() == 0
    assert await second.page.get_by_text("have been given already").count() == 1

    await first.ask("And again?")
    await other.wait_for()
    await second.page.route("**/conversations/**", lambda route: route.abort())
    await second.page.check("#refuse")  # which cuts, too: it hears nothing of what the first one does, by no transport
    await form.get_by_role("button").click()
    await form.wait_for(state="detached")
    await other.locator("input").first.fill("rainy")
    await other.get_by_role("button").click()
    await other.wait_for(state="detached")
    assert await second.page.get_by_text("have been given already").count() == 2

    await second.page.unroute("**/conversations/**")
    await first.over(nth=1)
    await first.ask("Once more?")
    await form.wait_for()
    await first.page.click("#stop")
    await first.over("cancelled")
    assert await form.count() == 0
