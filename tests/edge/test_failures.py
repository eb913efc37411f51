"""The table of failures, and that nothing of an exception goes out."""

import json
import re

import pytest
import structlog
from aiohttp import ClientPayloadError
from aiohttp.test_utils import make_mocked_request

from adapters.edge.failures import (
    COME_BACK,
    InvalidRequest,
    Mistake,
    close_code_of,
    problem,
    spread,
    sse_farewell,
    status_of,
)
from adapters.edge.languages import best_language
from gateway.errors import Code, GatewayError, UpstreamError
from gateway.events import Failed
from tests.edge.conftest import Serve

STATUSES = """
invalid_request 422 unauthorized 401 not_found 404 forbidden_origin 403 request_timeout 408
method_not_allowed 405 unsupported_media_type 415 misdirected 421 streaming_disabled 404 conversation_busy 409
too_large 413 rate_limited 429 too_many_connections 429 overloaded 503 draining 503 upstream_unavailable 502
upstream_rejected 502 upstream_rate_limited 429 upstream_unauthorized 502 upstream_empty 502 upstream_failed 502
upstream_uncertain 502 upstream_timeout 504 storage_unavailable 503 internal 500
"""


def body_of(error: GatewayError | Failed, **headers: str) -> tuple[dict[str, object], dict[str, str]]:
    response = problem(error, make_mocked_request("GET", "/", headers=headers))
    assert isinstance(response.body, bytes)
    body = json.loads(response.body)
    assert body["status"] == response.status
    return body, dict(response.headers)


def test_every_code_has_the_status_of_the_contract() -> None:
    expected = {code: int(status) for code, status in re.findall(r"(\w+) (\d+)", STATUSES)}
    assert {code.value: status_of(code) for code in Code} == expected


@pytest.mark.parametrize("code", list(Code))
def test_every_problem_is_whole(code: Code) -> None:
    body, headers = body_of(GatewayError(code, "a detail for logs"))
    assert headers["Content-Type"] == "application/problem+json"
    assert body.keys() >= {"type", "title", "status", "detail", "code", "requestId"}
    assert body["code"] == code
    assert "a detail for logs" not in json.dumps(body)
    assert ("Retry-After" in headers) is (body["status"] in (429, 503))


def test_listeners_come_back_after_exactly_the_refusals_of_the_contract() -> None:
    assert {code.value for code in COME_BACK} == {"overloaded", "draining", "too_many_connections", "rate_limited"}
    assert {code for code in Code if close_code_of(code) == 1013} == COME_BACK


@pytest.mark.parametrize(("seconds", "header"), [(0.2, "1"), (29.1, "30"), (30.0, "30"), (None, "2")])
def test_retry_after_is_rounded_up_and_never_zero(seconds: float | None, header: str) -> None:
    assert body_of(GatewayError(Code.RATE_LIMITED, retry_after=seconds))[1]["Retry-After"] == header


@pytest.mark.parametrize(("asked", "part"), [("es-MX,es;q=0.9", "No se ha"), ("zh", "没有"), ("de", "was not found")])
def test_the_detail_is_in_the_language_asked_for(asked: str, part: str) -> None:
    body, headers = body_of(GatewayError(Code.NOT_FOUND), **{"Accept-Language": asked})
    assert part in str(body["detail"])
    assert headers["Vary"] == "Accept-Language"


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en;q=0.1, es;q=0.2", "es"),
        ("es;q=0, zh;q=0.001", "zh"),
        ("es;q=0", "en"),
        ("fr, de;q=0.9, es;q=0.1", "es"),
        ("*", "en"),
        ("", "en"),
        ("ES", "es"),
        ("zh-Hant-TW", "zh"),
        ("es;q=９", "en"),
        ("es;q=nan", "en"),
        ("es;q=1.5", "es"),
        ("zho, esperanto, english", "en"),
        (",;=,;q=," * 30, "en"),
        ("\x00\r\nes", "en"),
    ],
)
def test_accept_language_is_weighed(header: str, language: str) -> None:
    assert best_language(header) == language


def test_mistakes_stand_in_errors() -> None:
    body, _ = body_of(InvalidRequest([Mistake("userId", "is required")]))
    assert body["errors"] == [{"field": "userId", "message": "is required"}]
    assert body_of(InvalidRequest([], status=400))[0]["status"] == 400


def test_cozes_own_code_and_log_id_are_passed_on() -> None:
    error = UpstreamError(Code.UPSTREAM_REJECTED, "x", coze_code=4000, log_id="2026")
    assert body_of(error)[0]["upstream"] == {"code": 4000, "logId": "2026"}
    assert "upstream" not in body_of(UpstreamError(Code.UPSTREAM_TIMEOUT))[0]


def test_a_failed_turn_is_a_problem_in_its_own_words() -> None:
    failed = Failed("Un momento.", "upstream_uncertain", True, "conv_1", "turn_1", "so far", upstream={"code": 5})
    body, _ = body_of(failed, **{"Accept-Language": "zh"})
    assert (body["status"], body["detail"], body["retryable"], body["turnId"]) == (502, "Un momento.", True, "turn_1")
    assert body["upstream"] == {"code": 5}


@pytest.mark.parametrize("code", sorted(COME_BACK))
def test_a_farewell_is_a_comment_and_a_spread_retry_and_no_event(code: Code) -> None:
    frames = [sse_farewell(code, 2000) for _ in range(200)]
    waits = set()
    for frame in frames:
        match = re.fullmatch(rb": %s\nretry: ([0-9]+)\n\n" % code.value.encode(), frame)
        assert match
        waits.add(int(match[1]))
    assert len(waits) > 50
    assert min(waits) >= 1000
    assert max(waits) <= 3000


def test_the_spread_is_half_either_way() -> None:
    assert (spread(2000, chance=lambda: 0.0), spread(2000, chance=lambda: 0.999999)) == (1000, 3000)
    assert spread(1, chance=lambda: 0.0) >= 1


async def test_what_nobody_expected_is_internal_and_says_nothing(serve: Serve) -> None:
    client = await serve()
    with structlog.testing.capture_logs() as logged:
        answer = await client.get("/broken")
    text = await answer.text()
    assert answer.status == 500
    assert json.loads(text)["code"] == "internal"
    for secret in ("sk-secret", "user wrote", "Traceback", "RuntimeError", "conftest"):
        assert secret not in text
    (entry,) = [entry for entry in logged if entry["event"] == "request.failed"]
    assert entry["exception"] == "RuntimeError"
    assert entry["requestId"] == answer.headers["X-Request-Id"]
    assert "secret" not in str(logged)


@pytest.mark.parametrize("how", ["break", "refuse"])
async def test_a_stream_that_breaks_is_cut_and_gets_no_problem_into_its_middle(serve: Serve, how: str) -> None:
    answer = await (await serve()).get(f"/stream?then={how}")
    with pytest.raises(ClientPayloadError):
        await answer.read()
    assert answer.content_type == "text/event-stream"


async def test_an_unknown_path_and_what_is_not_yours_look_alike(serve: Serve) -> None:
    client = await serve()
    one, other = await client.get("/nowhere"), await client.get("/broken?code=not_found")
    first, second = await one.json(), await other.json()
    assert first.pop("requestId") != second.pop("requestId")
    assert first == second
    assert [name for name in one.headers] == [name for name in other.headers]  # noqa: C416


@pytest.mark.parametrize(("method", "path", "allow"), [("GET", "/chat", "POST"), ("DELETE", "/named", "GET,HEAD")])
async def test_a_wrong_method_is_told_the_right_ones(serve: Serve, method: str, path: str, allow: str) -> None:
    answer = await (await serve()).request(method, path)
    assert (answer.status, answer.headers["Allow"]) == (405, allow)
    assert (await answer.json())["code"] == "method_not_allowed"


async def test_a_websocket_route_without_a_handshake_is_400(serve: Serve) -> None:
    answer = await (await serve()).get("/ws")
    assert (answer.status, (await answer.json())["code"]) == (400, "invalid_request")
    assert answer.content_type == "application/problem+json"


async def test_a_problem_has_no_body_for_head(serve: Serve) -> None:
    answer = await (await serve()).head("/nowhere")
    assert (answer.status, await answer.read()) == (404, b"")
