"""The page when something goes wrong: it says so where people look, and nothing that they wrote is lost."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import Page, Route

from tests.browser.conftest import PLAIN, Stub, Tab
from tests.waiting import until

NewTab = Callable[..., Awaitable[Tab]]
PHONE = {"width": 375, "height": 700}


def refusal(status: int, code: str, **headers: str) -> Callable[[Route], Awaitable[None]]:
    """A route's handler that answers with the gateway's problem `code`."""
    body = {"title": code, "status": status, "detail": f"the gateway says {code}", "code": code}

    async def refuse(route: Route) -> None:
        kind = "application/problem+json"
        await route.fulfill(status=status, headers=headers, content_type=kind, body=json.dumps(body))

    return refuse


async def in_sight(page: Page, selector: str, words: str) -> None:
    """Waits until the words are on the screen itself, not only in the document."""
    place = page.locator(selector, has_text=words)
    await place.wait_for()
    box = await place.bounding_box()
    size = page.viewport_size
    assert box
    assert size
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= size["width"]
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= size["height"]


class Hold:
    """A route's handler that holds requests back until it is told what to do with them."""

    def __init__(self) -> None:
        self.held: asyncio.Queue[Route] = asyncio.Queue()

    async def __call__(self, route: Route) -> None:
        self.held.put_nowait(route)


async def test_a_tab_that_asks_or_is_written_in_stays_where_it_is(new_tab: NewTab, stub: Stub) -> None:
    stub.behaves(answer="one", delay=0)
    asking, writing, other = [await new_tab() for _ in range(3)]
    for tab in (asking, writing, other):
        await tab.open()
    hold = Hold()
    await asking.page.route("**/api/coze/chat/stream", hold)
    await asking.ask("mine")
    await writing.page.fill("#message", "half a thought")
    await other.ask("from elsewhere")
    await other.over()
    assert await asking.page.locator(".asked p").all_inner_texts() == ["mine"], "a question under way is not moved"
    await (await hold.held.get()).continue_()
    assert await asking.over() == "one"
    assert await writing.page.input_value("#message") == "half a thought"
    assert await writing.page.locator(".turn").count() == 0, "nor is somebody who writes"
    assert await other.page.locator(".asked p").all_inner_texts() == ["from elsewhere"]
    assert len({turn.conversation for turn in stub.world.turns.values()}) == 2


async def test_why_a_question_waits_is_said_in_sight_and_stop_ends_the_waiting_at_once(tab: Tab, stub: Stub) -> None:
    tab.faulty = True
    page = tab.page
    await page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    await page.route("**/api/coze/chat/stream", refusal(429, "rate_limited", **{"Retry-After": "30"}))
    await tab.ask("hi")
    await in_sight(page, ".notice", "Too many questions in a short time. Trying again in 3")
    first = await page.locator(".notice").inner_text()
    await page.wait_for_function("(first) => document.querySelector('.notice').innerText !== first", arg=first)
    await page.click("[data-language=es]")
    await in_sight(page, ".notice", "Demasiadas preguntas en poco tiempo. Se intenta de nuevo en")
    await page.click("[data-language=en]")
    await page.click("#stop")
    await tab.page.locator('.turn[data-state="cancelled"]').wait_for(timeout=3_000)
    assert await page.locator(".foot button").all_inner_texts() == ["Ask again"], "there is nothing to copy"
    await page.unroute("**/api/coze/chat/stream")

    await page.route("**/api/coze/chat**", lambda route: route.abort())
    await page.route("**/api/coze/chat/**", lambda route: route.abort())
    await tab.ask("and now?")
    await in_sight(page, ".turn:last-child .notice", "The gateway cannot be reached. Trying again in")
    await page.click("#stop")
    await page.locator('.turn[data-state="cancelled"]').nth(1).wait_for(timeout=3_000)
    await page.unroute_all()

    stub.behaves(answer=PLAIN, delay=0)
    await tab.ask("again")
    assert await tab.over() == PLAIN
    assert [turn.input for turn in stub.world.turns.values()][-1] == "again"


async def test_stop_shows_at_once_and_says_when_the_gateway_did_not_hear(tab: Tab, stub: Stub) -> None:
    tab.faulty = True
    page = tab.page
    begun = stub.by_hand()
    await tab.ask("hi")
    turn = await begun.get()
    await page.locator(".turn[data-turn]").wait_for()
    await page.reload()  # a listener now, which has nothing but the route to stop it by
    await page.locator("#stop").wait_for()
    await page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    hold = Hold()
    await page.route("**/cancel", hold)
    await page.click("#stop")
    await in_sight(page, "#stop[disabled]", "Stopping…")
    await in_sight(page, ".notice", "Stopping…")
    await (await hold.held.get()).abort()
    await in_sight(page, "#alert[role=alert]", "Stop did not reach the gateway")
    await page.unroute("**/cancel")
    await page.locator("#stop:not([disabled])", has_text="Stop").click()
    await until(lambda: turn.cancelled)
    await stub.world.append(turn, {"event": "cancelled", "content": "", "turnId": turn.id})
    await page.locator('.turn[data-state="cancelled"]').wait_for()
    assert await page.is_visible("#send")


async def test_what_went_wrong_is_said_near_the_message_on_a_phone_too(tab: Tab, stub: Stub) -> None:
    tab.faulty = True
    page = tab.page
    await page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    await page.fill("#message", "x" * 16_001)
    await page.keyboard.press("Enter")
    await in_sight(page, "#alert[role=alert]", "The message is too long: 16,000 characters at most.")
    assert len(await page.input_value("#message")) == 16_001
    await page.click("[data-language=es]")
    await in_sight(page, "#alert", "16.000 caracteres")
    await page.click("[data-language=en]")
    await page.fill("#message", "short")
    await page.locator("#alert").wait_for(state="hidden")

    stranger = "conv_00000000-0000-4000-8000-000000000000"
    await page.route("**/messages?**", refusal(404, "not_found"))
    await page.evaluate("(id) => { location.hash = id; }", stranger)
    await in_sight(page, "#alert", "This conversation is not known here.")
    assert await page.evaluate("location.hash") == ""
    await page.unroute_all()

    await page.route("**/messages?**", refusal(500, "internal"))
    await page.evaluate("(id) => { location.hash = id; }", stranger)
    await in_sight(page, "#alert", "The earlier messages could not be loaded. the gateway says internal")
    await page.click("#new")
    await page.locator("#alert").wait_for(state="hidden")


async def test_a_new_conversation_in_mid_answer_ends_the_figures(tab: Tab, stub: Stub) -> None:
    begun = stub.by_hand()
    await tab.ask("hi")
    turn = await begun.get()
    await stub.world.append(turn, {"event": "message", "content": "some"})
    await tab.page.get_by_text("some").wait_for()
    await tab.page.click("#new")
    await tab.page.wait_for_timeout(300)  # a figure is drawn four times a second
    shown = await tab.figure("total")
    await tab.page.wait_for_timeout(600)
    assert await tab.figure("total") == shown


async def test_after_another_language_is_chosen_no_word_of_the_old_one_is_left(tab: Tab, stub: Stub) -> None:
    tab.faulty = True
    page = tab.page
    stub.behaves(answer="一二三四" * 40, delay=0.02, cuts=1, cut_after=10, suggestions=[])
    await page.select_option("#transport", "sse")
    await tab.ask("你好")
    await page.locator("#network-log .bad").first.wait_for()
    await tab.over()
    await page.select_option("#transport", "whole")
    await tab.ask("再来")
    await tab.over(nth=1)
    await page.route("**/api/coze/chat**", lambda route: route.fulfill(status=401, body="tea"))
    await tab.ask("最后")
    await page.locator(".failure:visible").wait_for()
    await page.click("[data-language=zh]")
    for place in ("#network-log", "#log", "#figures"):
        text = await page.locator(place).inner_text()
        assert re.findall(r"[A-Za-z]{3,}", re.sub(r"\b(?:sse|unauthorized)\b", "", text)) == [], place
    log = await page.locator("#network-log").inner_text()
    assert "连接中断" in log
    assert re.search(r"\d\d:\d\d:\d\d", log)
    assert "字符" in await page.locator(".foot").first.inner_text()
    assert "一次性回答" in await page.locator(".foot").nth(1).inner_text()


async def test_copying_works_without_a_secure_context_or_says_that_it_cannot(tab: Tab, stub: Stub) -> None:
    page = tab.page
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    stub.behaves(answer="Copy **me**.", delay=0)
    await tab.ask("hi")
    await tab.over()
    await page.evaluate(
        """() => {
            window.clipboard = navigator.clipboard;
            Object.defineProperty(navigator, "clipboard", { value: undefined });
        }"""
    )
    button = page.locator(".foot button[data-t^=cop]")
    await button.click()
    await page.locator(".foot button", has_text="Copied").wait_for()
    assert await page.evaluate("clipboard.readText()") == "Copy **me**."
    assert await button.evaluate("(button) => document.activeElement === button")
    await page.evaluate("document.execCommand = () => false")
    await button.click()
    await page.locator(".foot button", has_text="Could not copy").wait_for()


async def test_a_refused_question_stays_below_and_is_asked_again_when_nothing_runs(new_tab: NewTab, stub: Stub) -> None:
    stub.behaves(answer="one", delay=0)
    first, second = await new_tab(), await new_tab()
    second.faulty = True
    await first.open()
    await second.open()
    await first.ask("before")
    await first.over()
    await second.over()
    begun = stub.by_hand()
    hold = Hold()
    await second.page.route("**/api/coze/chat/stream", hold)
    await second.ask("at the same time")
    route = await hold.held.get()
    await first.ask("earlier")
    turn = await begun.get()
    await refusal(409, "conversation_busy")(route)
    await second.page.unroute("**/api/coze/chat/stream")
    again = second.page.get_by_role("button", name="Ask again")
    await again.wait_for()
    await second.page.locator(".turn").nth(2).wait_for()
    asked = second.page.locator(".asked p")
    assert await asked.all_inner_texts() == ["before", "earlier", "at the same time"]
    assert await again.is_disabled(), "the other tab's question is being answered"
    ended: dict[str, Any] = {"event": "completed", "content": "", "turnId": turn.id, "recovered": False}
    turn.status = "completed"
    await stub.world.append(turn, ended)
    await second.page.locator(".retry:not([disabled])").click()
    turn = await begun.get()
    assert turn.input == "at the same time"
    assert await asked.all_inner_texts() == ["before", "earlier", "at the same time"]


async def test_a_token_given_late_brings_the_earlier_messages(new_tab: NewTab, stub: Stub) -> None:
    stub.behaves(answer="one", delay=0)
    first = await new_tab()
    await first.open()
    await first.ask("hi")
    await first.over()
    stub.behaves(tokens=["open-sesame"])
    tab = await new_tab()
    tab.faulty = first.faulty = True
    page = tab.page
    await tab.open(f"/sse-stream-test.html{await first.page.evaluate('location.hash')}")
    await in_sight(page, "#alert", "The earlier messages could not be loaded.")
    assert await page.evaluate("document.activeElement.id") == "token", "the field that it belongs into"
    for given in ("wr\u00f8ng\u2192", "open-sesame"):
        await page.fill("#token", given)
        await page.keyboard.press("Tab")
        if given != "open-sesame":
            await in_sight(page, "#alert", "The token has characters that no token has.")
            await tab.ask("with a bad one")
            failure = page.locator(".failure", has_text="The token has characters that no token has.")
            await failure.wait_for()
            assert await page.is_visible("#send")
    await page.locator(".asked p").get_by_text("hi", exact=True).wait_for()
    await page.locator("#alert").wait_for(state="hidden")
    await page.locator("#status[data-state=open]").wait_for()


@pytest.mark.parametrize("reloaded", [False, True], ids=["by who asked", "by a listener"])
async def test_an_answer_whose_listener_was_refused_goes_on_with_a_new_token(
    tab: Tab, stub: Stub, reloaded: bool
) -> None:
    tab.faulty = True
    page = tab.page
    stub.behaves(tokens=["old"])
    await page.locator(".settings summary").click()
    await page.fill("#token", "old")
    await page.keyboard.press("Tab")
    begun = stub.by_hand()
    await tab.ask("hi")
    turn = await begun.get()
    answer = "It *begins* with a paragraph that goes on, and on.\n\nThen there is a second one."

    async def tell(text: str) -> None:
        turn.text += text
        await stub.world.append(turn, {"event": "message", "content": text})

    await tell(answer[:30])
    await page.get_by_text("with a pa").wait_for()
    if reloaded:
        await page.reload()
        await page.get_by_text("with a pa").wait_for()
    stub.behaves(tokens=["new"])
    await page.click("#cut")
    failure = page.locator(".failure", has_text="The token is not valid any more.")
    await failure.wait_for()
    assert "not valid any more" in await page.locator("#announcer").inner_text()
    assert await failure.get_by_role("button").count() == 0, "the gateway has the question, and answers it"
    assert await page.is_visible("#send")
    await tell(answer[30:60])
    await page.fill("#token", "new")
    await page.keyboard.press("Tab")
    await page.get_by_text("second").wait_for()
    await failure.wait_for(state="hidden")
    assert await page.is_visible("#stop")
    await tell(answer[60:])
    turn.status = "completed"
    ids = {"turnId": turn.id, "conversationId": turn.conversation}
    await stub.world.append(turn, {"event": "completed", **ids, "content": answer, "usage": None, "recovered": False})
    assert await tab.over() == answer.replace("*", "")
    assert await page.locator(".content p").count() == 2
    assert await tab.figure("characters") == str(len(answer))
    assert f"{len(answer)} characters" in await page.locator(".foot").inner_text()
    assert await page.locator(".turn").count() == 1
    assert len(stub.world.turns) == 1
