"""What is refused has started nothing: everything that can refuse is asked first, on every way to start a turn."""

import asyncio
import contextlib
import gc
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from adapters.edge.limits import TurnRate
from gateway.log.journal import JournalError
from gateway.turns.orders import Order
from tests.transports.conftest import Serve, Served
from tests.transports.readers import everything, sse
from tests.transports.test_starting import SLOW, asked_for

QUICK = "/fault plain pieces:3 rate:0 -- quick"


async def by_stream(served: Served, key: str, body: dict[str, Any]) -> str:
    headers = {"Idempotency-Key": key}
    async with served.session.post(f"{served.url}/api/coze/chat/stream", json=body, headers=headers) as response:
        return "" if response.status == 200 else str((await response.json(content_type=None))["code"])


async def by_chat(served: Served, key: str, body: dict[str, Any]) -> str:
    _, _, answer = await served.post("/api/coze/chat", body, **{"Idempotency-Key": key})
    return str(answer.get("code", ""))


async def by_prefer(served: Served, key: str, body: dict[str, Any]) -> str:
    _, _, answer = await served.post("/api/coze/chat", body, **{"Idempotency-Key": key, "Prefer": "wait=0"})
    return str(answer.get("code", ""))


async def by_socket(served: Served, key: str, body: dict[str, Any]) -> str:
    async with served.session.ws_connect(f"{served.url}/api/coze/ws") as socket:
        await socket.send_json({"type": "chat", "idempotencyKey": key, **body})
        answer = await socket.receive_json()
        return str(answer.get("code", ""))


Ask = Callable[[Served, str, dict[str, Any]], Awaitable[str]]
WAYS: dict[str, Ask] = {"stream": by_stream, "chat": by_chat, "prefer": by_prefer, "socket": by_socket}
every_way = pytest.mark.parametrize("way", WAYS)


def body(message: str = QUICK, **fields: Any) -> dict[str, Any]:
    return {"userId": "u", "botId": "b", "message": message, **fields}


@every_way
async def test_a_turn_over_the_rate_is_not_started_and_binds_no_key(serve: Serve, way: str) -> None:
    served = await serve(turns_per_minute=1)
    await served.ask(QUICK)
    key = uuid.uuid4().hex
    assert await WAYS[way](served, key, body()) == "rate_limited"
    assert await asked_for(served) == 1
    rate = served.services.turn_rate
    assert isinstance(rate, TurnRate)
    rate._started.clear()
    assert await WAYS[way](served, key, body()) == ""
    await served.quiet()
    assert await asked_for(served) == 2


@pytest.mark.parametrize("way", [way for way in WAYS if way != "socket"])
async def test_a_connection_over_the_limit_starts_nothing(serve: Serve, way: str) -> None:
    served = await serve(max_connections_per_user=1)
    async with served.stream(SLOW) as (response, _):
        assert await WAYS[way](served, "k", body()) == "too_many_connections"
    await served.post(f"/api/coze/turns/{response.headers['X-Turn-Id']}/cancel")
    await served.balanced()
    assert await asked_for(served) == 1
    assert await WAYS[way](served, "k", body()) == ""


@every_way
async def test_a_drain_that_begins_while_a_message_is_looked_at_lets_it_start_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    conversation = (await served.ask(QUICK))[0]["conversationId"]
    real = served.services.store.conversation

    async def slow(conversation_id: Any) -> Any:
        served.services.turns._runner.draining = True
        return await real(conversation_id)

    monkeypatch.setattr(served.services.store, "conversation", slow)
    assert await WAYS[way](served, "k", body(conversationId=conversation)) == "draining"
    served.services.turns._runner.draining = False
    monkeypatch.undo()
    assert await asked_for(served) == 1
    assert await WAYS[way](served, "k", body(conversationId=conversation)) == ""


async def test_a_socket_with_all_its_topics_starts_nothing_and_finds_what_it_has(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.native.shared.MOST_TOPICS", 3)
    async with served.session.ws_connect(f"{served.url}/api/coze/ws") as socket:

        async def chat(key: str) -> Any:
            await socket.send_json({"type": "chat", "requestId": 1, "idempotencyKey": key, **body(f"{SLOW} {key}")})
            while True:
                said = await socket.receive_json()
                if said.get("requestId") == 1:
                    return said

        turns = [(await chat(key))["turnId"] for key in ("a", "b", "c")]
        refused = await chat("d")
        assert (refused["type"], refused["code"]) == ("problem", "too_many_connections")
        assert len(served.services.turns._runner.turns) == 3
        assert (await chat("b"))["turnId"] == turns[1]  # starts nothing, and has a topic
        await served.post(f"/api/coze/turns/{turns[0]}/cancel")
        while (said := await socket.receive_json()).get("topic") != f"turns/{turns[0]}" or (
            said["events"][-1]["event"] != "cancelled"
        ):
            pass
        assert (await chat("d"))["type"] == "ack"
    assert await asked_for(served) <= 4


async def test_refused_messages_leave_no_log_in_memory(serve: Serve) -> None:
    served = await serve(turns_per_minute=1)
    conversation = (await served.ask(QUICK))[0]["conversationId"]
    await served.services.log.keeper.fold()
    for fields in [{}, {"conversationId": conversation}] * 20:
        assert await by_chat(served, uuid.uuid4().hex, body(**fields)) == "rate_limited"
    assert len(served.services.log.shelf.tails()) <= 1


async def test_a_client_that_leaves_while_it_is_refused_leaves_no_trace(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await served.start(SLOW)
    conversation = (await served.state(running.topic[6:]))["conversationId"]
    broken: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: broken.append(context))
    real = served.services.store.conversation
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(conversation_id: Any) -> Any:
        asked.set()
        await go_on.wait()
        return await real(conversation_id)

    monkeypatch.setattr(served.services.store, "conversation", slow)
    for key in ("", "with a key"):
        asked.clear()
        go_on.clear()
        order = Order(user_id="u", bot_id="b", message="m", conversation_id=conversation, idempotency_key=key)
        leaving = asyncio.create_task(served.services.turns.start(order, owns=lambda *_: True))
        await asked.wait()
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving
        go_on.set()
        while len(served.services.turns._runner._tasks) > 1:  # noqa: ASYNC110 (the running turn's is the other one)
            await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert not broken


# -- an empty conversationId -------------------------------------------------------------------------------------


@every_way
async def test_an_empty_conversation_id_begins_a_conversation(served: Served, way: str) -> None:
    assert await WAYS[way](served, "k", body(conversationId="")) == ""
    assert await WAYS[way](served, "k", body()) == ""  # the same body, so the same turn
    await served.quiet()
    assert await asked_for(served) == 1


# -- shops -------------------------------------------------------------------------------------------------------


@every_way
async def test_a_message_without_a_shop_is_of_its_conversations_shop(served: Served, way: str) -> None:
    first = (await served.ask(QUICK, shopId="shop-1"))[0]
    conversation = first["conversationId"]
    assert await WAYS[way](served, "k", body(conversationId=conversation)) == ""
    assert await WAYS[way](served, "k", body(conversationId=conversation, shopId="shop-1")) == ""  # found by its key
    _, _, page = await served.get(f"/api/coze/conversations/{conversation}/messages")
    (turn,) = {message["turnId"] for message in page["messages"]} - {first["turnId"]}
    await served.ended(turn)
    await served.balanced()
    _, _, told = await served.get("/api/coze/shops/shop-1/poll?after=0&wait=0")
    assert [(event["type"], event["turnId"]) for event in told["events"]] == [
        (kind, each) for each in (first["turnId"], turn) for kind in ("turn.started", "turn.completed")
    ]
    row = await served.services.store.turn(turn)
    assert row is not None
    assert row.shop_id == "shop-1"
    assert await asked_for(served) == 2


async def test_a_queued_message_without_a_shop_is_found_by_its_key_before_and_after_it_starts(served: Served) -> None:
    running = await served.start(SLOW, shopId="shop-1")
    conversation = (await served.state(running.topic[6:]))["conversationId"]
    fields = {"conversationId": conversation, "onBusy": "queue"}
    queued = await served.start(QUICK, key="k", **fields)
    assert (await served.start(QUICK, key="k", **fields)).topic == queued.topic
    await served.post(f"/api/coze/{running.topic}/cancel")
    assert (await everything(sse, queued))[-1]["event"] == "completed"
    _, _, answer = await served.post("/api/coze/chat", body(QUICK, **fields), **{"Idempotency-Key": "k"})
    assert answer["turnId"] == queued.topic[6:]
    assert await asked_for(served) == 2


@pytest.mark.parametrize("path", ["/api/coze/chat/stream", "/api/coze/chat"])
async def test_a_problem_after_the_start_names_the_turn_which_goes_on(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    served = await serve()
    fired: list[Any] = []

    async def away(*asked: Any, **more: Any) -> Any:
        fired.append(asked)
        raise JournalError("the database went away")

    with monkeypatch.context() as patched:
        patched.setattr(served.services.hub, "subscribe", away)
        status, headers, problem = await served.post(path, body())
    assert len(fired) == 1
    assert (status, problem["code"]) == (503, "storage_unavailable")
    await served.balanced()
    _, _, state = await served.get(f"/api/coze/turns/{headers['X-Turn-Id']}")
    assert (state["status"], state["conversationId"]) == ("completed", headers["X-Conversation-Id"])
    assert await asked_for(served) == 1
