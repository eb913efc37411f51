"""The page on bad networks: the text is exact whatever happens below it."""

import re

import pytest
from playwright.async_api import Page

from tests.browser.conftest import Stub, Tab

PLAIN = " ".join(f"word{i}" for i in range(300))
"""An answer that takes so long that something can happen on its way."""


async def shows(page: Page, text: str) -> None:
    await page.locator(".content", has_text=re.compile(text)).last.wait_for()


async def test_the_text_is_exact_after_cuts_by_the_server(tab: Tab, stub: Stub) -> None:
    tab.faulty = True
    stub.behaves(answer=PLAIN, delay=0.005, cuts=3, cut_after=40)
    await tab.ask("hi")
    assert await tab.over() == PLAIN
    assert int(await tab.figure("reconnects")) >= 3
    assert len(stub.world.turns) == 1


async def test_the_text_is_exact_after_cuts_by_the_pages_own_button(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer=PLAIN, delay=0.01)
    await tab.ask("hi")
    for word in ("word20", "word80", "word150"):
        await shows(tab.page, word)
        await tab.page.click("#cut")
    assert await tab.over() == PLAIN
    assert int(await tab.figure("reconnects")) >= 3
    assert "you cut the connection" in await tab.page.locator("#network-log").inner_text()


async def test_with_websocket_refused_and_sse_buffered_the_text_is_exact(tab: Tab, stub: Stub) -> None:
    tab.faulty = True
    stub.behaves(answer=PLAIN, delay=0.02, buffer_sse=True, refuse_ws=True)
    await tab.ask("hi")
    assert await tab.over() == PLAIN
    assert await tab.figure("transport") == "longpoll"
    assert len(stub.world.turns) == 1


async def test_the_pages_own_bad_network_loses_nothing(tab: Tab, stub: Stub) -> None:
    tab.faulty = True
    stub.behaves(answer=PLAIN, delay=0.015)
    for switch in ("#buffer", "#refuse", "#cut-often"):
        await tab.page.check(switch)
    await tab.page.fill("#slow", "200")
    await tab.ask("hi")
    assert await tab.over() == PLAIN
    assert await tab.figure("transport") == "longpoll"
    assert len(stub.world.turns) == 1


@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_on_a_slow_network_too_an_answer_is_given_once(tab: Tab, stub: Stub, transport: str) -> None:
    """A socket's end must not overtake what it has brought; each piece of a stream is late, and not later each time."""
    stub.behaves(answer=PLAIN, delay=0.01)
    await tab.page.select_option("#transport", transport)
    await tab.page.fill("#slow", "700")
    await tab.page.evaluate(
        """() => {
            window.states = [];
            new MutationObserver((changes) => {
                for (const { target } of changes) states.push(target.dataset.state);
            }).observe(document.querySelector("#log"), { subtree: true, attributeFilter: ["data-state"] });
        }"""
    )
    await tab.ask("hi")
    assert await tab.over() == PLAIN
    await tab.page.wait_for_timeout(2_500)  # what would come again is as late as the rest
    assert await tab.over() == PLAIN
    assert (await tab.page.evaluate("states"))[-1] == "completed"
    assert f"{len(PLAIN):,} characters" in await tab.page.locator(".foot").inner_text()
    assert float((await tab.figure("total")).removesuffix(" s")) < 15  # 700 ms a piece would be minutes


@pytest.mark.parametrize("transport", ["websocket", "sse", "eventsource"])
async def test_cut_on_a_slow_network_it_shows_nothing_that_comes_again(tab: Tab, stub: Stub, transport: str) -> None:
    stub.behaves(answer=PLAIN, delay=0.03)
    await tab.page.select_option("#transport", transport)
    await tab.page.fill("#slow", "500")
    await tab.ask("hi")
    await shows(tab.page, "word20")
    await tab.page.evaluate(
        """() => {
            window.shown = new Set();
            const look = () => shown.add(document.querySelector(".content").textContent);
            new MutationObserver(look).observe(document.querySelector("#log"), {
                subtree: true, childList: true, characterData: true,
            });
        }"""
    )
    await tab.page.click("#cut")
    await tab.page.wait_for_timeout(700)
    await tab.page.click("#cut")
    assert await tab.over() == PLAIN
    shown: list[str] = await tab.page.evaluate("[...shown]")
    assert len(shown) > 10
    assert [text for text in shown if not PLAIN.startswith(text.strip())] == []


async def test_an_answer_moves_to_another_transport_in_its_middle(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer=PLAIN, delay=0.015)
    await tab.ask("hi")
    await shows(tab.page, "word20")
    await tab.page.click("#elsewhere")
    await shows(tab.page, "word100")
    assert await tab.figure("transport") == "websocket"
    await tab.page.select_option("#transport", "longpoll")
    assert await tab.over() == PLAIN
    assert await tab.figure("transport") == "longpoll"
    kinds = [seen["transport"] for seen in stub.world.seen if seen["transport"] != "post"]
    assert kinds[0] == "websocket"
    assert "longpoll" in kinds


async def test_offline_it_waits_and_online_it_catches_up(tab: Tab, stub: Stub) -> None:
    tab.faulty = True
    stub.behaves(answer=PLAIN, delay=0.01)
    await tab.ask("hi")
    await shows(tab.page, "word20")
    await tab.page.context.set_offline(True)
    await tab.page.locator("#status[data-state=offline]").wait_for()
    before = len(stub.world.seen)
    await tab.page.wait_for_timeout(700)
    assert len(stub.world.seen) == before, "it tries nothing while it is offline"
    await tab.page.context.set_offline(False)
    assert await tab.over() == PLAIN


async def test_a_gateway_that_can_be_reached_answers_whatever_the_browser_says(tab: Tab, stub: Stub) -> None:
    """Without any network a browser calls itself offline, and a gateway on the same machine is there."""
    stub.behaves(answer=PLAIN, delay=0.005)
    await tab.page.evaluate("Object.defineProperty(Navigator.prototype, 'onLine', { get: () => false })")
    await tab.ask("hi")
    await shows(tab.page, "word20")
    await tab.page.click("#cut")
    assert await tab.over() == PLAIN
    assert "offline" not in await tab.page.locator("#network-log").inner_text()


async def test_a_hidden_tab_gives_its_connection_back_and_catches_up_when_seen(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer="one", delay=0)
    await tab.ask("first")
    await tab.over()
    show = """(state) => {
        Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    await tab.page.evaluate(show, "hidden")
    await tab.page.locator("#status[data-state=hidden]").wait_for(timeout=9_000)
    stub.behaves(answer=PLAIN, delay=0)
    conversation = await tab.page.evaluate("location.hash.slice(1)")
    stub.world.start({"message": "from elsewhere", "conversationId": conversation}, None)
    await tab.page.wait_for_timeout(500)
    assert await tab.page.locator(".turn").count() == 1
    await tab.page.evaluate(show, "visible")
    assert await tab.over(nth=1) == PLAIN


async def test_a_gateway_without_streaming_is_answered_by_the_older_way(tab: Tab, stub: Stub) -> None:
    stub.behaves(streaming=False, transports=["longpoll"], answer=PLAIN, delay=0)
    await tab.ask("hi")
    assert await tab.over() == PLAIN
    assert [seen["path"] for seen in stub.world.seen if seen["transport"] == "post"] == ["chat"]


async def test_a_browser_without_streams_is_answered_by_the_older_way(tab: Tab, stub: Stub) -> None:
    await tab.page.add_init_script("delete window.EventSource; delete window.ReadableStream;")
    await tab.page.reload()
    stub.behaves(answer=PLAIN, delay=0)
    text = await tab.page.evaluate(
        """async () => {
            const { chat } = await import("/client/coze-gateway.js");
            return (await chat({ userId: "u", botId: "b", message: "hi" }).done).content;
        }"""
    )
    assert text == PLAIN
    assert [seen["path"] for seen in stub.world.seen if seen["transport"] == "post"] == ["chat"]


async def test_a_busy_gateway_is_waited_for(tab: Tab, stub: Stub) -> None:
    tab.faulty = True
    stub.behaves(answer=PLAIN, delay=0, busy=1, retry_after="1")
    await tab.ask("hi")
    await tab.page.locator("#status[data-state=waiting]").wait_for()
    assert await tab.over() == PLAIN


async def test_a_gateway_that_cannot_be_reached_is_an_error_with_a_way_out(tab: Tab, stub: Stub) -> None:
    tab.faulty = True
    tab.page.set_default_timeout(60_000)
    await tab.page.route("**/api/coze/chat**", lambda route: route.abort())
    await tab.ask("hi")
    await tab.page.locator(".failure").wait_for()
    assert "could not be reached" in await tab.page.locator(".failure").inner_text()
    await tab.page.unroute("**/api/coze/chat**")
    stub.behaves(answer=PLAIN, delay=0)
    await tab.page.get_by_role("button", name="Ask again").click()
    assert await tab.over() == PLAIN


@pytest.mark.parametrize("fault", [{"hold_after": 5}, {"cuts": 3, "cut_after": 5}])
async def test_the_browsers_own_event_source_is_left_when_it_is_held_back_and_comes_back_when_it_is_cut(
    tab: Tab, stub: Stub, fault: dict[str, int]
) -> None:
    """A script hears no heartbeat of it, and by itself it would come back for ever without a word."""
    tab.faulty = True
    stub.behaves(answer=PLAIN, delay=0.01, **fault)
    found = await tab.page.evaluate(
        """async () => {
            const { chat, fold } = await import("/client/coze-gateway.js");
            let text = "";
            const states = [];
            const last = await chat({
                userId: "u", botId: "b", message: "hi",
                transports: ["eventsource", "longpoll"], timing: { firstByteMs: 500 },
                onEvent: (event) => { text = fold(text, event); },
                onState: (state, { transport, reason }) => states.push([state, transport, reason]),
            }).done;
            return { content: last.content, text, states };
        }"""
    )
    assert found["content"] == found["text"] == PLAIN
    ways = {transport for state, transport, _ in found["states"] if state == "open"}
    assert ways == ({"eventsource", "longpoll"} if "hold_after" in fault else {"eventsource"})
    assert any(state == "waiting" for state, *_ in found["states"]) == ("cuts" in fault)


async def test_a_page_with_more_listeners_than_the_browser_has_connections_still_asks_and_stops(
    tab: Tab, stub: Stub
) -> None:
    """Chromium opens six connections to a host over HTTP/1.1: a seventh request would wait for one of them to end."""
    stub.behaves(answer=PLAIN, delay=0.05)
    last = await tab.page.evaluate(
        """async () => {
            const { chat, connect } = await import("/client/coze-gateway.js");
            const lines = Array.from({ length: 9 }, (_, i) => connect({ scope: `shops/s${i}` }));
            while (lines.some((line) => line.state !== "open")) await new Promise((resolve) => setTimeout(resolve, 20));
            const began = performance.now();
            let pieces = 0;
            const onEvent = () => { if (++pieces === 5) answer.cancel(); };
            const answer = chat({ userId: "u", botId: "b", message: "hi", onEvent });
            const last = await answer.done;
            const took = performance.now() - began;
            for (const line of lines) line.close();
            return { event: last.event, took, ways: lines.map((line) => line.transport) };
        }"""
    )
    assert last["event"] == "cancelled"
    assert last["took"] < 3_000
    assert last["ways"].count("sse") <= 2


async def test_the_pages_own_proxy_holds_an_event_source_back_too(tab: Tab, stub: Stub) -> None:
    tab.faulty = True
    stub.behaves(answer=PLAIN, delay=0.02)
    await tab.page.select_option("#transport", "eventsource")
    await tab.page.check("#buffer")
    await tab.ask("hi")
    assert await tab.over() == PLAIN
    assert await tab.figure("transport") == "websocket"
    assert len(stub.world.turns) == 1


async def test_a_slow_network_is_late_by_no_more_than_it_says(tab: Tab, stub: Stub) -> None:
    stub.behaves(answer=PLAIN, delay=0.1)  # it must still run when it is stopped, also on a slow machine
    await tab.page.select_option("#transport", "eventsource")
    await tab.page.fill("#slow", "500")
    await tab.ask("hi")
    await shows(tab.page, "word5")
    await tab.page.wait_for_timeout(1_000)
    await tab.page.click("#stop")
    await tab.page.locator(".turn[data-state=cancelled]").wait_for(timeout=2_500)
