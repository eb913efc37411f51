"""Everyone can use it: axe, keyboard, narrow screens, less motion."""

from pathlib import Path
from typing import Any, Literal

import pytest

from tests.browser.conftest import PLAIN, Stub, Tab
from tests.browser.test_messages import MARKDOWN

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text(encoding="utf-8")


async def findings(tab: Tab) -> list[str]:
    """The serious problems that axe finds."""
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
    await page.locator("button[data-language=es]").click()
    assert await findings(tab) == []
    await page.locator("button[data-language=en]").click()
    if width < 900:
        await page.click("#panel-button")
        await page.locator("#panel-close").wait_for()
    await page.locator(".settings summary").click()
    assert await findings(tab) == []


async def test_it_can_be_used_by_keyboard_alone(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer=PLAIN, delay=0)
    page = tab.page
    assert await page.evaluate("document.activeElement.id") == "message", "it can be written in at once"
    await page.locator(".skip").focus()
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


async def test_on_a_phone_the_panel_is_docked_below_the_answer_which_stays_in_sight(tab: Tab, stub: Stub) -> None:
    page = tab.page
    await page.set_viewport_size({"width": 375, "height": 700})
    stub.behaves(answer=PLAIN, delay=0.02)
    await tab.ask("hi")
    await page.get_by_text("word5").wait_for()
    await page.locator("#cut").wait_for(state="hidden")
    await page.get_by_role("button", name="Network").click()
    await page.locator("#cut").wait_for()
    assert await page.evaluate("document.activeElement.id") == "panel-close"
    assert await page.locator("#panel-button").get_attribute("aria-expanded") == "true"
    await page.click("#cut")
    seen = """() => {
        const { right, bottom } = document.querySelector(".content").getBoundingClientRect();
        const there = document.elementFromPoint(right - 20, bottom - 4);
        return there !== null && there.closest(".content") !== null;
    }"""
    for word in ("word60", "word120"):
        await page.locator(".content", has_text=word).wait_for()
        await page.wait_for_function(seen, timeout=2_000)
    room = await page.locator("#scroll").bounding_box()
    assert room is not None
    assert room["height"] >= 120
    await page.keyboard.press("Shift+Tab")
    await page.focus("#cut")
    await page.keyboard.press("Escape")
    await page.locator("#cut").wait_for(state="hidden")
    assert await page.evaluate("document.activeElement.id") == "panel-button"
    await page.locator("#panel-button[aria-expanded=false]").wait_for()
    assert await page.is_visible("#stop"), "the key closed the panel, and stopped nothing"
    await page.click("#panel-button")
    await page.click("#panel-close")
    await page.locator("#cut").wait_for(state="hidden")
    assert await tab.over() == PLAIN


async def test_a_panel_that_is_docked_when_the_screen_widens_stands_beside_the_conversation(tab: Tab) -> None:
    page = tab.page
    await page.set_viewport_size({"width": 700, "height": 800})
    await page.click("#panel-button")
    await page.set_viewport_size({"width": 1280, "height": 800})
    await page.locator("aside #cut").wait_for()
    chat, side = [await page.locator(name).bounding_box() for name in (".chat", "#side")]
    assert chat is not None
    assert side is not None
    assert side["x"] > chat["x"] + chat["width"]
    assert await page.is_hidden("#panel-close")
    await page.click("#message")


async def test_a_phone_on_its_side_has_room_for_messages_and_all_of_the_composer(tab: Tab, stub: Stub) -> None:
    page = tab.page
    await page.set_viewport_size({"width": 667, "height": 375})

    async def cut() -> list[str]:
        found: list[str] = await page.evaluate(
            """() => ["#message", "#send", "#new", ".welcome h2", ".quick .chip"].filter((name) => {
                const element = document.querySelector(name);
                const box = element.getBoundingClientRect();
                if (!box.width) return false;
                const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
                const seen = [[x, box.top + 3], [x, box.bottom - 3], [x, y]].every(([x, y]) => {
                    const there = document.elementFromPoint(x, y);
                    return there && (element.contains(there) || there.contains(element));
                });
                return !seen || box.top < 0 || box.bottom > innerHeight || box.right > innerWidth;
            })"""
        )
        return found

    assert await cut() == []
    stub.behaves(answer=PLAIN, delay=0)
    await tab.ask("hi")
    await tab.over()
    assert await cut() == []
    room = await page.locator("#scroll").bounding_box()
    assert room is not None
    assert room["height"] >= 180
    await page.fill("#message", "many lines\n" * 9)
    assert await cut() == []
    room = await page.locator("#scroll").bounding_box()
    assert room is not None
    assert room["height"] >= 80


async def test_nothing_of_the_status_is_cut_on_the_narrowest_screen(tab: Tab) -> None:
    await tab.page.set_viewport_size({"width": 320, "height": 640})
    cut = await tab.page.evaluate(
        """async () => {
            const { WORDS } = await import("/page/words.js");
            const status = document.querySelector("#status");
            const said = status.querySelector("span");
            document.querySelector("#status-more").textContent = "websocket";
            document.querySelector("#simulated").hidden = document.querySelector("#delete").hidden = false;
            const cut = [];
            for (const words of Object.values(WORDS)) {
                document.querySelector("#panel-button span").textContent = words.network;
                document.querySelector(".short").textContent = words.simulated_short;
                for (const key of Object.keys(words).filter((name) => name.startsWith("state_"))) {
                    said.textContent = words[key];
                    const told = [...status.children, ...status.parentElement.children];
                    const right = Math.max(...told.map((e) => e.getBoundingClientRect().right));
                    const next = document.querySelector("#panel-button").getBoundingClientRect();
                    const last = document.querySelector("#new").getBoundingClientRect();
                    const fits = said.scrollWidth <= said.clientWidth && right <= next.left && last.right <= 320;
                    if (!fits) cut.push(words[key]);
                }
            }
            return cut;
        }"""
    )
    assert cut == []


@pytest.mark.parametrize("able", [True, False], ids=["by the browser", "by the page"])
async def test_the_message_field_grows_with_lines_that_are_wrapped(tab: Tab, able: bool) -> None:
    page = tab.page
    await page.set_viewport_size({"width": 320, "height": 640})
    if not able:
        await page.evaluate(
            "() => { CSS.supports = () => false; document.querySelector('#message').style.fieldSizing = 'fixed'; }"
        )

    async def height(message: str) -> float:
        await page.fill("#message", message)
        box = await page.locator("#message").bounding_box()
        assert box is not None
        return box["height"]

    one = await height("one line")
    assert one < 60
    assert one + 40 < await height("some words " * 8) < 200
    assert 150 < await height("some words " * 90) <= 0.4 * 640 + 1
    await page.keyboard.press("Enter")
    assert await page.locator("#message").evaluate("(e) => e.clientHeight") < 60


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


async def test_the_focus_is_never_lost_to_a_button_that_goes(tab: Tab, stub: Stub) -> None:
    page = tab.page
    tool = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    stub.behaves(answer="It depends on the weather.", delay=0.02, suggestions=["More?"], tools=[tool])

    async def focus() -> str:
        await page.wait_for_timeout(200)
        return str(await page.evaluate("document.activeElement.id || document.activeElement.tagName"))

    await page.locator("#quick .chip").first.focus()
    await page.keyboard.press("Enter")
    assert await focus() == "message"
    for _ in range(2):
        await page.locator("form.outputs button").focus()
        await page.keyboard.press("Enter")
        await page.locator("form.outputs").wait_for(state="detached")
        assert await focus() == "message"
        await tab.over()
        if await page.locator(".turn").count() == 1:
            await page.locator(".suggestions .chip").last.focus()
            await page.keyboard.press("Enter")
            assert await focus() == "message"

    stub.behaves(fail={"code": "upstream_failed", "error": "Coze broke off."}, tools=[])
    await tab.ask("fail")
    await page.locator(".retry").wait_for()
    await page.locator(".retry").focus()
    await page.keyboard.press("Enter")
    assert await focus() == "message"
    await page.locator(".retry").nth(1).wait_for()

    stub.behaves(answer=f"![far]({tab.home}/page/icon.svg)", fail={})
    await tab.ask("image")
    await tab.over()
    await page.locator(".media-ask").focus()
    await page.keyboard.press("Enter")
    await page.locator(".content img").wait_for()
    assert await focus() == "IMG"


async def test_axe_finds_nothing_serious_while_an_answer_runs_on_a_phone(tab: Tab, stub: Stub) -> None:
    await tab.page.emulate_media(reduced_motion="reduce")
    await tab.page.set_viewport_size({"width": 375, "height": 800})
    begun = stub.by_hand()
    await tab.ask("hi")
    turn = await begun.get()
    await stub.world.append(turn, {"event": "message", "content": "some"})
    await tab.page.get_by_text("some").wait_for()
    assert await findings(tab) == []


@pytest.mark.parametrize(("width", "height"), [(320, 225), (480, 237), (640, 180)])
async def test_at_400_percent_and_above_a_keyboard_all_can_be_reached(
    tab: Tab, stub: Stub, width: int, height: int
) -> None:
    page = tab.page
    await page.set_viewport_size({"width": width, "height": height})
    stub.behaves(answer=PLAIN, delay=0)
    await page.evaluate("document.activeElement.blur()")
    await page.focus("#message")
    for name in ("#message", "#send"):
        assert await page.locator(name).evaluate("(e) => e.getBoundingClientRect().bottom <= innerHeight"), name
    await tab.ask("hi")
    await tab.over()
    await page.click("[data-language=zh]")
    await page.click("#theme")
    await page.click("#panel-button")
    await page.click("#panel-close")
    await page.locator("#status").scroll_into_view_if_needed()
    assert await page.locator("#status").evaluate("(e) => e.getBoundingClientRect().top >= 0")
    room = await page.locator("#scroll").bounding_box()
    assert room is not None
    assert room["height"] >= 80
    await page.click("#new")
    assert await page.locator(".turn").count() == 0


async def test_every_control_has_a_name(tab: Tab) -> None:
    await tab.page.locator(".settings summary").click()
    nameless = await tab.page.locator("input, select, textarea").evaluate_all(
        "(controls) => controls.filter((control) => !control.labels.length).map((control) => control.id)"
    )
    assert nameless == []
    assert await tab.page.get_by_role("slider", name="Added delay").count() == 1


async def test_a_screen_reader_hears_of_refusals_and_of_a_turn_that_waits(tab: Tab, stub: Stub) -> None:
    tab.faulty = True
    heard = tab.page.locator("#announcer")
    stub.behaves(tokens=["another"])
    await tab.ask("hi")
    await heard.get_by_text("The answer failed. the stub says unauthorized").wait_for(state="attached")
    stub.behaves(tokens=[], answer="\U0001f600" * 9, delay=0, tools=[{"id": "c", "function": {"name": "weather"}}])
    await tab.ask("hi")
    await heard.get_by_text("The bot waits for results of tools.").wait_for(state="attached")
    await tab.page.locator("form.outputs button").click()
    await heard.get_by_text("Answer finished, 9 characters.").wait_for(state="attached")


async def test_with_forced_colours_nothing_is_told_by_a_background_alone(tab: Tab, stub: Stub) -> None:
    await tab.page.emulate_media(forced_colors="active")
    stub.behaves(answer="one", delay=0)
    await tab.ask("hi")
    await tab.over()
    style = "(e, name) => getComputedStyle(e)[name]"
    for name in ("#send", ".asked"):
        assert await tab.page.locator(name).evaluate(style, "borderTopWidth") == "1px", name
    pressed, other = [tab.page.locator(f"[data-language={name}]") for name in ("en", "es")]
    assert await pressed.evaluate(style, "backgroundColor") != await other.evaluate(style, "backgroundColor")
    page = await tab.page.locator("#status").evaluate(style, "backgroundColor")
    canvas = await tab.page.locator("body").evaluate(style, "backgroundColor")
    assert await tab.page.locator("#status i").evaluate(style, "backgroundColor") not in (page, canvas)


async def test_no_state_is_cut_off_in_its_figure(tab: Tab) -> None:
    cut = await tab.page.evaluate(
        """async () => {
            const { WORDS } = await import("/page/words.js");
            const figure = document.querySelector("#state-figure");
            return Object.values(WORDS).flatMap((words) => Object.keys(words).filter((key) => key.startsWith("state_"))
                .filter((key) => { figure.textContent = words[key]; return figure.scrollWidth > figure.clientWidth; }));
        }"""
    )
    assert cut == []
