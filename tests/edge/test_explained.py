"""A person who opens an address of the API is told what it is; a program gets what the contract says."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from adapters.edge.guard import PAGE
from tests.edge.whole import Whole, whole, with_tokens

UUID = "00000000-0000-4000-8000-000000000000"
BROWSERS = {
    "Chrome": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    "Firefox": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Safari": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
}
PROGRAMS = {
    "curl": {"Accept": "*/*"},
    "EventSource": {"Accept": "text/event-stream", "Sec-Fetch-Mode": "cors"},
    "fetch in a page": {"Accept": "*/*", "Sec-Fetch-Mode": "cors"},
    "a page that asks for HTML": {"Accept": BROWSERS["Chrome"], "Sec-Fetch-Mode": "cors"},
    "Java": {"Accept": "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"},
    "nobody": {},
}
PATHS = ("/api/coze/turns/nothing", f"/api/coze/turns/turn_{UUID}/events", "/api/coze/chat", "/nowhere", "/api/coze/ws")


async def opened(gateway: Whole, path: str, **headers: str) -> tuple[Any, str]:
    asked = {"Accept": BROWSERS["Chrome"], "Sec-Fetch-Mode": "navigate"} | headers
    async with gateway.session.get(gateway.url + path, headers=asked, allow_redirects=False) as answer:
        return answer, await answer.text()


def leads_to(text: str, path: str) -> str:
    """Where the page's link leads when a proxy has the gateway under /gw."""
    link: str
    (link,) = re.findall(r'href="([^"]*)"', text)
    return urljoin(f"/gw{path}", link)


@pytest.mark.parametrize("accept", BROWSERS.values(), ids=BROWSERS)
async def test_a_browser_is_shown_a_page_for_every_problem_and_for_a_stream(tmp_path: Path, accept: str) -> None:
    statuses = dict(zip(PATHS, (404, 406, 405, 404, 400), strict=True))
    async with whole(tmp_path) as gateway:
        for path, status in statuses.items():
            answer, text = await opened(gateway, path, Accept=accept)
            assert (answer.status, answer.content_type) == (status, "text/html"), path
            assert leads_to(text, path) == f"/gw{PAGE}"
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert "<script" not in text
            assert "style=" not in text
            assert (answer.headers["X-Request-Id"] in text) is (status != 406)
        answer, _ = await opened(gateway, "/api/coze/chat")
        assert answer.headers["Allow"] == "POST"
        turn = await gateway.finished_turn({}, userId="u")
        answer, text = await opened(gateway, f"/api/coze/turns/{turn['turnId']}")
        assert (answer.status, answer.content_type) == (200, "application/json")


@pytest.mark.parametrize("headers", PROGRAMS.values(), ids=PROGRAMS)
async def test_a_program_gets_what_the_contract_says(tmp_path: Path, headers: dict[str, str]) -> None:
    async with whole(tmp_path) as gateway:
        for path, status in zip(PATHS, (404, 404, 405, 404, 400), strict=True):
            async with gateway.session.get(gateway.url + path, headers=headers) as answer:
                assert (answer.status, answer.content_type) == (status, "application/problem+json"), path
        shop = f"{gateway.url}/api/coze/shops/s/events"
        async with gateway.session.get(shop, headers=headers) as answer:
            assert (answer.status, answer.content_type) == (200, "text/event-stream")


async def test_the_page_is_in_the_persons_language_and_repeats_no_markup(tmp_path: Path) -> None:
    async with whole(tmp_path) as gateway:
        for language, word in (("zh", "测试页面"), ("en", "test page"), ("es", "página de prueba")):
            _, text = await opened(gateway, f"/api/coze/turns/turn_{UUID}/events", **{"Accept-Language": language})
            assert f'lang="{language}"' in text
            assert word in text
        _, text = await opened(gateway, f"/api/coze/turns/turn_{UUID}/poll?wait=<script>alert(1)</script>")
        assert "<script" not in text


async def test_the_root_leads_to_the_page(tmp_path: Path) -> None:
    async with whole(tmp_path) as gateway:
        async with gateway.session.get(f"{gateway.url}/") as answer:
            assert (answer.status, answer.url.path, answer.content_type) == (200, PAGE, "text/html")
        answer, _ = await opened(gateway, "/")
        assert (answer.status, answer.headers["Location"]) == (302, PAGE.removeprefix("/"))


async def test_where_a_token_is_needed_the_root_says_so_and_leads_to_the_page(tmp_path: Path) -> None:
    async with whole(tmp_path, **with_tokens(tmp_path)) as gateway:
        answer, text = await opened(gateway, "/", **{"Accept-Language": "es"})
        assert (answer.status, answer.content_type) == (200, "text/html")
        assert "credencial" in text
        assert leads_to(text, "/") == f"/gw{PAGE}"
        answer, text = await opened(gateway, f"/api/coze/turns/turn_{UUID}")
        assert (answer.status, answer.headers["WWW-Authenticate"][:6]) == (401, "Bearer")
        assert "unauthorized" in text
