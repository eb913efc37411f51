"""The page in a real browser: asking, showing, remembering."""

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from playwright.async_api import Error, Route

from tests.browser.conftest import PLAIN, Stub, Tab

NewTab = Callable[[], Awaitable[Tab]]


async def test_the_page_opens_with_the_defaults_and_questions_in_three_languages(tab: Tab) -> None:
    page = tab.page
    assert await page.title() == "Coze stream gateway"
    values = [await page.input_value(f"#{name}") for name in ("userId", "botId", "shopId", "token")]
    assert values == ["test-user", "7566252531572473891", "test-shop", ""]
    assert await page.locator("#quick button").count() == 6
    assert {await b.get_attribute("lang") for b in await page.locator("#quick button").all()} == {"zh", "en", "es"}


async def test_a_quick_question_is_answered_and_measured(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer=PLAIN, delay=0.005, piece=20, reasoning="hm, " * 10, suggestions=["And then?"])
    await tab.page.get_by_text("你好，请介绍一下你自己").click()
    assert await tab.over() == PLAIN
    assert await tab.page.locator(".asked p").inner_text() == "你好，请介绍一下你自己"
    assert await tab.figure("characters") == f"{len(PLAIN):,}"
    assert await tab.figure("transport") == "sse"
    assert await tab.figure("reconnects") == "0"
    assert re.match(r"\d", await tab.figure("first"))
    assert re.match(r"\d", await tab.figure("pace"))
    assert await tab.page.locator(".pace-line").get_attribute("points")
    thinking = tab.page.locator(".thinking")
    assert await thinking.get_attribute("open") is None, "reasoning is folded"
    await thinking.locator("summary").click()
    assert await thinking.locator("p").text_content() == "hm, " * 10
    await tab.page.get_by_role("button", name="And then?").click()
    assert await tab.over(nth=1) == PLAIN


@pytest.mark.parametrize("transport", ["sse", "websocket", "longpoll", "eventsource", "whole"])
async def test_an_answer_comes_whole_over_each_transport(tab: Tab, stub: Stub, transport: str) -> None:
    stub.behaves(answer=PLAIN, delay=0.002, cuts=2 if transport in ("sse", "eventsource") else 0, cut_after=20)
    tab.faulty = True  # the browser tells of each cut
    await tab.page.select_option("#transport", transport)
    await tab.ask("hi")
    assert await tab.over() == PLAIN
    assert await tab.figure("transport") == ("Whole answer" if transport == "whole" else transport)
    assert len(stub.world.turns) == 1


async def test_stop_ends_the_answer_and_keeps_what_there_was(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer=PLAIN, delay=0.02)
    await tab.ask("hi")
    await tab.page.get_by_text("word5").wait_for()
    await tab.page.click("#stop")
    text = await tab.over("cancelled")
    assert PLAIN.startswith(text)
    assert text != PLAIN
    assert await tab.page.locator(".badge").inner_text() == "Stopped"
    assert await tab.page.is_visible("#send")


async def test_an_error_is_a_sentence_with_a_way_to_ask_again(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer=PLAIN, delay=0.001, fail={"code": "upstream_failed", "error": "Coze broke off in mid-answer."})
    await tab.ask("hi")
    text = await tab.over("error")
    assert PLAIN.startswith(text)
    assert text
    failure = tab.page.locator(".failure")
    assert "Coze broke off in mid-answer." in await failure.inner_text()
    stub.behaves(fail={})
    await failure.get_by_role("button", name="Ask again").click()
    assert await tab.over() == PLAIN


async def test_a_refused_question_says_why(tab: Tab, stub: Stub) -> None:
    tab.faulty = True  # the browser logs the 401
    stub.behaves(refuse_sse=401, refuse_ws=True)
    await tab.page.select_option("#transport", "sse")
    await tab.ask("hi")
    await tab.page.locator(".failure").wait_for()
    assert (
        "401" in await tab.page.locator(".failure").inner_text()
        or "reached" in await tab.page.locator(".failure").inner_text()
    )


async def test_the_conversation_is_there_after_a_reload_and_a_new_one_is_empty(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer="The **first** answer.", delay=0)
    await tab.ask("one")
    await tab.over()
    stub.behaves(answer="The second.")
    await tab.ask("two")
    await tab.over(nth=1)
    await tab.page.reload()
    await tab.page.locator(".turn").nth(1).wait_for()
    assert [await turn.inner_text() for turn in await tab.page.locator(".asked p").all()] == ["one", "two"]
    assert await tab.over(nth=0) == "The first answer."
    await tab.page.click("#new")
    assert await tab.page.locator(".turn").count() == 0
    assert await tab.page.is_visible("#welcome")
    await tab.page.reload()
    await tab.page.wait_for_selector("html[data-ready=true]")
    assert await tab.page.locator(".turn").count() == 0


async def test_an_answer_goes_on_after_a_reload_in_its_middle(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer=PLAIN, delay=0.03, piece=30)
    await tab.ask("hi")
    await tab.page.get_by_text("word5").wait_for()
    await tab.page.reload()
    assert await tab.over() == PLAIN
    assert await tab.page.locator(".turn").count() == 1
    assert len(stub.world.turns) == 1
    assert await tab.figure("reconnects") == "0", "nothing was lost"


async def test_two_tabs_are_in_step(new_tab: NewTab, stub: Stub) -> None:
    stub.behaves(answer="one", delay=0)
    first = await new_tab()
    await first.open()
    second = await new_tab()
    await second.open()
    await first.ask("from the first")
    assert await second.over() == "one", "an empty tab follows the conversation that another one begins"
    stub.behaves(answer=PLAIN, delay=0.04, piece=40)
    await second.ask("from the second")
    await first.page.get_by_text("word5").wait_for()
    assert await first.page.is_visible("#stop"), "both know that it is being answered"
    assert await first.over(nth=1) == await second.over(nth=1) == PLAIN
    assert await first.page.locator(".asked p").nth(1).inner_text() == "from the second"


async def test_the_whole_page_changes_its_language(tab: Tab, stub: Stub) -> None:
    await tab.ask("hi")
    await tab.over()
    seen = {}
    for name, lang in (("中文", "zh-CN"), ("ES", "es"), ("EN", "en")):
        await tab.page.get_by_role("button", name=name, exact=True).click()
        assert await tab.page.evaluate("document.documentElement.lang") == lang
        words = await tab.page.evaluate("[...document.querySelectorAll('[data-t]')].map((e) => e.textContent)")
        assert "" not in words
        seen[lang] = words
    same = [w for w in zip(*seen.values(), strict=True) if len(set(w)) == 1]
    assert [w[0] for w in same if w[0] not in ("Bot", "–")] == []


async def test_every_language_has_every_word_with_the_same_places_to_fill(tab: Tab) -> None:
    differences = await tab.page.evaluate(
        """async () => {
            const { WORDS } = await import("/page/words.js");
            const places = (words) => (words.match(/\\{\\w+\\}/g) ?? []).sort();
            const shape = (words) => Object.entries(words).map(([k, v]) => k + places(v)).sort().join();
            return [...new Set(Object.values(WORDS).map(shape))].length;
        }"""
    )
    assert differences == 1


async def test_a_chosen_colour_and_language_are_remembered(tab: Tab) -> None:
    await tab.page.click("#theme")
    await tab.page.click("#theme")
    await tab.page.get_by_role("button", name="ES", exact=True).click()
    await tab.page.reload()
    await tab.page.wait_for_selector("html[data-ready=true]")
    assert await tab.page.evaluate("[document.documentElement.dataset.theme, document.documentElement.lang]") == [
        "dark",
        "es",
    ]


async def test_tool_results_that_the_bot_asks_for_are_given_on_the_page(tab: Tab, stub: Stub) -> None:
    call = {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Lima"}'}}
    begun = stub.by_hand()
    await tab.ask("hi")
    turn = await begun.get()
    await stub.world.append(turn, {"event": "action_required", "toolCalls": [call]})
    form = tab.page.locator("form.outputs")
    await form.wait_for()
    assert "weather" in await form.inner_text()
    await form.locator("input").fill("sunny")
    await form.get_by_role("button").click()
    await form.wait_for(state="detached")
    assert stub.world.outputs == [{"toolCallId": "call-1", "output": "sunny"}]


BROKEN_STORAGE = {
    "denied": """for (const name of ["localStorage", "sessionStorage"]) {
        Object.defineProperty(window, name, { get() { throw new DOMException("Access is denied", "SecurityError"); } });
    }""",
    "full": "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };",
}


@pytest.mark.parametrize("storage", BROKEN_STORAGE)
async def test_without_storage_the_page_works_and_only_forgets(new_tab: NewTab, stub: Stub, storage: str) -> None:
    stub.behaves(answer="one", delay=0)
    tab = await new_tab()
    await tab.page.add_init_script(BROKEN_STORAGE[storage])
    await tab.page.add_init_script("Object.defineProperty(navigator, 'languages', { get: () => ['es-ES', 'en'] });")
    await tab.open()
    assert await tab.page.evaluate("document.documentElement.lang") == "es"
    assert await tab.page.locator("#send").inner_text() == "Enviar"
    await tab.page.click("#theme")
    assert await tab.page.evaluate("document.documentElement.dataset.theme") == "light"
    await tab.page.click("[data-language=zh]")
    assert await tab.page.evaluate("document.documentElement.lang") == "zh-CN"
    await tab.ask("hi")
    assert await tab.over() == "one"
    await tab.page.reload()
    await tab.page.wait_for_selector("html[data-ready=true]")
    await tab.page.locator(".turn").wait_for()
    assert await tab.page.locator(".content").inner_text() == "one", "its address names the conversation"


async def test_a_reader_who_joins_late_sees_no_figures_that_were_not_measured(new_tab: NewTab, stub: Stub) -> None:
    begun = stub.by_hand()
    first, second, late = await new_tab(), await new_tab(), await new_tab()
    for tab in (first, second):
        await tab.open()
    await first.ask("hi")
    turn = await begun.get()
    await stub.world.append(turn, {"event": "message", "content": "some"})
    await second.page.get_by_text("some").wait_for()
    await late.open(f"/sse-stream-test.html#{turn.conversation}")
    await late.page.get_by_text("some").wait_for()
    await late.page.wait_for_timeout(300)
    assert [await late.figure(name) for name in ("first", "total", "pace", "pieces")] == ["–", "–", "–", "1"]
    turn.status = "completed"
    ids = {"turnId": turn.id, "conversationId": turn.conversation}
    await stub.world.append(turn, {"event": "completed", **ids, "content": "some", "usage": None, "recovered": False})
    for tab in (first, late):
        await tab.over()
    assert re.search(r"\d m?s", await first.page.locator(".foot").inner_text())
    assert re.search(r"\d m?s", await late.page.locator(".foot").inner_text()) is None


async def test_the_second_click_of_a_double_click_on_send_stops_nothing(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer=PLAIN, delay=0)
    await tab.page.fill("#message", "hi")
    await tab.page.dblclick("#send")
    assert await tab.over() == PLAIN
    stub.behaves(answer=PLAIN, delay=0.05)
    await tab.page.fill("#message", "again")
    await tab.page.click("#send")
    await tab.page.focus("#stop")
    await tab.page.keyboard.press("Enter")  # a key is meant, however soon it is pressed
    await tab.over("cancelled")


async def test_the_figures_are_of_the_answers_text_alone(tab: Tab, stub: Stub) -> None:
    begun = stub.by_hand()
    await tab.ask("hi")
    turn = await begun.get()

    async def tell(**event: Any) -> None:
        await stub.world.append(turn, event)

    async def shown(pieces: int) -> list[str]:
        await tab.page.locator("[data-figure=pieces]", has_text=str(pieces)).wait_for()
        return [await tab.figure(name) for name in ("characters", "pace")]

    await tell(event="reasoning", content="Let me think about it for a while.")
    await tell(event="message", contentType="card", content='{"title": "Parcel"}')
    assert await shown(2) == ["0", "–"]
    assert re.match(r"\d", await tab.figure("first")), "what is seen first is the reasoning"
    await tell(event="message", content="Twelve \U0001f600 it.")
    assert (await shown(3))[0] == "12"
    await tell(event="message", content="No: seven", replace=True)
    assert (await shown(4))[0] == "9"
    await tab.page.wait_for_timeout(800)
    pace = int((await shown(4))[1])
    turn.status = "completed"
    ids = {"turnId": turn.id, "conversationId": turn.conversation}
    await tell(event="completed", **ids, content="No: seven", usage=None, recovered=False)
    await tab.over()
    assert 1 <= int(await tab.figure("pace")) <= pace + 1


async def test_the_key_that_ends_a_composition_sends_nothing(tab: Tab) -> None:
    """Safari says that the composition has ended before it tells of the key; only the code 229 is left of it."""
    await tab.page.fill("#message", "にほん")
    await tab.page.evaluate(
        """() => document.querySelector("#message").dispatchEvent(
            new KeyboardEvent("keydown", { key: "Enter", keyCode: 229, bubbles: true, cancelable: true }))"""
    )
    assert await tab.page.input_value("#message") == "にほん"
    assert await tab.page.locator(".turn").count() == 0


@pytest.mark.parametrize("taken", [False, True], ids=["that was not taken", "that was taken"])
async def test_a_second_question_survives_a_reload_before_its_first_word(tab: Tab, stub: Stub, taken: bool) -> None:
    tab.faulty = True
    stub.behaves(answer=PLAIN, delay=0.001)
    await tab.ask("first")
    await tab.over()
    asked: list[Route] = []

    async def keep(route: Route) -> None:
        asked.append(route)
        with suppress(Error):  # the page is reloaded meanwhile
            if taken:
                await route.fetch()
            await route.abort()

    await tab.page.route("**/api/coze/chat**", keep)
    await tab.ask("second")
    while not asked or len(stub.world.turns) < 1 + taken:
        await tab.page.wait_for_timeout(20)
    await tab.page.unroute("**/api/coze/chat**")
    await tab.page.reload()
    await tab.page.locator(".turn").nth(1).wait_for()
    assert await tab.over(nth=1) == PLAIN
    assert await tab.page.locator(".asked p").all_inner_texts() == ["first", "second"]
    assert len(stub.world.turns) == 2


async def test_a_question_left_under_an_address_that_is_no_conversations_hinders_no_start(tab: Tab, stub: Stub) -> None:
    await tab.page.evaluate(
        """() => {
            const asking = { question: "x", message: "x", key: "k", at: Date.now() };
            sessionStorage.setItem("gateway.asking", JSON.stringify(asking));
            history.replaceState(null, "", "#nothing");
        }"""
    )
    await tab.page.reload()
    await tab.page.locator("html[data-ready=true]").wait_for()


async def test_a_first_question_still_waiting_for_its_whole_answer_survives_a_reload(tab: Tab, stub: Stub) -> None:
    begun = stub.by_hand()
    await tab.page.select_option("#transport", "whole")
    await tab.ask("hi")
    turn = await begun.get()
    await tab.page.locator("#status[data-state=whole]").wait_for()
    assert await tab.figure("reconnects") == "0"
    await tab.page.reload()
    await tab.page.locator(".asked p", has_text="hi").wait_for()
    turn.text, turn.status = "one", "completed"
    ids = {"turnId": turn.id, "conversationId": turn.conversation}
    await stub.world.append(turn, {"event": "message", "content": "one"})
    await stub.world.append(turn, {"event": "completed", **ids, "content": "one", "usage": None, "recovered": False})
    assert await tab.over() == "one"
    assert len(stub.world.turns) == 1
    await tab.page.reload()
    assert await tab.over() == "one"
    assert await tab.page.locator(".turn").count() == 1


async def test_back_leads_from_a_new_conversation_to_the_one_before(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer="one", delay=0)
    await tab.ask("first")
    await tab.over()
    await tab.page.click("#new")
    figures = [await tab.figure(name) for name in ("first", "total", "characters", "pieces", "transport")]
    assert figures == ["–", "–", "0", "0", "–"], "the figures of the answer before are gone"
    await tab.page.go_back()
    await tab.page.locator(".asked p", has_text="first").wait_for()
    await tab.page.go_forward()
    await tab.page.locator("#welcome").wait_for()
    await tab.ask("second")
    await tab.over()
    await tab.page.go_back()
    await tab.page.locator(".asked p", has_text="first").wait_for()
    assert await tab.page.locator(".turn").count() == 1


async def test_a_card_between_two_answers_stays_between_them(tab: Tab, stub: Stub) -> None:
    begun = stub.by_hand()
    await tab.ask("hi")
    turn = await begun.get()
    card = {"event": "message", "contentType": "card", "content": '{"title": "Parcel"}'}
    pieces: list[dict[str, Any]] = [{"event": "message", "content": piece} for piece in ("One", " two.", "\n\nThree.")]
    for event in (pieces[0], card, *pieces[1:]):
        await stub.world.append(turn, event)
    turn.text, turn.status = "One two.\n\nThree.", "completed"
    ids = {"turnId": turn.id, "conversationId": turn.conversation}
    last = {"event": "completed", **ids, "content": turn.text, "usage": None, "recovered": False}
    await stub.world.append(turn, last)
    for _ in range(2):
        for text in ("One two.", "Three."):
            await tab.page.locator(".content[data-typed=whole]", has_text=text).wait_for()
        await tab.page.locator(".card").wait_for()
        shown = (await tab.page.locator(".answer").inner_text()).split("\n")
        words = [line for line in shown if line in ("One two.", "Parcel", "Three.")]
        assert words == ["One two.", "Parcel", "Three."]
        await tab.page.reload()


async def test_an_answer_without_anything_says_so(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer="", delay=0)
    await tab.ask("hi")
    for _ in range(2):
        await tab.page.locator(".answer .hint", has_text="This answer has no text.").wait_for()
        await tab.page.reload()


async def test_each_block_is_laid_out_in_the_direction_of_its_own_words(tab: Tab, stub: Stub) -> None:
    card = {"event": "message", "contentType": "card", "content": '{"title": "חבילה", "מצב": "בדרך"}'}
    table = "| שם | גיל |\n|---|---|\n| דנה | 7 |"
    answer = f"שלום עולם.\n\n- אחת\n- שתיים\n\n> ציטוט\n\n{table}\n\n```\nlet x = 1\n```\n\nEnglish again."
    stub.behaves(answer=answer, delay=0.01, events=[card], suggestions=["ועוד?"])
    await tab.ask("מה שלומך?")
    await tab.over()
    blocks = [
        ".asked p",
        ".content > p",
        ".content ul",
        ".content blockquote",
        ".content table",
        ".card-title",
        ".card dd",
    ]
    blocks += [".suggestions button", "pre", ".content > p:last-child"]
    found = await tab.page.evaluate(
        """(names) => names.map((name) => [name, getComputedStyle(document.querySelector(name)).direction])""", blocks
    )
    assert [name for name, direction in found if direction == "ltr"] == ["pre", ".content > p:last-child"]
    await tab.page.fill("#message", "עוד")
    assert await tab.page.locator("#message").evaluate("(e) => getComputedStyle(e).direction") == "rtl"


async def test_the_page_gives_no_reason_for_a_wait_that_it_does_not_know(tab: Tab) -> None:
    found = await tab.page.evaluate(
        """async () => {
            const { reasonKey } = await import("/page/reasons.js");
            return [["event source failed", true], ["event source failed", false], ["handshake refused", false],
                ["nothing within the first-byte deadline", false], ["held back", true], ["closed with 1008", true],
                ["forbidden_origin", false]]
                .map(([why, opened]) => reasonKey(why, opened).slice(7));
        }"""
    )
    assert found == ["broke", "unreachable", "unreachable", "late", "buffered", "refused", "origin"]


@pytest.mark.parametrize("size", [(720, 450), (600, 420), (961, 700), (320, 640)])
async def test_the_conversations_head_hides_and_covers_nothing_however_narrow_it_is(
    tab: Tab, stub: Stub, size: tuple[int, int]
) -> None:
    """The first is a laptop's screen at 200 %, with the panel beside the conversation."""
    await tab.page.set_viewport_size({"width": size[0], "height": size[1]})
    await tab.page.click("button[data-language=es]")
    if size[0] < 961:
        await tab.page.click("#panel-button")
    await tab.page.evaluate("document.querySelector('#composer').scrollIntoView()")
    await tab.ask("hi")
    await tab.over()
    for words in ("Conectada", "Esperando para reconectar"):
        wrong = await tab.page.evaluate(
            """(words) => {
                const status = document.querySelector("#status span");
                status.textContent = words;
                document.querySelector("#try-now").hidden = words === "Conectada";
                const parts = ["#status span", "#status-more", "#try-now", "#simulated", ".chat-head > *:not(.told)"];
                const boxes = parts.flatMap((part) => [...document.querySelectorAll(part)])
                    .map((part) => [part.id || part.tagName, part.getBoundingClientRect()])
                    .filter(([, { width }]) => width);
                const beside = (a, b) => a.left > b.right - 1 || b.left > a.right - 1;
                const below = (a, b) => a.top > b.bottom - 1 || b.top > a.bottom - 1;
                const covered = boxes.flatMap(([one, a], nth) => boxes.slice(nth + 1)
                    .filter(([, b]) => !beside(a, b) && !below(a, b))
                    .map(([other]) => `${one} and ${other}`));
                if (status.scrollWidth > status.offsetWidth + 1) covered.push("the status is cut");
                if (!status.getClientRects()[0]?.width) covered.push("the status is not seen");
                return covered;
            }""",
            words,
        )
        assert wrong == [], words
