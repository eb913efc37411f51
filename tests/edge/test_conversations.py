"""A user's conversations: the list, titles, and what the user thinks of answers, which Coze is told of."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.simulator import Simulator
from tests.edge.whole import Whole, key, person, whole, with_tokens
from tests.faults.coze import simulated

QUICK = "/fault plain pieces:2 rate:0 --"


@pytest.fixture
async def coze() -> AsyncIterator[Simulator]:
    async with simulated(first_ms=1, rate=100_000) as simulator:
        yield simulator


@pytest.fixture
async def running(tmp_path: Path, coze: Simulator) -> AsyncIterator[Whole]:
    async with whole(tmp_path, coze_api_base=coze.url, coze_api_token="pat_x", upstream_retries=0) as gateway:
        yield gateway


async def call(
    gateway: Whole, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    url = f"{gateway.url}/api/coze/{path}"
    async with gateway.session.request(method, url, json=body, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None) if answer.status != 204 else None


async def listed(gateway: Whole, query: str, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    status, page = await call(gateway, "GET", f"conversations?{query}", headers=headers)
    assert status == 200, page
    found: list[dict[str, Any]] = page["conversations"]
    return found


async def test_a_user_has_a_list_of_conversations_the_newest_first_page_by_page(running: Whole) -> None:
    turns = [await running.finished_turn({}, userId="ann", message=f"{QUICK} {n}", shopId="s") for n in range(5)]
    await running.finished_turn({}, userId="bob")
    ids = [turn["conversationId"] for turn in turns][::-1]
    found, cursor = [], ""
    for size in (2, 2, 1):
        status, page = await call(running, "GET", f"conversations?userId=ann&limit=2{cursor}")
        assert (status, len(page["conversations"])) == (200, size)
        found += page["conversations"]
        cursor = f"&cursor={page['next']}"
    assert page["next"] is None
    assert [one["conversationId"] for one in found] == ids
    first = found[-1]
    assert (first["title"], first["botId"], first["shopId"]) == (f"{QUICK} 0", "b", "s")
    assert first["createdAt"] <= first["updatedAt"]
    assert await listed(running, "userId=nobody") == []


async def test_a_renamed_conversation_has_its_title_until_that_is_taken_away(running: Whole) -> None:
    turn = await running.finished_turn({}, userId="ann", message=f"{QUICK} {'x' * 100}")
    path = f"conversations/{turn['conversationId']}"
    for title in ("Shoes, 与鞋", "y" * 200):
        assert await call(running, "PATCH", path, {"title": title}) == (
            200,
            {"conversationId": turn["conversationId"], "title": title},
        )
        assert [one["title"] for one in await listed(running, "userId=ann")] == [title]
    assert (await call(running, "PATCH", path, {"title": None}))[0] == 200
    assert [one["title"] for one in await listed(running, "userId=ann")] == [f"{QUICK} {'x' * 100}"[:80]]
    for wrong in ({}, {"title": ""}, {"title": " \n"}, {"title": "z" * 201}, {"title": 7}, {"title": "a", "more": 1}):
        assert (await call(running, "PATCH", path, wrong))[0] == 422, wrong
    assert (await call(running, "PATCH", f"conversations/conv_{'0' * 36}", {"title": "a"}))[0] == 404


async def test_a_deleted_conversation_is_not_in_the_list(running: Whole) -> None:
    turns = [await running.finished_turn({}, userId="ann") for _ in range(2)]
    assert (await call(running, "DELETE", f"conversations/{turns[0]['conversationId']}"))[0] == 204
    assert [one["conversationId"] for one in await listed(running, "userId=ann")] == [turns[1]["conversationId"]]
    assert (await call(running, "PATCH", f"conversations/{turns[0]['conversationId']}", {"title": "a"}))[0] == 404


async def test_wrong_questions_are_named(running: Whole) -> None:
    forged = base64.urlsafe_b64encode(b'[1e999,"conv_x"]').decode()
    for query, field in (
        ("", "userId"),
        (f"userId={'u' * 129}", "userId"),
        (f"userId=u&shopId={'s' * 129}", "shopId"),
        ("userId=u&limit=many", "limit"),
        ("userId=u&cursor=!", "cursor"),
        ("userId=u&cursor=e30", "cursor"),
        (f"userId=u&cursor={forged}", "cursor"),
        (f"userId=u&cursor={'a' * 257}", "cursor"),
    ):
        status, problem = await call(running, "GET", f"conversations?{query}")
        assert (status, [error["field"] for error in problem["errors"]]) == (422, [field]), query


async def test_a_shop_s_id_has_no_nul(running: Whole) -> None:
    assert (await call(running, "GET", "shops/a%00b/poll?wait=0"))[0] == 404


async def test_a_token_lists_what_is_its_users_and_its_shops(tmp_path: Path) -> None:
    async with whole(tmp_path, **with_tokens(tmp_path)) as gateway:
        ann_in_a = person("ann", shop="a")
        for headers in (ann_in_a, person("ann", shop="b"), person("ann"), person("bob", shop="a")):
            await gateway.finished_turn(headers)
        for headers, query, shops in (
            (ann_in_a, "", ["a"]),
            (ann_in_a, "userId=ann&shopId=a", ["a"]),
            (person("ann", shop=["a", "b"]), "", ["b", "a"]),
            (person("ann"), "", [None, "b", "a"]),
            (person("ann"), "shopId=b", ["b"]),
            (person("ann", shop=[]), "", []),
            (key("key-a"), "userId=ann", ["a"]),
            (key("key-all"), "userId=ann", [None, "b", "a"]),
            (key("key-all"), "userId=bob", ["a"]),
        ):
            assert [one["shopId"] for one in await listed(gateway, query, headers)] == shops, query
        for headers, query, status in (
            (ann_in_a, "userId=bob", 422),
            (ann_in_a, "shopId=b", 404),
            (key("key-a"), "userId=ann&shopId=b", 404),
            (key("key-a"), "", 422),
            ({}, "userId=ann", 401),
        ):
            assert (await call(gateway, "GET", f"conversations?{query}", headers=headers))[0] == status, query


async def test_feedback_is_kept_and_told_to_coze_and_the_last_one_holds(running: Whole, coze: Simulator) -> None:
    turn = await running.finished_turn({}, userId="ann", message="/fault multi pieces:2 rate:0 -- hi")
    path = f"turns/{turn['turnId']}/feedback"
    for body, at_coze, kept in (
        ({"feedback": "like"}, {"feedback_type": "like"}, {"feedback": "like", "comment": ""}),
        (
            {"feedback": "unlike", "comment": "too long"},
            {"feedback_type": "unlike", "comment": "too long"},
            {"feedback": "unlike", "comment": "too long"},
        ),
        ({"feedback": "none", "comment": "left out"}, None, {}),
    ):
        status, answer = await call(running, "PUT", path, body)
        assert (status, answer["atCoze"]) == (200, True)
        assert list(coze.opinions.values()) == ([at_coze] if at_coze else [])
        _, page = await call(running, "GET", f"conversations/{turn['conversationId']}/messages")
        asked, said = page["messages"]
        assert {name: said[name] for name in ("feedback", "comment") if name in said} == kept
        assert "feedback" not in asked
    for wrong in ({}, {"feedback": "love"}, {"feedback": "like", "comment": "z" * 1001}, {"feedback": "like", "x": 1}):
        assert (await call(running, "PUT", path, wrong))[0] == 422, wrong


async def test_feedback_right_after_the_end_is_taken_and_before_the_end_refused(running: Whole) -> None:
    sent = {"userId": "u", "botId": "b", "message": "/fault plain pieces:3 rate:4 -- hi"}
    async with running.session.post(f"{running.url}/api/coze/chat/stream", json=sent) as stream:
        path = f"turns/{stream.headers['X-Turn-Id']}/feedback"
        status, problem = await call(running, "PUT", path, {"feedback": "like"})
        assert (status, problem["code"]) == (422, "invalid_request")
        async for line in stream.content:
            if b'"completed"' in line:
                break
        assert (await call(running, "PUT", path, {"feedback": "like"}))[0] == 200


async def test_feedback_that_coze_does_not_take_is_kept_here_and_the_log_says_so(running: Whole) -> None:
    turn = await running.finished_turn({}, userId="ann", message="/fault plain pieces:2 rate:0 list-500:9 -- hi")
    with capture_logs() as lines:
        status, answer = await call(running, "PUT", f"turns/{turn['turnId']}/feedback", {"feedback": "like"})
    assert (status, answer["atCoze"]) == (200, False)
    (line,) = [line for line in lines if line["event"] == "turn.feedback_not_heard"]
    assert (line["turnId"], line["code"]) == (turn["turnId"], "upstream_unavailable")
    _, page = await call(running, "GET", f"conversations/{turn['conversationId']}/messages")
    assert page["messages"][1]["feedback"] == "like"


async def test_of_two_at_once_the_later_holds_at_both_places(running: Whole, coze: Simulator) -> None:
    turn = await running.finished_turn({}, userId="ann", message=f"{QUICK} hi")
    path = f"turns/{turn['turnId']}/feedback"
    answers = await asyncio.gather(*(call(running, "PUT", path, {"feedback": kind}) for kind in ("like", "unlike") * 5))
    assert {status for status, _ in answers} == {200}
    _, page = await call(running, "GET", f"conversations/{turn['conversationId']}/messages")
    (at_coze,) = coze.opinions.values()
    assert page["messages"][1]["feedback"] == at_coze["feedback_type"]
