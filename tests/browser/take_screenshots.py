"""Takes the pictures in `docs/screenshots/` anew: `python -m tests.browser.take_screenshots`.

They show the real gateway with its simulated Coze, in Chromium; `pngquant` makes them smaller where it is there.
Look at them before committing.
"""

import asyncio
import shutil
import tempfile

from playwright.async_api import Browser, Page, async_playwright

from adapters.browser import PAGE_PATH
from tests.browser.conftest import FLAGS
from tests.processes import ROOT, GatewayProcess

FOLDER = ROOT / "docs" / "screenshots"


async def take(page: Page, name: str) -> None:
    file = FOLDER / f"{name}.png"
    await page.screenshot(path=file)
    if pngquant := shutil.which("pngquant"):
        packing = await asyncio.create_subprocess_exec(
            pngquant, "--force", "--strip", "--skip-if-larger", "--speed", "1", "--output", file, file
        )
        await packing.wait()


async def opened(
    browser: Browser, url: str, width: int, height: int, *, dark: bool = False, tongue: str = "en"
) -> Page:
    context = await browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", locale=tongue
    )
    page = await context.new_page()
    await page.goto(url + PAGE_PATH)
    await page.wait_for_selector("html[data-ready=true]")
    return page


async def ask(page: Page, message: str, fault: str = "") -> None:
    await page.evaluate("(fault) => { document.querySelector('#fault').value = fault; }", fault)
    await page.fill("#message", message)
    await page.keyboard.press("Enter")


async def over(page: Page, state: str = "completed") -> None:
    await page.locator(f'.turn[data-state="{state}"] .content[data-typed=whole]').last.wait_for(timeout=60_000)
    await page.wait_for_timeout(600)


async def take_all(browser: Browser, url: str) -> None:
    page = await opened(browser, url, 1280, 820)
    await take(page, "wide-light")
    await ask(page, "Show me a streaming client in Python")
    await page.locator(".content p").nth(1).wait_for()
    await page.click("#cut")
    await page.locator(".content li").nth(1).wait_for()
    await page.wait_for_timeout(1_500)
    await take(page, "streaming")
    await page.close()

    page = await opened(browser, url, 768, 820)
    await ask(page, "Show me a streaming client in Python")
    await page.locator(".content p").first.wait_for()
    await ask(page, "And in Rust?")
    await page.locator(".notice button").wait_for()
    await take(page, "queued")
    await page.close()

    page = await opened(browser, url, 1280, 820, dark=True)
    await ask(page, "What can you do?", "drop-after:8")
    await over(page)
    await take(page, "recovered-dark")

    page = await opened(browser, url, 375, 720, tongue="zh-CN")
    await ask(page, "用表格比较 SSE 和 WebSocket")
    await over(page)
    await page.locator("table").scroll_into_view_if_needed()
    await page.wait_for_timeout(300)
    await take(page, "phone-light")

    page = await opened(browser, url, 375, 720, dark=True, tongue="es-ES")
    await ask(page, "¿Qué puedes hacer?", "failed")
    await over(page, "error")
    await take(page, "phone-error-dark")
    await ask(page, "¿Qué puedes hacer?")
    await page.click("#panel-button")
    await page.locator(".turn:last-child .content p").nth(1).wait_for()
    await page.click("#cut")
    await page.wait_for_timeout(1_200)
    await take(page, "phone-panel-dark")


async def take_crash(browser: Browser, url: str, gateway: GatewayProcess) -> None:
    """The gateway dies in mid-answer."""
    page = await opened(browser, url, 768, 820)
    small = await opened(browser, url, 320, 640, dark=True, tongue="zh-CN")
    await ask(page, "What can you do?")
    await ask(small, "你能做什么？")
    for each in (page, small):
        await each.locator(".content p").nth(1).wait_for()
    await gateway.kill()
    for each, name in ((page, "crash"), (small, "small-crash-dark")):
        await each.locator(".notice button").wait_for(timeout=60_000)
        await take(each, name)


async def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data:
        slow = {"GATEWAY_DATA_DIR": data, "GATEWAY_SIMULATOR_RATE": "30"}  # so that there is time to take them
        gateway = await GatewayProcess.start("serve", "--port", "0", environment=slow)
        try:
            url = await gateway.ready()
            async with async_playwright() as playwright:
                chromium = shutil.which("chromium") or shutil.which("google-chrome")
                browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
                await take_all(browser, url)
                await take_crash(browser, url, gateway)
                await browser.close()
        finally:
            await gateway.terminate()


if __name__ == "__main__":
    asyncio.run(main())
