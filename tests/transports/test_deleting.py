"""Deleting a conversation: what runs ends, who listens goes, and nothing is left of it."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest

from gateway.log.journal import JournalError
from tests.processes import GatewayProcess, hatched
from tests.transports.conftest import Serve, Served, serving
from tests.transports.readers import sse_events
from tests.waiting import until

SECRET = "zebra-umbrella"
"""A word that is in no file unless somebody's message is."""

QUICK = f"/fault echo rate:0 -- {SECRET} answer"
SLOW = f"/fault plain pieces:400 rate:20 -- {SECRET} question"


async def delete(served: Served, conversation: str, **headers: str) -> tuple[int, Any]:
    url = f"{served.url}/api/coze/conversations/{conversation}"
    async with served.session.delete(url, headers=headers) as response:
        return response.status, await response.json(content_type=None) if response.status != 204 else None


async def finished(served: Served, message: str = QUICK, **fields: Any) -> tuple[str, str]:
    """A conversation with one whole turn, and that turn."""
    last = (await served.ask(message, **fields))[-1]
    assert last["event"] == "completed"
    return last["conversationId"], last["turnId"]


async def test_what_was_deleted_is_found_by_nothing(served: Served) -> None:
    conversation, turn = await finished(served)
    assert await delete(served, conversation) == (204, None)
    for path in (f"conversations/{conversation}/messages", f"turns/{turn}", f"turns/{turn}/events"):
        assert (await served.get(f"/api/coze/{path}"))[0] == 404, path
    for way in ("events", "poll"):
        assert (await served.get(f"/api/coze/conversations/{conversation}/{way}?after=0"))[0] == 404
    body = {"userId": "u", "botId": "b", "message": "more", "conversationId": conversation}
    assert (await served.post("/api/coze/chat", body))[0] == 404
    status, problem = await delete(served, conversation)
    assert (status, problem["code"]) == (404, "not_found")


async def test_deleting_an_unknown_conversation_is_404(served: Served) -> None:
    assert (await delete(served, "conv_00000000-0000-4000-8000-000000000000"))[0] == 404
    assert (await delete(served, "nonsense"))[0] == 404


async def test_another_conversation_of_the_same_user_stays(served: Served) -> None:
    kept, kept_turn = await finished(served)
    gone, _ = await finished(served)
    assert (await delete(served, gone))[0] == 204
    assert (await served.state(kept_turn))["status"] == "completed"
    _, _, page = await served.get(f"/api/coze/conversations/{kept}/messages")
    assert len(page["messages"]) == 2
    events = await served.ask(QUICK, conversationId=kept)
    assert events[-1]["event"] == "completed"


async def test_a_running_and_a_waiting_turn_are_cancelled_first_and_their_listeners_hear_it(served: Served) -> None:
    async with served.stream(SLOW) as (response, running):
        conversation = response.headers["X-Conversation-Id"]
        await anext(running)
        async with served.stream(SLOW, conversationId=conversation, onBusy="queue") as (_, waiting):
            assert (await anext(waiting))["code"] == "queued"
            assert (await delete(served, conversation))[0] == 204
            ends = [[event async for event in events][-1]["event"] for events in (running, waiting)]
            assert ends == ["cancelled", "cancelled"]
    assert (await served.get(f"/api/coze/turns/{response.headers['X-Turn-Id']}"))[0] == 404


async def test_coze_is_told_of_the_turn_that_was_cancelled(served: Served) -> None:
    async with served.stream(SLOW) as (response, events):
        async for event in events:
            if event["event"] == "message":
                break
        await delete(served, response.headers["X-Conversation-Id"])
    await served.balanced()
    _, _, text = await _metrics(served)
    assert 'gateway_upstream_requests_total{operation="cancel",outcome="ok"} 1.0' in text


async def _metrics(served: Served) -> tuple[int, Any, str]:
    async with served.session.get(f"{served.url}/metrics") as response:
        return response.status, response.headers, await response.text()


async def test_listeners_of_the_conversation_are_sent_away_on_every_transport(served: Served) -> None:
    conversation, _ = await finished(served)
    url = f"{served.url}/api/coze/conversations/{conversation}"
    async with (
        served.session.get(f"{url}/events") as sse,
        served.session.ws_connect(f"{url}/ws") as socket,
        served.session.ws_connect(f"{served.url}/api/coze/ws") as shared,
        asyncio.timeout(10),
    ):
        topic = f"conversations/{conversation}"
        await shared.send_json({"type": "subscribe", "topic": topic})
        assert (await shared.receive_json())["type"] == "ack"
        poll = asyncio.ensure_future(served.get(f"/api/coze/conversations/{conversation}/poll?wait=60"))
        while served.services.ledger.count("subscription") < 4:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert (await delete(served, conversation))[0] == 204
        assert (await sse.read()).endswith(b": not_found\n\n")
        assert (await socket.receive()).data == 1008
        problem = await shared.receive_json()
        assert (problem["type"], problem["topic"], problem["code"]) == ("problem", topic, "not_found")
        await shared.send_json({"type": "ping"})  # the socket itself goes on
        assert (await shared.receive_json())["type"] == "pong"
        status, _, answer = await poll
        assert (status, answer["events"], answer["ended"]) == (200, [], True)


async def test_listeners_who_come_while_it_is_being_deleted_find_nothing_on_every_transport(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation, _ = await finished(served)
    journal: Any = served.services.log._journal
    erase, erasing, go_on = journal.erase, asyncio.Event(), asyncio.Event()

    async def slowly(*arguments: Any) -> None:
        erasing.set()
        await go_on.wait()
        await erase(*arguments)

    monkeypatch.setattr(journal, "erase", slowly)
    deleting = asyncio.create_task(delete(served, conversation))
    await erasing.wait()
    path = f"/api/coze/conversations/{conversation}"
    async with asyncio.timeout(10), served.session.ws_connect(f"{served.url}/api/coze/ws") as shared:
        for way in ("events", "poll?wait=60", "ws"):
            assert (await served.get(f"{path}/{way}"))[0] == 404, way
        await shared.send_json({"type": "subscribe", "topic": f"conversations/{conversation}"})
        assert (await shared.receive_json())["code"] == "not_found"
        go_on.set()
        assert await deleting == (204, None)


async def test_it_can_be_read_again_if_it_could_not_be_deleted(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation, turn = await finished(served)
    journal: Any = served.services.log._journal

    async def fails(*_: Any) -> None:
        raise JournalError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(journal, "erase", fails)
        status, problem = await delete(served, conversation)
        assert (status, problem["code"]) == (503, "storage_unavailable")
    assert (await served.get(f"/api/coze/turns/{turn}/poll?after=0&wait=0"))[2]["events"][-1]["event"] == "completed"
    assert await delete(served, conversation) == (204, None)


async def test_the_key_of_a_deleted_turn_begins_a_new_one(served: Served) -> None:
    first = await served.start(QUICK, key="the-key")
    state = await served.ended(first.topic.removeprefix("turns/"))
    assert (await delete(served, state["conversationId"]))[0] == 204
    second = await served.start(QUICK, key="the-key")
    assert second.topic != first.topic


async def test_no_turn_begins_while_it_is_being_deleted(served: Served) -> None:
    conversation, _ = await finished(served)
    body = {"userId": "u", "botId": "b", "message": QUICK, "conversationId": conversation}
    deleting = asyncio.ensure_future(delete(served, conversation))
    asked = [asyncio.ensure_future(served.post("/api/coze/chat", body)) for _ in range(10)]
    assert (await deleting)[0] == 204
    for status, _, answer in await asyncio.gather(*asked):
        assert status in (404, 409) or answer["status"] in ("completed", "cancelled"), answer
    assert (await served.get(f"/api/coze/conversations/{conversation}/messages"))[0] == 404


async def test_somebody_elses_is_not_there(serve: Serve, tmp_path: Path) -> None:
    secret = "a-secret-of-thirty-two-characters!"
    (tmp_path / "secret").write_text(secret)
    served = await serve(auth="jwt", jwt_secret_file=tmp_path / "secret")

    def bearer(user: str) -> str:
        return f"Bearer {jwt.encode({'sub': user, 'exp': 4_000_000_000}, secret)}"

    async with served.stream(QUICK, {"Authorization": bearer("ann")}, userId="ann") as (response, events):
        assert [event async for event in events][-1]["event"] == "completed"
    conversation = response.headers["X-Conversation-Id"]
    assert (await delete(served, conversation))[0] == 401
    assert (await delete(served, conversation, Authorization=bearer("bob")))[0] == 404
    assert (await delete(served, conversation, Authorization=bearer("ann")))[0] == 204


async def test_a_foreign_page_cannot_delete_and_a_listed_one_may_ask(serve: Serve) -> None:
    served = await serve(allowed_origins=("https://shop.example",))
    conversation, _ = await finished(served)
    assert (await delete(served, conversation, Origin="https://evil.example"))[0] == 403
    headers = {"Origin": "https://shop.example", "Access-Control-Request-Method": "DELETE"}
    async with served.session.options(
        f"{served.url}/api/coze/conversations/{conversation}", headers=headers
    ) as response:
        assert "DELETE" in response.headers["Access-Control-Allow-Methods"]
    assert (await delete(served, conversation, Origin="https://shop.example"))[0] == 204


def traces(folder: Path, word: str) -> list[str]:
    """The files that hold a word, but for what the simulated Coze keeps for itself."""
    return [
        file.name for file in folder.iterdir() if file.name != "simulator.jsonl" and word.encode() in file.read_bytes()
    ]


@pytest.mark.parametrize("with_a_neighbour", [False, True])
async def test_no_file_holds_a_word_of_it_and_a_restart_brings_nothing_back(
    start_gateway: Any, tmp_path: Path, with_a_neighbour: bool
) -> None:
    gateway: GatewayProcess = await start_gateway()
    folder = tmp_path / "data"
    async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:

        async def ask(message: str, **fields: Any) -> aiohttp.ClientResponse:
            body = {"userId": "u", "botId": "b", "message": message, **fields}
            return await stack.enter_async_context(session.post(f"{gateway.url}/api/coze/chat/stream", json=body))

        if with_a_neighbour:  # whose events lie in the same batches, and which goes on
            await ask("/fault plain pieces:2000 rate:20 -- a long one")
        first = await ask(SLOW)
        conversation = first.headers["X-Conversation-Id"]
        events = sse_events(first)
        while (await anext(events))["event"] != "message":
            pass
        assert traces(folder, SECRET)
        async with session.delete(f"{gateway.url}/api/coze/conversations/{conversation}") as response:
            assert response.status == 204
        assert not traces(folder, SECRET)
    await gateway.kill()
    again: GatewayProcess = await start_gateway()
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{again.url}/api/coze/conversations/{conversation}/messages") as response,
    ):
        assert response.status == 404
    assert not traces(folder, SECRET)


async def test_killed_right_after_the_answer_nothing_comes_back(start_gateway: Any, tmp_path: Path) -> None:
    gateway: GatewayProcess = await start_gateway()
    async with aiohttp.ClientSession() as session:
        body = {"userId": "u", "botId": "b", "message": SLOW}
        async with session.post(f"{gateway.url}/api/coze/chat/stream", json=body) as first:
            conversation = first.headers["X-Conversation-Id"]
            await first.content.readline()
            async with session.delete(f"{gateway.url}/api/coze/conversations/{conversation}") as response:
                assert response.status == 204
            await gateway.kill()
    again: GatewayProcess = await start_gateway()
    async with aiohttp.ClientSession() as session:
        for path in (f"conversations/{conversation}/messages", f"turns/{first.headers['X-Turn-Id']}"):
            async with session.get(f"{again.url}/api/coze/{path}") as response:
                assert response.status == 404


# -- by the operator ----------------------------------------------------------------------------------------------


async def test_the_operator_deletes_what_a_user_wrote_while_the_gateway_is_stopped(
    start_gateway: Any, tmp_path: Path
) -> None:
    gateway: GatewayProcess = await start_gateway()
    folder = tmp_path / "data"
    turns: dict[str, str] = {}
    echo = f"/fault echo rate:0 -- {'.' * 80} "  # a shop's notifications keep the first 80 characters for a while
    async with aiohttp.ClientSession() as session:
        for user, shop, word in (("ann", "a", "first"), ("ann", "b", "second"), ("bob", "a", "third")):
            body = {"userId": user, "shopId": shop, "botId": "b", "message": f"{echo}{SECRET}-{word}"}
            async with session.post(f"{gateway.url}/api/coze/chat", json=body) as response:
                turns[word] = (await response.json())["turnId"]
        body = {"userId": "ann", "shopId": "b", "botId": "b", "message": SLOW.replace("--", f"-- {'.' * 80}")}
        async with session.post(f"{gateway.url}/api/coze/chat/stream", json=body) as response:
            turns["running"] = response.headers["X-Turn-Id"]
            await response.content.readline()
            refused = await asyncio.to_thread(hatched, "delete", "--user", "ann", folder=tmp_path)
            assert refused.returncode == 1
            assert "another gateway is using the data folder" in refused.stderr
            await gateway.kill()
    done = await asyncio.to_thread(hatched, "delete", "--user", "ann", "--shop", "b", folder=tmp_path)
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, 2, "")
    assert traces(folder, f"{SECRET}-first")
    assert not traces(folder, f"{SECRET}-second")
    assert not traces(folder, f"{SECRET} question")
    done = await asyncio.to_thread(hatched, "delete", "--user", "ann", "--shop", "b", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    again: GatewayProcess = await start_gateway()
    async with aiohttp.ClientSession() as session:
        for word, status in (("first", 200), ("second", 404), ("third", 200), ("running", 404)):
            async with session.get(f"{again.url}/api/coze/turns/{turns[word]}") as response:
                assert response.status == status, word


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--conversation", "conv_1"], "there is no "),
        (["--conversation", "conv_1", "--shop", "a"], "--shop can only be used with --user"),
        ([], "one of the arguments"),
    ],
)
def test_a_mistaken_delete_says_what_is_wrong_and_makes_no_folder(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = hatched("delete", *arguments, folder=tmp_path)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert not (tmp_path / "data").exists()


async def test_the_operator_deletes_although_the_note_of_a_turn_is_damaged(tmp_path: Path) -> None:
    async with serving(tmp_path, drain_seconds=0) as served:
        sound, _ = await finished(served)
        damaged = await served.start(SLOW)
        runner = served.services.turns._runner
        await until(lambda: runner.turns[damaged.topic[6:]].pen.writer is not None)
        writer = runner.turns[damaged.topic[6:]].pen.writer
        assert writer is not None
        writer.note(b"\xc1 is no note")
    done = await asyncio.to_thread(hatched, "delete", "--conversation", sound, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"deleted {sound}\n")
