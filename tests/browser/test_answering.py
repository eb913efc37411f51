"""The page while an answer is being given: what is seen of it, and what can be done meanwhile."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import Route

from tests.browser.conftest import PLAIN, Stub, Tab
from tests.browser.stub import Turn
from tests.processes import GatewayProcess

NewTab = Callable[..., Awaitable[Tab]]
Start = Callable[..., Awaitable[GatewayProcess]]
LONG = "\n\n".join(f"Paragraph {n} of a long answer." for n in range(60))
DOTS = ".turn:last-child .dots"


async def say(stub: Stub, turn: Turn, text: str) -> None:
    turn.text += text
    await stub.world.append(turn, {"event": "message", "content": text})


async def end(stub: Stub, turn: Turn) -> None:
    turn.status = "completed"
    ids = {"turnId": turn.id, "conversationId": turn.conversation}
    last = {"event": "completed", **ids, "content": turn.text, "usage": None, "recovered": False}
    await stub.world.append(turn, last)


# -- what is seen


async def test_dots_stand_in_the_bubble_until_the_first_character_that_can_be_seen(tab: Tab, stub: Stub) -> None:
    begun = stub.by_hand()
    await tab.ask("hi")
    turn = await begun.get()
    dots = tab.page.locator(DOTS)
    await dots.wait_for()
    await say(stub, turn, " \n\n ")
    await tab.page.locator("[data-figure=pieces]", has_text="1").wait_for()
    await tab.page.wait_for_timeout(300)  # longer than a step of the typing
    assert await dots.is_visible(), "a blank is nothing to see"
    height = await tab.page.locator(".answer").evaluate("(e) => e.getBoundingClientRect().height")
    await say(stub, turn, "Words.")
    await tab.page.locator(".content", has_text="Words.").wait_for()
    assert await dots.is_hidden()
    grown = await tab.page.locator(".answer").evaluate("(e) => e.getBoundingClientRect().height")
    assert abs(grown - height) < 2, "the first line takes the place of the dots"


async def test_after_ten_seconds_of_nothing_it_says_that_it_still_waits(tab_with_a_clock: Tab, stub: Stub) -> None:
    tab, begun = tab_with_a_clock, stub.by_hand()
    await tab.ask("hi")
    turn = await begun.get()
    await tab.page.locator(".turn[data-turn]").wait_for()
    await tab.page.clock.run_for(8_000)
    notice = tab.page.locator(".notice")
    assert await notice.is_hidden()
    await tab.page.clock.run_for(4_000)
    await notice.get_by_text("Still waiting").wait_for()
    await say(stub, turn, "One.")
    await notice.wait_for(state="hidden")
    await tab.page.clock.run_for(12_000)
    await notice.get_by_text("Still waiting").wait_for()
    await end(stub, turn)
    await notice.wait_for(state="hidden")


CARETS = {
    "a paragraph": ("Some *words*", "P"),
    "a list": ("- one\n- two", "DIV"),
    "a list in a list": ("1. one\n2. two\n   - three", "DIV"),
    "a quotation": ("> one\n> two", "P"),
    "a table's row": ("| a | b | c |\n|---|---|---|\n| one | tw", "TD"),
    "a table's head": ("| one | two", "TH"),
    "code": ("```js\nlet x = 1;\nlet y", "CODE"),
    "what stands behind a list": ("- one\n- two\n\nAnd more", "P"),
}


@pytest.mark.parametrize("place", CARETS)
async def test_a_caret_stands_at_the_end_of_what_is_written(tab: Tab, stub: Stub, place: str) -> None:
    begun = stub.by_hand()
    text, element = CARETS[place]
    await tab.ask("hi")
    turn = await begun.get()
    await say(stub, turn, text)
    await tab.page.locator(".content", has_text=text[-3:].strip("*| ")).wait_for()
    await tab.page.wait_for_timeout(500)  # until it was rendered, and not only grown
    carets = """() => [...document.querySelectorAll(".content *")]
        .filter((e) => getComputedStyle(e, "::after").content !== "none")
        .map((e) => [e.nodeName, e.textContent.trim()])"""
    found = await tab.page.evaluate(carets)
    assert [name for name, _ in found] == [element], found
    assert text.rstrip("*| ").endswith(found[0][1][-2:])
    await end(stub, turn)
    await tab.over()
    assert await tab.page.evaluate(carets) == []


async def test_a_reader_further_up_stays_there_and_can_jump_to_the_latest(tab: Tab, stub: Stub) -> None:
    page = tab.page
    stub.behaves(answer=LONG, delay=0.01)
    await tab.ask("hi")
    await page.get_by_text("Paragraph 20 ").wait_for()
    jump = page.locator("#jump")
    assert await jump.is_hidden()
    box = await page.locator("#scroll").bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + 200, box["y"] + 200)
    await page.mouse.wheel(0, -900)
    await jump.wait_for()
    place = await page.evaluate("document.querySelector('#scroll').scrollTop")
    await page.get_by_text("Paragraph 35 ").wait_for()
    assert await page.evaluate("document.querySelector('#scroll').scrollTop") == place
    height = await page.evaluate("document.querySelector('#composer').getBoundingClientRect().top")
    await jump.click()
    await jump.wait_for(state="hidden")
    assert await page.evaluate("document.querySelector('#composer').getBoundingClientRect().top") == height
    await tab.over()
    left = "(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight)"
    assert await page.evaluate(f"{left}(document.querySelector('#scroll'))") < 60, "it follows again"


async def test_figures_and_chart_leave_out_the_data_of_a_picture(tab: Tab, stub: Stub) -> None:
    begun = stub.by_hand()
    await tab.ask("hi")
    turn = await begun.get()
    picture = "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 30).decode()
    text = f"Before ![a picture]({picture}) after."
    shown = len("Before ![a picture](data:) after.")
    for start in range(0, len(text), 97):
        await say(stub, turn, text[start : start + 97])
    await tab.page.locator("[data-figure=pieces]", has_text=str(-(-len(text) // 97))).wait_for()
    assert await tab.figure("characters") == str(shown)
    await end(stub, turn)
    await tab.page.locator(".turn[data-state=completed]").wait_for()
    assert await tab.figure("characters") == str(shown)
    assert f"{shown} characters" in await tab.page.locator(".foot").inner_text()
    assert f"{shown} characters" in await tab.page.locator("#announcer").inner_text()


async def test_a_text_cut_anywhere_is_counted_as_the_whole(tab: Tab) -> None:
    different = await tab.page.evaluate(
        """async () => {
            const { ShownLength, shownLength } = await import("/page/shown-length.js");
            const text = "a \U0001f600 ![x](data:image/png;base64,AAAA) ](dat b [y](h) ![z](data:,b c) ](data:";
            const whole = shownLength(text);
            const all = [...text];
            const cuts = all.flatMap((_, one) => all.map((_, two) => [one, two])).filter(([one, two]) => one < two);
            return cuts.filter(([one, two]) => {
                const count = new ShownLength();
                for (const part of [all.slice(0, one), all.slice(one, two), all.slice(two)]) count.add(part.join(""));
                return count.length !== whole;
            });
        }"""
    )
    assert different == []


# -- what can be done


async def test_escape_stops_and_what_was_stopped_can_be_asked_again(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer=PLAIN, delay=0.02)
    await tab.ask("hi")
    await tab.page.get_by_text("word5").wait_for()
    await tab.page.keyboard.press("Escape")
    await tab.over("cancelled")
    stub.behaves(delay=0)
    await tab.page.locator(".turn[data-state=cancelled]").get_by_role("button", name="Ask again").click()
    assert await tab.over() == PLAIN
    await tab.page.keyboard.press("Escape")
    assert await tab.page.locator(".asked p").all_inner_texts() == ["hi", "hi"]


async def test_an_answer_that_failed_for_good_can_be_asked_again_too(tab: Tab, stub: Stub) -> None:
    fail = {"code": "upstream_unauthorized", "error": "Coze refuses the token.", "retryable": False}
    stub.behaves(answer=PLAIN, delay=0, fail=fail)
    await tab.ask("hi")
    await tab.over("error")
    stub.behaves(fail={})
    await tab.page.get_by_role("button", name="Ask again").click()
    assert await tab.over() == PLAIN


async def test_a_question_can_be_edited_and_what_was_being_written_is_one_step_back(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer="one", delay=0)
    await tab.ask("What is a turm?")
    await tab.over()
    await tab.page.fill("#message", "half a thought")
    await tab.page.locator(".turn").hover()
    await tab.page.get_by_role("button", name="Edit this question").click()
    assert await tab.page.input_value("#message") == "What is a turm?"
    assert await tab.page.evaluate("document.activeElement.id") == "message"
    await tab.page.keyboard.press("Control+z")
    assert await tab.page.input_value("#message") == "half a thought"
    await tab.page.get_by_role("button", name="Edit this question").click()
    await tab.page.keyboard.press("Backspace")
    await tab.page.keyboard.press("Backspace")
    await tab.page.keyboard.type("n?")
    await tab.page.keyboard.press("Enter")
    await tab.over(nth=1)
    assert [turn.input for turn in stub.world.turns.values()] == ["What is a turm?", "What is a turn?"]


async def test_a_question_asked_while_an_answer_runs_waits_for_its_end(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer=PLAIN, delay=0.01)
    await tab.ask("first")
    await tab.page.get_by_text("word5").wait_for()
    assert await tab.page.is_hidden("#send")
    await tab.page.fill("#message", "second")
    await tab.page.click("#send")
    waiting = tab.page.locator(".turn").nth(1)
    await waiting.locator(".notice", has_text="Waiting for the answer before it").wait_for()
    assert await tab.page.input_value("#message") == ""
    assert await tab.over(nth=0) == PLAIN
    assert await tab.over(nth=1) == PLAIN
    assert await waiting.locator(".notice").is_hidden()
    assert await tab.page.locator(".asked p").all_inner_texts() == ["first", "second"]
    assert [turn.input for turn in stub.world.turns.values()] == ["first", "second"]


async def test_a_question_that_waits_can_be_taken_back(tab: Tab, stub: Stub) -> None:
    begun = stub.by_hand()
    await tab.ask("first")
    turn = await begun.get()
    await tab.page.locator(".turn[data-turn]").wait_for()
    await tab.ask("second")
    await tab.page.get_by_role("button", name="Take back").click()
    await tab.page.locator(".turn").nth(1).wait_for(state="detached")
    assert await tab.page.input_value("#message") == "second"
    await say(stub, turn, "One.")
    await end(stub, turn)
    await tab.over()
    await tab.ask("third")
    turn = await begun.get()
    assert turn.input == "third"
    assert [t.status for t in stub.world.turns.values()] == ["completed", "cancelled", "running"]


async def test_a_question_that_could_not_be_queued_says_why_and_is_asked_once(tab: Tab, stub: Stub) -> None:
    tab.faulty = True
    begun = stub.by_hand()
    await tab.ask("first")
    turn = await begun.get()
    await tab.page.locator(".turn[data-turn]").wait_for()

    async def lose(route: Route) -> None:
        await route.fetch()  # it is taken, and nobody hears of it
        await route.abort()

    await tab.page.route("**/api/coze/chat", lose)
    await tab.ask("second")
    failure = tab.page.locator(".failure", has_text="could not be reached")
    await failure.wait_for()
    await tab.page.unroute("**/api/coze/chat")
    await end(stub, turn)
    await tab.over(nth=0)
    turn = await begun.get()
    await say(stub, turn, "Two.")
    await end(stub, turn)
    await tab.page.locator(".turn[data-state=completed]").nth(1).wait_for()
    await tab.page.locator(".retry").click()  # once the page knows that nothing runs
    await tab.page.locator(".failure:visible").wait_for(state="detached")
    assert [t.input for t in stub.world.turns.values()] == ["first", "second"]


async def test_before_the_first_question_is_taken_the_next_one_is_kept_in_the_field(tab: Tab, stub: Stub) -> None:
    held: asyncio.Queue[Route] = asyncio.Queue()

    async def hold(route: Route) -> None:
        held.put_nowait(route)

    await tab.page.route("**/api/coze/chat/stream", hold)
    await tab.ask("first")
    await tab.ask("second")
    hint = tab.page.locator("#hint[role=status]", has_text="still on its way")
    await hint.wait_for()
    assert await tab.page.input_value("#message") == "second"
    await tab.page.focus("#message")
    await tab.page.keyboard.type("!")
    await hint.wait_for(state="hidden")
    await (await held.get()).continue_()
    await tab.over()


async def test_the_real_gateway_queues_too_and_a_reload_loses_nothing(
    new_tab: NewTab, quick_gateway: GatewayProcess
) -> None:
    tab = await new_tab(quick_gateway.url)
    await tab.open()
    await tab.ask("/fault rate:60 -- What can you do?")
    await tab.page.locator(".content p").first.wait_for()
    await tab.ask("And then?")
    notice = tab.page.locator(".notice", has_text="Waiting for the answer before it")
    await notice.wait_for()
    await tab.page.reload()
    await tab.page.locator(".turn[data-state=completed]").nth(1).wait_for(timeout=60_000)
    assert await tab.page.locator(".asked p").all_inner_texts() == [
        "/fault rate:60 -- What can you do?",
        "And then?",
    ]


async def test_a_wait_can_be_ended_by_hand_unless_the_gateway_asked_for_it(tab: Tab, stub: Stub) -> None:
    tab.faulty = True
    page = tab.page
    body = json.dumps({"title": "x", "status": 429, "detail": "later", "code": "rate_limited"})
    headers = {"Retry-After": "30"}

    async def refuse(route: Route) -> None:
        await route.fulfill(status=429, headers=headers, content_type="application/problem+json", body=body)

    await page.route("**/api/coze/chat/stream", refuse)
    await tab.ask("hi")
    await page.locator(".notice", has_text="Too many questions").wait_for()
    assert await page.get_by_role("button", name="Try now").count() == 0
    await page.keyboard.press("Escape")
    await page.locator(".turn[data-state=cancelled]").wait_for()
    await page.unroute_all()

    found = await page.evaluate(
        """async () => {
            const { TurnView } = await import("/page/turn-view.js");
            let tries = 0;
            const view = new TurnView("?", { tryNow: () => { tries++; } });
            const button = () => view.notice.element.querySelector("button");
            view.waits("reason_unreachable", 900);
            const short = button();
            view.waits("reason_unreachable", 8_000);
            button().click();
            const words = view.notice.element.textContent;
            view.waits();
            return { short, words, tries, hidden: view.notice.element.hidden };
        }"""
    )
    assert found["short"] is None, "it is over before a hand is there"
    assert "Trying again in 8 s." in found["words"]
    assert (found["tries"], found["hidden"]) == (1, True)


# -- what is offered


async def test_chips_are_in_the_pages_language_first_and_gone_after_the_first_question(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer="one", delay=0, suggestions=["And then?"])

    async def first() -> list[str | None]:
        chips = await tab.page.locator("#quick .chip").all()
        return [await chip.get_attribute("lang") for chip in chips[:2]]

    for language in ("es", "zh", "en"):
        await tab.page.click(f"[data-language={language}]")
        assert await first() == [language, language]
    await tab.page.locator("#quick .chip").first.click()
    await tab.over()
    assert await tab.page.is_hidden("#quick")
    assert await tab.page.locator(".suggestions:visible").count() == 1
    await tab.page.locator(".suggestions:visible button").click()
    await tab.over(nth=1)
    await tab.page.locator(".turn:last-child .suggestions button").wait_for()
    assert await tab.page.locator(".suggestions:visible").count() == 1
    await tab.page.click("#new")
    assert await tab.page.is_visible("#quick")


async def test_a_badge_says_that_answers_are_simulated(
    new_tab: NewTab, stub: Stub, quick_gateway: GatewayProcess
) -> None:
    tab = await new_tab()
    await tab.open()
    await tab.page.wait_for_timeout(300)
    assert await tab.page.is_hidden("#simulated")
    for width in (1280, 768, 375, 320):
        tab = await new_tab(quick_gateway.url)
        await tab.page.set_viewport_size({"width": width, "height": 640})
        await tab.open()
        await tab.page.locator("#simulated", has_text="Simulated").wait_for()
        await tab.page.close()


async def test_without_a_token_the_field_for_it_is_open_and_has_the_focus(new_tab: NewTab, stub: Stub) -> None:
    stub.behaves(tokens=["open-sesame"], answer="one", delay=0)
    for width in (1280, 375):
        tab = await new_tab()
        tab.faulty = True
        page = tab.page
        await page.set_viewport_size({"width": width, "height": 700})
        await tab.open()
        await page.locator("#hint", has_text="asks for a token").wait_for()
        assert await page.evaluate("document.activeElement.id") == "token"
        inside = "(e) => { const b = e.getBoundingClientRect(); return b.top >= 0 && b.bottom <= innerHeight; }"
        assert await page.locator("#token").evaluate(inside)
        await page.keyboard.type("wrong")
        await page.keyboard.press("Tab")
        await page.locator("#hint", has_text="asks for a token").wait_for()
        await page.fill("#token", "open-sesame")
        await page.keyboard.press("Tab")
        await page.locator("#hint").wait_for(state="hidden")
        await tab.ask("hi")
        assert await tab.over() == "one"
        await page.close()


# -- deleting


async def test_a_conversation_that_was_deleted_is_gone_from_every_tab(
    new_tab: NewTab, quick_gateway: GatewayProcess
) -> None:
    tab = await new_tab(quick_gateway.url)
    await tab.open()
    await tab.ask("What can you do?")
    await tab.over()
    other = await new_tab(quick_gateway.url)
    other.faulty = tab.faulty = True
    await other.open(f"/sse-stream-test.html{await tab.page.evaluate('location.hash')}")
    await other.over()
    await tab.page.click("#delete")
    await tab.page.click("#deletion-yes")
    await tab.page.locator("#hint", has_text="The conversation was deleted.").wait_for()
    await other.page.locator("#alert", has_text="not known here").wait_for()
    for page in (tab.page, other.page):
        assert await page.locator(".turn").count() == 0
        assert await page.is_visible("#welcome")
    await tab.ask("What can you do?")
    await tab.over()


async def test_a_conversation_is_deleted_after_somebody_said_so(tab: Tab, stub: Stub) -> None:
    tab.faulty = True
    page = tab.page
    assert await page.is_hidden("#delete")
    stub.behaves(answer="one", delay=0)
    await tab.ask("hi")
    await tab.over()
    conversation = await page.evaluate("location.hash.slice(1)")
    asked: list[tuple[str, str]] = []
    answers: list[dict[str, Any]] = [
        {"status": 503, "body": json.dumps({"code": "storage_unavailable", "detail": "not now", "status": 503})},
        {"status": 204},
    ]

    async def delete(route: Route) -> None:
        if route.request.method != "DELETE":
            return await route.continue_()
        asked.append((route.request.method, route.request.url.rpartition("/")[2]))
        return await route.fulfill(content_type="application/problem+json", **answers.pop(0))

    await page.route(f"**/api/coze/conversations/{conversation}", delete)
    await page.click("#delete")
    assert await page.evaluate("document.activeElement.id") == "deletion-no", "Enter must not delete"
    await page.keyboard.press("Enter")
    await page.locator("#deletion").wait_for(state="hidden")
    await page.click("#delete")
    await page.keyboard.press("Escape")
    await page.locator("#deletion").wait_for(state="hidden")
    assert asked == []
    await page.click("#delete")
    await page.click("#deletion-yes")
    await page.locator("#deletion-trouble", has_text="not now").wait_for()
    await page.click("#deletion-yes")
    await page.locator("#hint", has_text="The conversation was deleted.").wait_for()
    assert asked == [("DELETE", conversation)] * 2
    assert await page.locator(".turn").count() == 0
    assert await page.evaluate("location.hash") == ""
    assert await page.is_hidden("#delete")
    await page.reload()
    await page.locator("html[data-ready=true]").wait_for()
    assert await page.locator(".turn").count() == 0
