"""SIGTERM: nothing new begins, what runs may end, who only waits is told to come back, and nothing is lost."""

import asyncio
import contextlib
import json
import signal
import time
from pathlib import Path
from typing import Any

import aiohttp

from gateway.simulator import whole_text
from tests.faults.coze import gateway, patience, simulated
from tests.faults.mortal import mortal
from tests.faults.reading import GONE, TRANSPORTS, Reader, client, topic
from tests.waiting import until

LONG = "/fault plain pieces:400 rate:20 -- a long one"
SHORT = "/fault plain pieces:30 rate:20 -- a short one"


async def _ready(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with session.get(f"{url}/readyz") as response:
        return response.status, await response.text()


async def test_a_stop_refuses_new_turns_at_once_and_lets_running_ones_end(tmp_path: Path) -> None:
    async with (
        simulated() as coze,
        gateway(tmp_path, coze.url, GATEWAY_DRAIN_SECONDS="10") as process,
        client() as session,
    ):
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, process.url, SHORT))
        await reader.until(lambda r: r.text)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        status, why = await _ready(session, process.url)
        while status == 200 and time.monotonic() - began < patience(0.2):
            status, why = await _ready(session, process.url)
        assert status == 503
        assert "draining" in why
        for path in ("chat/stream", "chat"):
            body = {"userId": "u1", "botId": "b1", "message": "too late"}
            async with session.post(f"{process.url}/api/coze/{path}", json=body) as response:
                assert response.status == 503
                assert (await response.json())["code"] == "draining"
                assert int(response.headers["Retry-After"]) >= 1
        assert coze.requests["chat"] == 1
        await asking
        assert reader.last["event"] == "completed"
        assert reader.text == whole_text(SHORT)
        assert await process.ended(within=patience(4)) == 0
        assert "Traceback" not in "\n".join(process.text)


async def test_idle_listeners_are_told_to_come_back_on_every_transport(tmp_path: Path) -> None:
    async with (
        simulated(first_ms=0, rate=0) as coze,
        gateway(tmp_path, coze.url, GATEWAY_DRAIN_SECONDS="2") as process,
        client() as session,
    ):
        asked, running = Reader(), Reader()
        await asked.ask(session, process.url, "hello")
        holding = asyncio.create_task(running.ask(session, process.url, LONG))
        await running.until(lambda r: r.text)
        base = f"{process.url}/api/coze/conversations/{asked.conversation_id}"
        async with session.get(f"{base}/events") as events, session.ws_connect(f"{base}/ws") as socket:
            shared = await session.ws_connect(f"{process.url}/api/coze/ws")
            await shared.send_json({"type": "subscribe", "topic": f"conversations/{asked.conversation_id}"})
            assert (await shared.receive_json(timeout=patience(5)))["type"] == "ack"
            polling = asyncio.create_task(_poll(session, f"{base}/poll?wait=60"))
            await asyncio.sleep(0.3)  # it may not answer meanwhile
            assert not polling.done()
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            body = (await events.content.read()).decode()
            assert (await socket.receive(timeout=patience(5))).data == socket.close_code == 1012
            assert (await shared.receive(timeout=patience(5))).data == shared.close_code == 1012
            status, answer = await polling
            assert time.monotonic() - began < patience(1.0)
        advised = [line for line in body.splitlines() if line.startswith("retry: ")]
        assert len(advised) == 2
        assert 1000 <= int(advised[-1].removeprefix("retry: ")) <= 3000
        assert (status, answer["events"], answer["ended"]) == (200, [], False)
        assert not holding.done()  # who hears a running turn is not sent away
        for transport in TRANSPORTS:
            late = [event async for event in _late(session, process.url, asked.conversation_id, transport)]
            assert late == []
        assert await process.ended(within=10) == 0
        await asyncio.gather(holding, return_exceptions=True)
        assert not running.over


async def _poll(session: aiohttp.ClientSession, url: str) -> tuple[int, dict[str, Any]]:
    async with session.get(url) as response:
        return response.status, json.loads(await response.read())


async def _late(session: aiohttp.ClientSession, url: str, conversation: str, transport: str) -> Any:
    async for event in topic(session, url, f"conversations/{conversation}", transport, after=None):
        yield event


async def test_a_turn_longer_than_the_stop_is_finished_by_the_next_start(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        for transport in TRANSPORTS:
            group.create_task(_outlive_a_stop(tmp_path / transport, transport))


async def _outlive_a_stop(tmp_path: Path, transport: str) -> None:
    message = f"/fault plain pieces:60 rate:20 -- three seconds over {transport}"
    async with simulated() as coze, mortal(tmp_path, coze.url, GATEWAY_DRAIN_SECONDS="0.5") as process:
        async with client() as session:
            reader = Reader()
            asking = asyncio.create_task(reader.ask(session, process.url, message))
            await reader.until(lambda r: r.text)
            listener = Reader(reader.book)
            listener.turn_id = reader.turn_id
            listening = asyncio.create_task(listener.listen(session, process.url, transport))
            await listener.until(lambda r: r.text)
            began = time.monotonic()
            assert await process.process.terminate(within=patience(5)) == 0
            assert time.monotonic() - began < 0.5 + patience(2)
            with contextlib.suppress(*GONE):
                await asyncio.gather(asking, listening)
            assert not reader.over
            await process.start()
            async with asyncio.timeout(patience(8)):
                for one in (reader, listener):
                    await one.finish(session, lambda: process.url, transports=(transport,))
        for one in (reader, listener):
            assert one.resets == 0
            assert one.text == whole_text(message)
            assert one.last["recovered"] is True
        assert coze.posts_of(message) == 1


async def test_whoever_waits_for_a_whole_answer_is_told_when_the_stop_is_faster(tmp_path: Path) -> None:
    async with simulated() as coze, gateway(tmp_path, coze.url, GATEWAY_DRAIN_SECONDS="1.5") as process:
        async with client() as session:

            async def ask(message: str, **headers: str) -> tuple[int, str, dict[str, Any]]:
                body = {"userId": "u1", "botId": "b1", "message": message}
                async with session.post(f"{process.url}/api/coze/chat", json=body, headers=headers) as response:
                    answer = await response.json(content_type=None)
                    if "turnId" in answer:
                        assert response.headers["Location"] == f"/api/coze/turns/{answer['turnId']}"
                    return response.status, response.headers["X-Turn-Id"], answer

            messages = [f"{LONG} {number}" for number in range(3)]
            preferring = [
                asyncio.create_task(ask(m, Prefer=w)) for m, w in zip(messages, ("wait=60", "wait=1"), strict=False)
            ]
            asking = [asyncio.create_task(ask(messages[2])), *preferring]
            await until(lambda: all(coze.posts_of(message) for message in messages), within=patience(5))
            assert await process.terminate(within=patience(5)) == 0
            (status, _, problem), *preferred = await asyncio.gather(*asking)
        assert (status, problem["code"]) == (503, "draining")
        for status, turn, answer in preferred:
            assert (status, answer["turnId"], answer["status"]) == (202, turn, "running")


async def test_a_second_signal_ends_at_once_and_loses_nothing(tmp_path: Path) -> None:
    message = "/fault plain pieces:30 rate:20 -- twice"
    async with simulated() as coze, mortal(tmp_path, coze.url, GATEWAY_DRAIN_SECONDS="30") as process:
        async with client() as session:
            reader = Reader()
            asking = asyncio.create_task(reader.ask(session, process.url, message))
            await reader.until(lambda r: r.text)
            process.process.send_signal(signal.SIGTERM)
            await process.process.logged("gateway.draining")
            began = time.monotonic()
            assert await process.process.terminate(within=patience(5)) == 0
            assert time.monotonic() - began < patience(2.0)
            await asyncio.gather(asking, return_exceptions=True)
            await process.start()
            async with asyncio.timeout(patience(8)):
                await reader.finish(session, lambda: process.url)
        assert reader.resets == 0
        assert reader.text == whole_text(message)
        assert coze.posts_of(message) == 1
