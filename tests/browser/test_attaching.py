"""Files that go along with a question: chosen with the paper-clip, sent at once, named in the question."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import FilePayload, Page, expect

from tests.browser.conftest import Stub, Tab
from tests.processes import GatewayProcess

NewTab = Callable[..., Awaitable[Tab]]
PICTURE: FilePayload = {"name": "图 a.png", "mimeType": "image/png", "buffer": b"x" * 200_000}
REPORT: FilePayload = {"name": "report.pdf", "mimeType": "application/pdf", "buffer": b"x" * 100}
VOICE: FilePayload = {"name": "voice.mp3", "mimeType": "audio/mpeg", "buffer": b"x" * 100}


async def choose(page: Page, *files: FilePayload) -> None:
    await page.set_input_files("#attach-file", list(files))


async def arrived(page: Page, count: int) -> None:
    await expect(page.locator(".attached")).to_have_count(count)
    await expect(page.locator(".attached progress")).to_have_count(0)


async def asked(page: Page, message: str) -> Any:
    """What is sent when a question is asked."""
    async with page.expect_request(lambda request: "/api/coze/chat" in request.url) as sent:
        await page.fill("#message", message)
        await page.keyboard.press("Enter")
    return (await sent.value).post_data_json


async def test_files_are_sent_at_once_and_named_in_the_next_question_alone(tab: Tab, stub: Stub) -> None:
    page = tab.page
    await choose(page, PICTURE, REPORT, VOICE)
    await arrived(page, 3)
    body = await asked(page, "看图")
    assert [(one["type"], one["fileId"]) for one in body["attachments"]] == [
        ("image", "207000"),
        ("file", "7100"),
        ("audio", "7100"),
    ]
    await tab.over()
    assert await page.locator(".asked .went-along").all_inner_texts() == ["图 a.png", "report.pdf", "voice.mp3"]
    assert await page.locator("#attachments").is_hidden()
    files = [seen for seen in stub.world.seen if seen["transport"] == "file"]
    assert (files[0]["name"], files[0]["field"]) == ("图 a.png", "file")
    assert files[0]["query"] == {"userId": "test-user", "shopId": "test-shop"}
    assert "attachments" not in await asked(page, "and now?")


async def test_the_paper_clip_works_by_keyboard(tab: Tab) -> None:
    page = tab.page
    async with page.expect_file_chooser() as chooser:  # the browser hears of it while the focus moves
        await page.focus("#message")
        await page.keyboard.press("Shift+Tab")
        assert await page.evaluate("document.activeElement.id") == "attach"
        await page.keyboard.press("Enter")
    await (await chooser.value).set_files([REPORT])
    await arrived(page, 1)
    assert await page.evaluate("document.activeElement.id") == "attach"
    await page.keyboard.press("Shift+Tab")
    assert await page.evaluate("document.activeElement.className") == "attached-remove"
    await page.keyboard.press("Enter")
    await expect(page.locator(".attached")).to_have_count(0)
    assert await page.evaluate("document.activeElement.id") == "attach"


async def test_a_question_waits_for_its_files_and_a_file_can_be_taken_back(tab: Tab, stub: Stub) -> None:
    page = tab.page
    stub.behaves(delay=0.5)
    await choose(page, {**PICTURE, "buffer": b"x" * 5_000_000})
    await expect(page.locator(".attached small")).to_contain_text("%")
    await page.fill("#message", "look")
    await page.keyboard.press("Enter")
    await page.locator("#hint", has_text="still on its way").wait_for()
    assert await page.locator(".turn").count() == 0
    await page.click(".attached-remove")
    await page.locator("#hint").wait_for(state="hidden")
    stub.behaves(delay=0)
    assert "attachments" not in await asked(page, "look")


async def test_what_is_refused_is_said_and_goes_along_with_nothing(tab: Tab, stub: Stub) -> None:
    page = tab.page
    tab.faulty = True
    await choose(page, {**PICTURE, "buffer": b"x" * 10_000_001})
    await page.locator("#alert", has_text="10,000,000 bytes at most").wait_for()
    stub.behaves(busy=1)
    await choose(page, REPORT)
    await page.locator("#alert", has_text="report.pdf could not be sent. the stub says overloaded").wait_for()
    await expect(page.locator(".attached")).to_have_count(0)
    await choose(page, *[REPORT] * 11)
    await page.locator("#alert", has_text="No more than 10").wait_for()
    await arrived(page, 10)


async def test_a_question_that_is_asked_again_has_its_files_again(tab: Tab, stub: Stub) -> None:
    page = tab.page
    stub.behaves(fail={"error": "It broke.", "code": "upstream_failed"})
    await choose(page, REPORT)
    await arrived(page, 1)
    first = await asked(page, "look")
    await page.locator(".retry").wait_for()
    async with page.expect_request(lambda request: "/api/coze/chat" in request.url) as sent:
        await page.click(".retry")
    again: Any = (await sent.value).post_data_json
    assert again["attachments"] == first["attachments"] == [{"type": "file", "fileId": "7100"}]
    assert await page.locator(".went-along").all_inner_texts() == ["report.pdf"] * 2


@pytest.mark.parametrize("tongue", ["zh-CN", "en-US", "es-ES"])
async def test_on_a_phone_everything_has_its_place_in_each_language(tab: Tab, tongue: str) -> None:
    page = tab.page
    await page.set_viewport_size({"width": 375, "height": 640})
    await page.click(f"button[data-language={tongue[:2]}]")
    await choose(page, {**REPORT, "name": "a very long name " * 6 + ".pdf"}, PICTURE)
    await arrived(page, 2)
    assert await page.evaluate("document.documentElement.scrollWidth") <= 375
    for selector in ("#attach", "#message", "#send", ".attached", ".attached-remove"):
        box = await page.locator(selector).last.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 375
        assert box["y"] + box["height"] <= 640
    width = await page.locator("#message").evaluate("(field) => field.clientWidth")
    assert width >= 150, "a question still has room"


async def test_the_module_tells_how_much_was_sent_and_stops_where_it_is_told_to(tab: Tab, stub: Stub) -> None:
    script = """async ([size, stopAt]) => {
        const { upload } = await import("/client/coze-gateway.js");
        const told = [];
        const ending = new AbortController();
        const onProgress = ({ sent, total }) => {
            told.push([sent, total]);
            if (stopAt && sent >= stopAt) ending.abort();
        };
        const file = new File([new Uint8Array(size)], "a.png", { type: "image/png" });
        const options = { userId: "u", onProgress, signal: ending.signal };
        const result = await upload(file, options).catch((error) => error.name);
        return { told, result };
    }"""
    line = await tab.page.context.new_cdp_session(tab.page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 16_000_000}
    await line.send("Network.emulateNetworkConditions", slow)
    found = await tab.page.evaluate(script, [8_000_000, 0])
    assert found["result"] == {"fileId": "8007000", "fileName": "a.png", "bytes": 8_000_000, "createdAt": 1}
    sent = [sent for sent, _ in found["told"]]
    assert (sent[0], sent[-1]) == (0, 8_000_000)
    assert sent == sorted(sent)
    assert len(sent) > 3, "it is told on the way, too"
    assert {total for _, total in found["told"]} == {8_000_000}
    stub.behaves(delay=0.2)
    found = await tab.page.evaluate(script, [8_000_000, 1])
    assert found["result"] == "AbortError"
    assert found["told"][-1][0] < 8_000_000


async def test_a_file_goes_through_the_real_gateway(new_tab: NewTab, quick_gateway: GatewayProcess) -> None:
    tab = await new_tab(quick_gateway.url)
    await tab.open()
    await choose(tab.page, {**PICTURE, "buffer": b"x" * 3_000_000})
    await arrived(tab.page, 1)
    body = await asked(tab.page, "What is in this picture?")
    assert body["attachments"][0]["fileId"].isdecimal()
    assert await tab.over()
