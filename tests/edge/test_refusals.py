"""A refused request leaves a line and a count, and nothing of what it sent."""

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import WSMsgType
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from structlog.typing import EventDict

from adapters.edge.refusals import Refusals
from gateway.telemetry.observer import UNHEARD
from tests.edge.whole import SECRET, Whole, key, person, whole, with_tokens

UUID = "00000000-0000-4000-8000-000000000000"
TURN = f"/api/coze/turns/turn_{UUID}"


def refusals(lines: list[EventDict]) -> list[EventDict]:
    return [line for line in lines if line["event"] == "request.refused"]


async def counted(gateway: Whole, code: str) -> float:
    async with gateway.session.get(f"{gateway.url}/metrics") as answer:
        text = await answer.text()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    found = {s.labels["code"]: s.value for s in samples if s.name == "gateway_requests_refused_total"}
    return found.get(code, 0.0)


def token(secret: str = SECRET, **claims: Any) -> dict[str, str]:
    return key(jwt.encode({"sub": "u", "exp": 4_000_000_000, "aud": "us", **claims}, secret, "HS256"))


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "no token"),
        (key("s3cr3t"), "unknown key"),
        (key("a.b.s3cr3t"), "malformed"),
        (token("another s3cr3t that is long enough for the algorithm"), "signature"),
        (token(exp=1), "expired"),
        (token(aud="s3cr3t"), "audience"),
        (token(nbf=4_000_000_000), "not yet valid"),
    ],
)
async def test_a_refused_token_is_told_by_its_reason_and_never_itself(
    tmp_path: Path, headers: dict[str, str], reason: str
) -> None:
    settings = with_tokens(tmp_path) | {"jwt_audience": "us"}
    with capture_logs() as lines:
        async with (
            whole(tmp_path, **settings) as gateway,
            gateway.session.get(f"{gateway.url}{TURN}/events", headers=headers) as answer,
        ):
            problem = await answer.json(content_type=None)
            assert answer.status == 401
    (line,) = refusals(lines)
    assert line == {
        "event": "request.refused",
        "log_level": "info",
        "code": "unauthorized",
        "reason": reason,
        "status": 401,
        "method": "GET",
        "route": "/api/coze/turns/{id}/events",
        "requestId": problem["requestId"],
        "leftOut": 0,
    }
    assert "s3cr3t" not in json.dumps(lines)


async def test_every_kind_of_refusal_has_its_line_and_is_counted(tmp_path: Path) -> None:
    chat = {"userId": "u", "botId": "b", "message": "a s3cr3t"}
    with capture_logs() as lines:
        async with whole(tmp_path, turns_per_minute=1, max_body_bytes=2000) as gateway:
            url = f"{gateway.url}/api/coze/chat"
            evil = {"Origin": "https://evil.example"}
            requests: list[tuple[str, str, dict[str, Any], str, int]] = [
                ("GET", f"{gateway.url}{TURN}", {}, "not_found", 404),
                ("GET", f"{gateway.url}/s3cr3t", {}, "not_found", 404),
                ("GET", f"{gateway.url}/", {"headers": {"Host": "s3cr3t.example"}}, "misdirected", 421),
                ("POST", url, {"json": chat, "headers": evil}, "forbidden_origin", 403),
                ("POST", url, {"json": {**chat, "s3cr3t": 1}}, "invalid_request", 422),
                (
                    "POST",
                    url,
                    {"data": b"s3cr3t", "headers": {"Content-Type": "application/json"}},
                    "invalid_request",
                    400,
                ),
                ("POST", url, {"json": {**chat, "message": "x" * 3000}}, "too_large", 413),
                ("POST", url, {"data": b"x"}, "unsupported_media_type", 415),
                ("DELETE", url, {}, "method_not_allowed", 405),
                ("POST", url, {"json": {**chat, "message": "first"}}, "", 200),
                ("POST", url, {"json": chat}, "rate_limited", 429),
            ]
            ids = []
            for method, address, given, code, status in requests:
                async with gateway.session.request(method, address, **given) as answer:
                    assert answer.status == status, (code, await answer.text())
                    if code:
                        ids.append((answer.headers["X-Request-Id"], code, status))
            assert await counted(gateway, "not_found") == 2
            assert await counted(gateway, "rate_limited") == 1
            assert await counted(gateway, "draining") == 0
    told = [(line["requestId"], line["code"], line["status"]) for line in refusals(lines)]
    assert told == ids
    reasons = {line["code"]: line["reason"] for line in refusals(lines)}
    assert reasons["forbidden_origin"] == "the Origin is not in GATEWAY_ALLOWED_ORIGINS"
    assert reasons["rate_limited"] == "GATEWAY_TURNS_PER_MINUTE"
    assert "s3cr3t" not in json.dumps(refusals(lines))


async def test_refusals_in_a_transports_own_way_are_logged_too(tmp_path: Path) -> None:
    shop = "/api/coze/shops/s"
    with capture_logs() as lines:
        async with (
            whole(tmp_path, max_connections=1) as gateway,
            gateway.session.ws_connect(f"{gateway.url}/api/coze/ws") as socket,
        ):
            await socket.send_json({"type": "subscribe", "topic": f"turns/turn_{UUID}"})
            assert (await socket.receive_json())["code"] == "not_found"
            async with gateway.session.get(f"{gateway.url}{shop}/events") as answer:
                assert answer.status == 200
                assert b"overloaded" in await answer.read()
            async with gateway.session.ws_connect(f"{gateway.url}{shop}/ws") as refused:
                assert (await refused.receive()).type is WSMsgType.CLOSE
                assert refused.close_code == 1013
    told = [(line["code"], line["route"]) for line in refusals(lines)]
    assert told == [
        ("not_found", "/api/coze/ws"),
        ("overloaded", "/api/coze/shops/{id}/events"),
        ("overloaded", "/api/coze/shops/{id}/ws"),
    ]


async def test_many_refusals_are_sampled_and_all_are_counted(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with whole(tmp_path) as gateway:
            for _ in range(200):
                async with gateway.session.get(f"{gateway.url}{TURN}") as answer:
                    assert answer.status == 404
            assert await counted(gateway, "not_found") == 200
    assert 10 <= len(refusals(lines)) < 200


async def test_a_turns_lines_name_the_request_that_started_it(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with whole(tmp_path) as gateway:
            body = {"userId": "u", "botId": "b", "message": "hello"}
            async with gateway.session.post(f"{gateway.url}/api/coze/chat/stream", json=body) as answer:
                await answer.read()
                request = answer.headers["X-Request-Id"]
    named = [line["event"] for line in lines if line.get("requestId") == request]
    assert named == ["Starting SSE chat stream", "SSE stream ended"]


async def test_an_origin_that_is_not_allowed_is_told_of_once_with_the_setting_and_the_value(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with whole(tmp_path, allowed_origins="https://shop.example") as gateway:
            for origin in (
                "https://evil.example",
                "https://Evil.example",
                "https://shop.example",
                gateway.url,
                "s3 cr3t",
            ):
                for method in ("GET", "POST", "OPTIONS"):
                    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
                    async with gateway.session.request(method, f"{gateway.url}{TURN}", headers=headers) as answer:
                        await answer.read()
            async with gateway.session.get(f"{gateway.url}{TURN}", headers={"Origin": "null"}) as answer:
                await answer.read()
    told = [line for line in lines if line["event"] == "origin.refused"]
    assert [(line["origin"], line.get("setting"), line.get("add")) for line in told] == [
        ("https://evil.example", "GATEWAY_ALLOWED_ORIGINS", "https://evil.example"),
        ("null", None, None),
    ]
    assert {line["log_level"] for line in told} == {"warning"}


def test_origins_are_told_of_again_after_an_hour_and_never_more_than_a_hundred() -> None:
    now = [0.0]
    refused = Refusals(UNHEARD, clock=lambda: now[0])
    with capture_logs() as lines:
        for number in range(1000):
            refused.unshared(f"https://{number}.example")
            refused.unshared("https://0.example")
        assert [line["event"] for line in lines] == ["origin.refused"] * 100 + ["origins.refused"]
        assert len(refused._origins) == 100
        lines.clear()
        now[0] = 3600.0
        for _ in range(3):
            refused.unshared("https://0.example")
        assert [line["origin"] for line in lines] == ["https://0.example"]
        refused.unshared("https://" + "x" * 8000)
        assert len(lines) == 1


async def test_what_is_not_found_and_what_is_wrong_says_why_in_the_log_alone(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with whole(tmp_path, **with_tokens(tmp_path)) as gateway:
            turn = await gateway.finished_turn(key("key-a"), userId="ann")
            url, conversation = f"{gateway.url}/api/coze", turn["conversationId"]
            chat = {"userId": "ann", "botId": "b", "message": "hi"}
            strange = {**chat, "botId": 7, "customVariables": {"s3cr3t": 1}, "s3cr3t": 1, "onBusy": "s3cr3t"}
            requests: list[tuple[str, str, str, dict[str, Any], str]] = [
                (
                    "GET",
                    f"{url}/conversations/{conversation}/messages",
                    "key-b",
                    {},
                    "it belongs to another user or shop",
                ),
                ("GET", f"{url}/turns/{turn['turnId']}/events", "key-b", {}, "it belongs to another user or shop"),
                ("DELETE", f"{url}/conversations/conv_{UUID}", "key-b", {}, "it does not exist"),
                (
                    "POST",
                    f"{url}/chat",
                    "key-b",
                    {**chat, "conversationId": conversation},
                    "belongs to another user or shop",
                ),
                ("POST", f"{url}/chat", "key-b", {**chat, "shopId": "a"}, "the shop is not one of the token's"),
                ("GET", f"{url}/turns/s3cr3t", "key-b", {}, "that is no turn's id"),
                ("DELETE", f"{url}/conversations/s3cr3t", "key-b", {}, "that is no conversation's id"),
                ("GET", f"{url}/shops/a/events", "key-b", {}, "the shop is not one of the token's"),
                ("POST", f"{url}/chat", "key-a", strange, "fields: botId, customVariables, onBusy and 1 unknown"),
                ("POST", f"{url}/chat", "key-a", {"s3cr3t": chat}, "fields: botId, message, userId and 1 unknown"),
            ]
            told = []
            for method, address, name, body, _ in requests:
                async with gateway.session.request(method, address, json=body or None, headers=key(name)) as answer:
                    told.append(await answer.text())
    for line, (*_, reason) in zip(refusals(lines), requests, strict=True):
        assert line["reason"].endswith(reason)
    assert not any("another user's" in text or "token's" in text for text in told)
    assert "s3cr3t" not in json.dumps(refusals(lines))


async def test_a_shop_that_may_not_be_watched_is_told_by_the_scope_that_lacks(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with (
            whole(tmp_path, **with_tokens(tmp_path)) as gateway,
            gateway.session.get(f"{gateway.url}/api/coze/shops/a/events", headers=person("u", shop="a")) as answer,
        ):
            assert answer.status == 404
    (line,) = refusals(lines)
    assert line["reason"] == "the token's scope does not hold `shop`"


async def test_an_api_key_that_comes_from_a_page_is_told_of_once_by_its_name(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with whole(tmp_path, allowed_origins="https://shop.example", **with_tokens(tmp_path)) as gateway:
            page = {"Origin": "https://shop.example"}
            for headers in (key("key-a"), key("key-a") | page, key("key-a") | page, token() | page):
                async with gateway.session.get(f"{gateway.url}{TURN}", headers=headers) as answer:
                    await answer.read()
    (line,) = (line for line in lines if line["event"] == "auth.key_in_page")
    assert (line["keyName"], line["log_level"]) == ("key-a", "warning")
