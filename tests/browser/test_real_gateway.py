"""The page against the real gateway and its simulated Coze, as it is first seen."""

import hashlib
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import ClientSession

from gateway.simulator.faults import parse_plan
from tests.browser.conftest import Tab
from tests.conftest import Require
from tests.processes import GatewayProcess
from tests.transports.nginx import UPGRADES, nginx

NewTab = Callable[..., Awaitable[Tab]]
Start = Callable[..., Awaitable[GatewayProcess]]
APP = Path(__file__).parent.parent.parent / "adapters" / "browser" / "page" / "choices.js"


async def kept(tab: Tab, nth: int = -1) -> dict[str, Any]:
    """What the gateway's record says of a turn on the page."""
    turn = await tab.page.locator(".turn").nth(nth).get_attribute("data-turn")
    async with ClientSession(tab.home) as session, session.get(f"/api/coze/turns/{turn}") as response:
        record: dict[str, Any] = await response.json()
        return record


async def written(tab: Tab, nth: int = -1) -> str:
    """The source of an answer on the page, as its copy button gives it."""
    await tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await tab.page.locator(".turn").nth(nth).locator(".foot [data-t=copy]").click()
    text: str = await tab.page.evaluate("navigator.clipboard.readText()")
    return text


async def opened(new_tab: NewTab, process: GatewayProcess) -> Tab:
    tab = await new_tab(process.url)
    await tab.open()
    return tab


async def test_a_quick_question_is_answered_exactly(new_tab: NewTab, quick_gateway: GatewayProcess) -> None:
    tab = await opened(new_tab, quick_gateway)
    await tab.page.get_by_text("你好，请介绍一下你自己").click()
    await tab.over()
    record = await kept(tab)
    assert record["status"] == "completed"
    assert await written(tab) == record["content"] != ""
    assert await tab.page.locator(".suggestions button").count() == len(record["suggestions"])
    await tab.page.reload()
    assert re.sub(r"\s", "", await tab.over())
    assert await written(tab) == record["content"]


@pytest.mark.parametrize("fault", ["question", "question-card"])
async def test_after_a_question_of_the_bot_the_composer_is_ready_for_the_reply(
    new_tab: NewTab, quick_gateway: GatewayProcess, fault: str
) -> None:
    tab = await opened(new_tab, quick_gateway)
    await tab.ask(f"/fault {fault} -- the weather?")
    await tab.over()
    assert "Which city" in await tab.page.locator(".turn").last.inner_text()
    assert (await kept(tab))["awaitingReply"] is True
    assert await tab.page.locator(".turn .outputs").count() == 0
    await tab.ask("/fault plain pieces:4 -- Hangzhou")
    await tab.over()
    question, reply = await kept(tab, 0), await kept(tab, 1)
    assert (reply["status"], reply["conversationId"]) == ("completed", question["conversationId"])
    assert "awaitingReply" not in reply


@pytest.mark.parametrize("transport", ["websocket", "longpoll", "eventsource", "whole"])
async def test_the_text_on_the_page_is_exact_over_every_transport(
    new_tab: NewTab, quick_gateway: GatewayProcess, transport: str
) -> None:
    tab = await opened(new_tab, quick_gateway)
    await tab.page.select_option("#transport", transport)
    await tab.ask("What can you do?")
    await tab.over()
    assert await written(tab) == (await kept(tab))["content"]
    assert await tab.figure("transport") == ("Whole answer" if transport == "whole" else transport)


@pytest.mark.parametrize("transport", ["sse", "websocket", "longpoll", "eventsource", "whole"])
async def test_a_proxy_may_serve_it_below_a_path(
    new_tab: NewTab, quick_gateway: GatewayProcess, require: Require, free_port: Callable[[], int], transport: str
) -> None:
    below = (
        UPGRADES
        + "if ($request_uri !~ ^/gw/) { return 404; } rewrite ^/gw/(.*)$ /$1 break; proxy_set_header Host $http_host;"
    )
    async with nginx(require("nginx"), quick_gateway.url, free_port(), location=below) as proxy:
        tab = await new_tab(f"{proxy.url}/gw")
        await tab.open()
        await tab.page.select_option("#transport", transport)
        await tab.ask("What can you do?")
        text = await tab.over()
        await tab.page.reload()
        assert await tab.over() == text != ""
        await tab.page.close()  # it listens, and would complain of a proxy that ends


async def test_the_gateway_may_be_killed_in_the_middle_of_an_answer(
    new_tab: NewTab, gateway: Start, free_port: Callable[[], int]
) -> None:
    port = str(free_port())
    first = await gateway("--port", port, GATEWAY_SIMULATOR_RATE="60")
    tab = await opened(new_tab, first)
    tab.faulty = True
    await tab.ask("Show me a streaming client in Python")
    await tab.page.locator(".content p").nth(1).wait_for()
    before = await tab.page.locator(".content").inner_text()
    await first.kill()
    await tab.page.locator("#status[data-state=waiting]").wait_for()
    await gateway("--port", port, GATEWAY_SIMULATOR_RATE="60")
    after = await tab.over()
    assert len(after) > len(before)
    record = await kept(tab)
    assert record["status"] == "completed"
    assert await written(tab) == record["content"]
    assert await tab.page.locator(".turn").count() == 1
    assert await tab.page.locator(".turn").get_by_text("Shown anew").count() == 0, "no reset was needed"


async def test_a_break_between_gateway_and_coze_is_mended_in_sight(
    new_tab: NewTab, quick_gateway: GatewayProcess
) -> None:
    tab = await opened(new_tab, quick_gateway)
    await tab.page.select_option("#fault", "drop-after:8")
    await tab.ask("What can you do?")
    await tab.over()
    assert await tab.page.locator(".badge").inner_text() == "recovered from Coze's record"
    assert await written(tab) == (await kept(tab))["content"]


async def test_a_failure_of_coze_is_a_sentence_in_the_pages_language(
    new_tab: NewTab, quick_gateway: GatewayProcess
) -> None:
    tab = await opened(new_tab, quick_gateway)
    await tab.page.get_by_role("button", name="中文").click()
    await tab.page.select_option("#fault", "failed")
    await tab.ask("你好")
    await tab.over("error")
    assert re.search(r"[\u4e00-\u9fff]{4}", await tab.page.locator(".failure p").inner_text())
    await tab.page.reload()
    await tab.page.locator('.turn[data-state="error"]').wait_for()


@pytest.mark.parametrize("fault", ["hostile", "multi", "audio", "rewrite", "reasoning", "tool", "stall-after:8"])
async def test_whatever_coze_says_the_page_stays_quiet_and_exact(
    new_tab: NewTab, quick_gateway: GatewayProcess, fault: str
) -> None:
    tab = await opened(new_tab, quick_gateway)
    await tab.page.select_option("#fault", fault)
    await tab.ask("What can you do?")
    await tab.over()
    assert await written(tab) == (await kept(tab))["content"]
    wanted = {"multi": ".card", "audio": ".extras audio", "reasoning": ".thinking p", "tool": ".tools li"}.get(fault)
    assert wanted is None or await tab.page.locator(wanted).count() >= 1


async def test_results_of_tools_are_asked_for_and_used(new_tab: NewTab, quick_gateway: GatewayProcess) -> None:
    tab = await opened(new_tab, quick_gateway)
    await tab.page.select_option("#fault", "action")
    await tab.ask("What can you do?")
    await tab.page.locator("form.outputs button").click()
    await tab.over()
    assert (await kept(tab))["status"] == "completed"


async def test_stop_reaches_coze(new_tab: NewTab, quick_gateway: GatewayProcess) -> None:
    tab = await opened(new_tab, quick_gateway)
    await tab.ask("/fault rate:10 -- What can you do?")
    await tab.page.locator(".content p, .content h1, .content h2").first.wait_for()
    await tab.page.click("#stop")
    await tab.over("cancelled")
    assert (await kept(tab))["status"] == "cancelled"


async def test_two_tabs_are_in_step_with_a_real_gateway(new_tab: NewTab, quick_gateway: GatewayProcess) -> None:
    first = await opened(new_tab, quick_gateway)
    second = await opened(new_tab, quick_gateway)
    await first.ask("What can you do?")
    assert await first.over() == await second.over()
    await second.ask("And what else?")
    assert await second.over(nth=1) == await first.over(nth=1)


async def test_without_streaming_the_older_way_answers(new_tab: NewTab, gateway: Start) -> None:
    tab = await opened(new_tab, await gateway(USE_SSE_STREAMING="false", GATEWAY_SIMULATOR_RATE="400"))
    await tab.ask("What can you do?")
    await tab.over()
    assert await written(tab) == (await kept(tab))["content"]


async def test_a_token_is_asked_for_and_used(new_tab: NewTab, gateway: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"page {hashlib.sha256(b'open-sesame').hexdigest()} *\n")
    process = await gateway(GATEWAY_AUTH="api-key", GATEWAY_API_KEYS_FILE=str(keys), GATEWAY_SIMULATOR_RATE="400")
    tab = await opened(new_tab, process)
    tab.faulty = True
    await tab.ask("What can you do?")
    await tab.page.locator(".failure").wait_for()
    assert "unauthorized" in await tab.page.locator(".failure small").inner_text()
    await tab.page.locator("#token:focus").wait_for()
    await tab.page.fill("#token", "open-sesame")
    for transport in ("sse", "websocket", "eventsource"):
        await tab.page.select_option("#transport", transport)
        await tab.ask("What can you do?")
        await tab.over()
        assert await tab.figure("transport") == transport


async def test_a_whole_answer_whose_waiting_outlived_the_token_comes_with_the_next_one(
    new_tab: NewTab, gateway: Start, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret of this test alone, long enough")
    process = await gateway(GATEWAY_AUTH="jwt", GATEWAY_JWT_SECRET_FILE=str(secret), GATEWAY_SIMULATOR_RATE="100")
    tab = await opened(new_tab, process)
    tab.faulty = True

    def token(seconds: float) -> str:
        claims = {"sub": "test-user", "shops": ["*"], "exp": time.time() + seconds}
        return jwt.encode(claims, secret.read_text(), "HS256")

    await tab.page.locator("#token:focus").wait_for()
    await tab.page.select_option("#transport", "whole")
    await tab.page.fill("#token", token(3))
    await tab.page.keyboard.press("Tab")
    await tab.ask("/fault echo first:5000 rate:100 -- an answer that takes longer than the token")
    await tab.page.locator(".failure").wait_for()
    assert await tab.page.locator(".retry").count() == 0, "the gateway has it: to ask again would ask twice"
    await tab.page.fill("#token", token(60))
    await tab.page.keyboard.press("Tab")
    assert "longer than the token" in await tab.over()
    assert await tab.page.locator(".turn").count() == 1


async def test_media_of_listed_hosts_need_no_click(new_tab: NewTab, gateway: Start) -> None:
    process = await gateway(GATEWAY_MEDIA_HOSTS="cdn.example.com,img.example.org", GATEWAY_SIMULATOR_RATE="400")
    tab = await opened(new_tab, process)
    await tab.page.route("https://cdn.example.com/**", lambda route: route.fulfill(status=204))
    await tab.page.route("https://other.example.com/**", lambda route: route.abort())
    source = "![a](https://cdn.example.com/a.png) ![b](https://other.example.com/b.png)"
    await tab.page.evaluate(
        """async (source) => {
            const { rendered } = await import("/page/markdown.js");
            document.querySelector("#log").append(rendered(source, {}));
        }""",
        source,
    )
    await tab.page.wait_for_timeout(300)
    assert tab.strangers == ["https://cdn.example.com/a.png"]
    assert await tab.page.locator(".media-ask").count() == 1
    tab.strangers.clear()


@pytest.mark.parametrize("simulated", [True, False])
async def test_faults_of_the_simulated_coze_are_offered_where_it_answers(
    new_tab: NewTab, gateway: Start, quick_gateway: GatewayProcess, simulated: bool
) -> None:
    tab = await opened(new_tab, quick_gateway if simulated else await gateway(COZE_API_TOKEN="pat_x"))
    assert await tab.page.locator("#cut").is_visible()
    assert await tab.page.locator("#fault").is_visible() == simulated


def test_every_fault_on_the_page_is_one_that_the_simulator_knows() -> None:
    block = re.search(r"const FAULTS = \[(.*?)\n\];", APP.read_text(encoding="utf-8"), re.S)
    assert block
    plans = re.findall(r'\["([^"]+)", "fault_', block[1])
    assert len(plans) >= 12
    for plan in plans:
        read = parse_plan(f"/fault {plan} -- What can you do?")
        assert read.message == "What can you do?"
