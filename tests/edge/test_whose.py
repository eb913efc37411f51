"""Access: every route of the whole gateway answers for things of others as for things that never existed."""

import asyncio
import json
import random
import re
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import WSServerHandshakeError

from tests.edge.whole import BODY, Whole, events_of, key, person, whole, with_tokens, within

OPEN = {"/", "/healthz", "/readyz", "/openapi.json", "/sse-stream-test.html", "/api/coze/config"}
CLIENT = {"/client/coze-gateway.js", "/client/coze-gateway.d.ts"}
"""The client's public files; the others are the module's own, as the page's files are the page's."""
OPERATORS = {"/metrics", "/debug/ledger"}
"""Open by where the listener is, not by a token: on loopback, and not through a proxy."""

ANN: dict[str, Any] = {"shop": "a", "scope": "shop"}


@pytest.fixture
async def running(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Whole]:
    """A gateway with tokens; its parameter is how many milliseconds Coze takes to the first piece."""
    first = getattr(request, "param", 1)
    async with whole(tmp_path, simulator_first_ms=first, **with_tokens(tmp_path)) as gateway:
        yield gateway


LEFT_OUT = ("/page/", "/v1/", "/v3/", "/open_api/")


def routes(gateway: Whole) -> list[tuple[str, str]]:
    """Every route as (method, path), without the page's own files, and without Coze's paths, which Coze describes and
    `tests/doors` tests."""
    return [
        (route.method, route.resource.canonical)
        for route in gateway.app.router.routes()
        if route.resource is not None and not route.resource.canonical.startswith(LEFT_OUT)
    ]


async def test_every_route_is_described_and_every_description_has_its_route(running: Whole) -> None:
    async with running.session.get(f"{running.url}/openapi.json") as answer:
        description = await answer.json()
    described = {
        (method.upper(), re.sub(r"{\w+}", "{}", path))
        for path, item in description["paths"].items()
        for method in item
        if method != "parameters"
    }
    there = {(method, re.sub(r"{\w+}", "{}", path)) for method, path in routes(running) if method != "HEAD"}
    there = {(m, p) for m, p in there if not p.startswith("/client/") or p in CLIENT}
    assert there == described


async def test_the_configuration_says_who_needs_a_token_and_that_answers_are_simulated(running: Whole) -> None:
    async def told(**headers: str) -> tuple[bool, bool]:
        async with running.session.get(f"{running.url}/api/coze/config", headers=headers) as answer:
            config = await answer.json()
            return config["needsToken"], config["simulated"]

    assert [await told(), await told(**key("wrong")), await told(**person("ann", **ANN))] == [
        (True, True),
        (True, True),
        (False, True),
    ]


async def test_without_a_token_everything_is_401_but_what_the_contract_opens(running: Whole) -> None:
    for method, path in routes(running):
        target = re.sub(r"{\w+}", f"turn_{uuid4()}", path)
        for headers in ({}, key("wrong"), {"Cookie": "gateway_token=wrong"}):
            async with running.session.request(method, running.url + target, json={}, headers=headers) as answer:
                if path in OPEN | OPERATORS or path.startswith("/client/"):
                    assert answer.status in (200, 304), (method, path)
                else:
                    assert answer.status == 401, (method, path)


async def answer_of(gateway: Whole, method: str, path: str, **request: Any) -> tuple[int, dict[str, str], Any]:
    """The parts by which answers can be told apart: status, headers and body, without the date and the request's id."""
    async with gateway.session.request(method, gateway.url + path, **request) as answer:
        headers = {
            name: value for name, value in answer.headers.items() if name.lower() not in ("date", "x-request-id")
        }
        body = await answer.json(content_type=None)
        body.pop("requestId", None)
        return answer.status, headers, body


OTHERS = {
    "another person": person("bob", **ANN),
    "the same person for another shop": person("ann", shop="b", scope="shop"),
    "another shop's key": key("key-b"),
    "someone without a shop": person("bob"),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
async def test_what_is_not_yours_never_existed(running: Whole, other: dict[str, str]) -> None:
    mine = await running.finished_turn(person("ann", **ANN), shopId="a")
    turn, conversation = mine["turnId"], mine["conversationId"]
    outputs = {"json": {"toolOutputs": [{"toolCallId": "x", "output": "y"}]}}
    probes: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/api/coze/turns/{turn}", {}),
        ("POST", "/api/coze/turns/{turn}/cancel", {}),
        ("POST", "/api/coze/turns/{turn}/tool-outputs", outputs),
        ("PUT", "/api/coze/turns/{turn}/feedback", {"json": {"feedback": "like"}}),
        ("PATCH", "/api/coze/conversations/{conversation}", {"json": {"title": "mine now"}}),
        ("GET", "/api/coze/turns/{turn}/events", {}),
        ("GET", "/api/coze/turns/{turn}/events?after={position}", {}),
        ("GET", "/api/coze/turns/{turn}/poll?wait=0", {}),
        ("GET", "/api/coze/conversations/{conversation}/messages", {}),
        ("GET", "/api/coze/conversations/{conversation}/events?after=0", {}),
        ("GET", "/api/coze/conversations/{conversation}/poll?wait=0&after=0", {}),
    ]
    async with running.session.get(f"{running.url}/api/coze/turns/{turn}", headers=person("ann", **ANN)) as answer:
        assert answer.status == 200  # it is there, for its owner
        position = (await answer.json())["position"]
    for method, path, request in probes:
        theirs = path.format(turn=turn, conversation=conversation, position=position)
        nothing = path.format(turn=f"turn_{uuid4()}", conversation=f"conv_{uuid4()}", position=position)
        answers = [await answer_of(running, method, p, headers=other, **request) for p in (theirs, nothing)]
        assert answers[0] == answers[1], path
        assert answers[0][0] == 404, path


async def test_a_message_into_anothers_conversation_is_not_found(running: Whole) -> None:
    mine = await running.finished_turn(person("ann", **ANN))
    for caller in (person("bob", **ANN), key("key-b")):
        bodies = [
            BODY | {"conversationId": name, "userId": "bob"} for name in (mine["conversationId"], f"conv_{uuid4()}")
        ]
        for path in ("/api/coze/chat", "/api/coze/chat/stream"):
            answers = [await answer_of(running, "POST", path, json=body, headers=caller) for body in bodies]
            assert answers[0] == answers[1]
            assert answers[0][0] == 404
    again = await running.finished_turn(person("ann", **ANN), conversationId=mine["conversationId"])
    assert again["conversationId"] == mine["conversationId"]


async def test_a_websocket_of_anothers_is_a_plain_404(running: Whole) -> None:
    mine = await running.finished_turn(person("ann", **ANN))
    for scope in (f"turns/{mine['turnId']}", f"turns/turn_{uuid4()}", f"conversations/{mine['conversationId']}"):
        with pytest.raises(WSServerHandshakeError) as caught:
            await running.session.ws_connect(f"{running.url}/api/coze/{scope}/ws", headers=person("bob", **ANN))
        assert caught.value.status == 404


async def test_the_shared_socket_checks_every_subscription_and_command(running: Whole) -> None:
    mine = await running.finished_turn(person("ann", **ANN))
    async with running.session.ws_connect(f"{running.url}/api/coze/ws", headers=person("bob", **ANN)) as socket:
        for command in (
            {"type": "subscribe", "topic": f"turns/{mine['turnId']}", "after": "0"},
            {"type": "subscribe", "topic": f"conversations/{mine['conversationId']}"},
            {"type": "subscribe", "topic": "shops/b"},
            {"type": "cancel", "turnId": mine["turnId"]},
            {"type": "chat", **BODY, "conversationId": mine["conversationId"]},
            {"type": "chat", **BODY, "shopId": "b"},
        ):
            await socket.send_str(json.dumps({**command, "requestId": "1"}))
            reply = json.loads(await within(5, socket.receive_str()))
            assert (reply["type"], reply["code"]) == ("problem", "not_found"), command
        await socket.send_str(json.dumps({"type": "chat", **BODY, "userId": "ann", "requestId": "2"}))
        reply = json.loads(await within(5, socket.receive_str()))
        assert (reply["code"], reply["errors"][0]["field"]) == ("invalid_request", "userId")


@pytest.mark.parametrize(
    ("caller", "status"),
    [
        (person("ann", shop="a", scope="shop"), 200),
        (person("ann", shop=["b", "a"], scope="x shop"), 200),
        (person("ann", shop="a"), 404),
        (person("ann", shop="b", scope="shop"), 404),
        (key("key-a"), 200),
        (key("key-all"), 200),
        (key("key-b"), 404),
        (key("wrong"), 401),
    ],
)
async def test_a_shops_notifications_are_for_its_people(running: Whole, caller: dict[str, str], status: int) -> None:
    path = f"{running.url}/api/coze/shops/a/poll?wait=0"
    async with running.session.get(path, headers=caller) as answer:
        assert answer.status == status
    async with running.session.get(path.replace("/a/", "/never-seen/"), headers=caller) as answer:
        assert answer.status in (status, 404)


async def test_another_keys_idempotency_key_finds_nothing_of_mine(running: Whole) -> None:
    headers = {"Idempotency-Key": "k"}
    mine = await running.finished_turn(person("ann", shop="a") | headers)
    theirs = await running.finished_turn(person("bob", shop="a") | headers)
    other_shop = await running.finished_turn(key("key-b") | headers, userId="ann")
    assert len({mine["turnId"], theirs["turnId"], other_shop["turnId"]}) == 3


async def told_apart(gateway: Whole, path: str, turn: str, conversation: str) -> float:
    """The median time of an answer for another person's thing, divided by that for a thing that never existed."""
    bob = person("bob", **ANN)
    taken: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(210):
        for there in random.sample([True, False], 2):
            names = (turn, conversation) if there else (f"turn_{uuid4()}", f"conv_{uuid4()}")
            target = gateway.url + path.format(turn=names[0], conversation=names[1])
            began = time.perf_counter()
            async with gateway.session.get(target, headers=bob) as answer:
                await answer.read()
            taken[there].append(time.perf_counter() - began)
            assert answer.status == 404
    return statistics.median(taken[True][10:]) / statistics.median(taken[False][10:])


@pytest.mark.parametrize(
    "path",
    [
        "/api/coze/turns/{turn}",
        "/api/coze/turns/{turn}/poll?wait=0",
        "/api/coze/turns/{turn}/events",
        "/api/coze/conversations/{conversation}/poll?wait=0",
        "/api/coze/conversations/{conversation}/messages",
    ],
)
@pytest.mark.parametrize("running", [1, 60_000], indirect=True, ids=["ended", "running"])
async def test_timing_does_not_tell_anothers_from_what_never_existed(running: Whole, path: str) -> None:
    async with running.session.post(
        f"{running.url}/api/coze/chat", json=BODY, headers=person("ann", **ANN) | {"Prefer": "wait=1"}
    ) as answer:
        mine = await answer.json()
    ratios = []
    for _ in range(4):  # a machine that is busy otherwise shifts one median now and then, a leak all of them
        ratios.append(await told_apart(running, path, mine["turnId"], mine["conversationId"]))
        if 0.8 < ratios[-1] < 1.25:
            return
    pytest.fail(f"told apart by time: {ratios}")


async def test_an_open_stream_ends_when_its_token_does(running: Whole) -> None:
    mine = await running.finished_turn(person("ann", **ANN))
    scope = f"{running.url}/api/coze/conversations/{mine['conversationId']}"
    short = person("ann", seconds=1.5, **ANN)
    async with (
        asyncio.timeout(8),
        running.session.get(f"{scope}/events", headers=short) as stream,
        running.session.ws_connect(f"{scope}/ws", headers=short) as socket,
        running.session.ws_connect(f"{running.url}/api/coze/ws", headers=short) as shared,
        running.session.get(f"{scope}/poll?wait=20", headers=short) as poll,
    ):
        assert poll.status == 401
        assert (await within(5, stream.text())).rstrip().endswith(": unauthorized")
        for each in (socket, shared):
            await within(5, each.receive())
            assert each.close_code == 1008
    async with running.session.get(f"{scope}/poll?wait=0", headers=short) as answer:
        assert answer.status == 401
    async with running.session.get(f"{scope}/poll?wait=0", headers=person("ann", **ANN)) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("running", [2500], indirect=True)
async def test_who_waits_for_an_answer_waits_no_longer_than_the_token_and_the_turn_goes_on(running: Whole) -> None:
    request: dict[str, Any] = {"json": BODY, "headers": person("ann", seconds=1.5, **ANN) | {"Idempotency-Key": "k"}}
    async with running.session.post(f"{running.url}/api/coze/chat", **request) as answer:
        assert answer.status == 401
        assert (await answer.json())["code"] == "unauthorized"
        assert answer.headers["X-Turn-Id"].startswith("turn_")  # it goes on, and is found with the next token
    assert running.services.ledger.count("turn") == 1
    request["headers"] = person("ann", **ANN) | {"Idempotency-Key": "k"}
    async with running.session.post(f"{running.url}/api/coze/chat", **request) as answer:
        assert (await answer.json())["status"] == "completed"
    request["headers"] = person("ann", **ANN) | {"Prefer": "wait=0"}
    async with running.session.post(f"{running.url}/api/coze/chat", **request) as answer:
        assert answer.status == 202  # the time that was asked for is over, the token's is not


async def test_without_a_user_in_the_body_the_tokens_is_taken(running: Whole) -> None:
    async with running.session.post(
        f"{running.url}/api/coze/chat/stream", json=BODY, headers=person("ann", **ANN)
    ) as answer:
        events = await events_of(answer)
    assert events[-1]["event"] == "completed"
    assert running.services.ledger.count("turn") == 0
    async with running.session.post(f"{running.url}/api/coze/chat", json=BODY, headers=key("key-a")) as answer:
        assert answer.status == 422
        assert (await answer.json())["errors"][0]["field"] == "userId"
