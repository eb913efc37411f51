"""kill -9 at any moment: listeners go on where they were, every answer arrives whole, and Coze was asked once."""

import asyncio
import functools
import os
import random
from pathlib import Path
from typing import Any

import aiohttp

from gateway.simulator import whole_text
from tests.faults.coze import patience, simulated
from tests.faults.mortal import Mortal, ask_until_heard, mortal
from tests.faults.proxy import proxied
from tests.faults.reading import GONE, TRANSPORTS, Reader, client
from tests.waiting import until

KILLS = int(os.environ.get("KILLS", "6"))  # `make chaos` kills 50 times
READY_WITHIN = 3.0


async def _turn(session: aiohttp.ClientSession, url: str, turn_id: str) -> dict[str, Any]:
    async with session.get(f"{url}/api/coze/turns/{turn_id}") as response:
        assert response.status == 200, await response.text()
        found: dict[str, Any] = await response.json()
        return found


async def _ask_until(reader: Reader, session: aiohttp.ClientSession, url: str, message: str, events: int) -> None:
    """Asks, and hangs up after so many events."""
    asking = asyncio.create_task(reader.ask(session, url, message))
    await reader.until(lambda r: len(r.events) >= events)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_killed_at_random_moments_no_answer_is_lost_doubled_or_asked_for_again(tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("SEED", "5")))
    over = asyncio.Event()
    taken = whole = uncertain = 0

    async with (
        simulated(first_ms=100, rate=60) as coze,
        mortal(tmp_path, coze.url, cold=True) as gateway,
        client() as session,
    ):

        async def user(name: str, own: random.Random) -> None:
            nonlocal taken, whole, uncertain
            number = 0
            while not over.is_set():
                number += 1
                message = f"/fault plain pieces:{own.randrange(1, 90)} -- {name} asks {number}"
                reader = Reader()
                await ask_until_heard(reader, session, gateway, message, key=f"{name}-{number}".replace(" ", "-"))
                assert reader.resets == 0
                posts = coze.posts_of(message)
                taken += posts
                if reader.last["event"] == "completed":
                    whole += 1
                    assert reader.text == whole_text(message)
                    assert posts == 1, reader.last
                else:
                    uncertain += 1
                    assert reader.last["code"] == "upstream_uncertain", reader.last
                    assert posts <= 1, reader.last  # none, where the kill came between the note and the request
                stands = await _patiently(session, gateway, reader.turn_id)
                assert stands["content"] == reader.text
                assert stands["status"] == ("completed" if reader.last["event"] == "completed" else "failed")

        users = [asyncio.create_task(user(f"user {n}", random.Random(chance.random()))) for n in range(6)]
        for _ in range(KILLS):
            await asyncio.sleep(chance.uniform(0.02, 1.2))  # any moment
            await gateway.again()
            assert not any(task.done() for task in users), [task for task in users if task.done()]
        over.set()
        async with asyncio.timeout(patience(20)):
            await asyncio.gather(*users)
        assert coze.requests["chat"] == coze.chats_started == taken
        assert whole > uncertain
        assert max(gateway.births) < patience(READY_WITHIN)
        assert "Traceback" not in gateway.logged()


async def _patiently(session: aiohttp.ClientSession, gateway: Mortal, turn_id: str) -> dict[str, Any]:
    while True:
        try:
            return await _turn(session, gateway.url, turn_id)
        except GONE:
            await asyncio.sleep(0.05)  # a new process tells a client nothing: it asks again


async def test_killed_while_coze_refuses_the_message_is_sent_by_the_next_start(tmp_path: Path) -> None:
    async with (
        simulated(rate=200) as coze,
        proxied(coze.url) as proxy,
        mortal(tmp_path, proxy.url) as gateway,
        client() as session,
    ):
        proxy.refuse()
        reader = Reader()
        message = "/fault plain pieces:20 -- anybody there?"
        await _ask_until(reader, session, gateway.url, message, events=2)
        assert [event["event"] for event in reader.events] == ["started", "notice"]
        await asyncio.sleep(0.05)  # the message was refused: it may be tried again any moment
        await gateway.kill()
        assert coze.posts_of(message) == 0
        await proxy.listen()
        await gateway.start()
        async with asyncio.timeout(patience(10)):
            await reader.finish(session, lambda: gateway.url)
        assert reader.resets == 0
        assert reader.last["event"] == "completed"
        assert reader.text == whole_text(message)
        assert coze.posts_of(message) == 1


async def test_killed_between_the_request_and_created_nobody_knows(tmp_path: Path) -> None:
    async with simulated() as coze, mortal(tmp_path, coze.url) as gateway, client() as session:
        messages = [f"/fault {fault} -- taken?" for fault in ("silent", "no-head", "slow-first:60000")]
        readers = [Reader() for _ in messages]
        for reader, message in zip(readers, messages, strict=True):
            await _ask_until(reader, session, gateway.url, message, events=1)
            await until(functools.partial(coze.posts_of, message))
        await gateway.again()
        for reader, message in zip(readers, messages, strict=True):
            async with asyncio.timeout(patience(5)):
                await reader.finish(session, lambda: gateway.url)
            assert reader.resets == 0
            assert reader.last["code"] == "upstream_uncertain"
            assert coze.posts_of(message) == 1


async def test_killed_right_after_the_last_piece_the_answer_is_finished_from_the_record(tmp_path: Path) -> None:
    async with simulated() as coze, mortal(tmp_path, coze.url) as gateway, client() as session:
        message = "/fault plain rate:500 pieces:20 stall-after:19 -- the last one"
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, gateway.url, message))
        whole = whole_text(message)
        await reader.until(lambda r: len(r.text) >= len(whole) - 8)
        await gateway.kill()
        await asyncio.gather(asking, return_exceptions=True)
        await gateway.start()
        async with asyncio.timeout(patience(5)):
            await reader.finish(session, lambda: gateway.url)
        assert reader.resets == 0
        assert reader.last["recovered"] is True
        assert reader.text == whole
        assert coze.posts_of(message) == 1


async def test_killed_right_after_the_last_event_the_turn_is_known_and_whole(tmp_path: Path) -> None:
    async with simulated(first_ms=0, rate=0) as coze, mortal(tmp_path, coze.url) as gateway, client() as session:
        message = "/fault plain pieces:5 -- quick"
        for life in range(3):
            reader = Reader()
            await reader.ask(session, gateway.url, f"{message} {life}")
            await gateway.kill()
            assert reader.last["event"] == "completed"
            await gateway.start()
            stands = await _turn(session, gateway.url, reader.turn_id)
            assert (stands["status"], stands["content"]) == ("completed", reader.text)
            assert stands["position"] == reader.position
            for transport in TRANSPORTS:
                again = Reader(reader.book)
                again.turn_id = reader.turn_id
                await again.listen(session, gateway.url, transport)
                assert again.last == reader.last
            path = f"/api/coze/conversations/{reader.conversation_id}/messages"
            async with session.get(gateway.url + path) as response:
                kept = (await response.json())["messages"]
            assert [m["content"] for m in kept] == [f"{message} {life}", reader.text]


async def test_killed_while_it_waits_for_tools_the_turn_takes_their_outputs(tmp_path: Path) -> None:
    async with simulated(rate=200) as coze, mortal(tmp_path, coze.url) as gateway, client() as session:
        reader = Reader()
        message = "/fault action -- the light, please"
        asking = asyncio.create_task(reader.ask(session, gateway.url, message))
        await reader.until(lambda r: r.named("action_required"))
        await gateway.kill()
        await asyncio.gather(asking, return_exceptions=True)
        await gateway.start()
        calls = reader.named("action_required")[0]["toolCalls"]
        outputs = {"toolOutputs": [{"toolCallId": call["id"], "output": f"did {call['id'][:4]}"} for call in calls]}
        path = f"/api/coze/turns/{reader.turn_id}/tool-outputs"
        async with asyncio.timeout(patience(10)):
            async with session.post(gateway.url + path, json=outputs) as response:
                assert response.status == 202, await response.text()
            await reader.finish(session, lambda: gateway.url)
        assert reader.last["event"] == "completed"
        assert all(f"did {call['id'][:4]}" in reader.text for call in calls)
        assert len(reader.named("action_required")) == 1
        assert coze.requests["submit_tool_outputs"] == coze.posts_of(message) == 1


async def test_killed_in_the_middle_of_a_question_the_turn_ends_with_it_and_takes_the_reply(tmp_path: Path) -> None:
    async with simulated(rate=40) as coze, mortal(tmp_path, coze.url) as gateway, client() as session:
        reader = Reader()
        message = "/fault question pieces:20 -- the weather, please"
        asking = asyncio.create_task(reader.ask(session, gateway.url, message))
        await reader.until(lambda r: len(r.events) >= 4)
        await gateway.kill()
        await asyncio.gather(asking, return_exceptions=True)
        await gateway.start()
        async with asyncio.timeout(patience(10)):
            await reader.finish(session, lambda: gateway.url)
            assert (reader.last["event"], reader.last["recovered"]) == ("completed", True)
            assert reader.last["awaitingReply"] is True
            assert reader.text == whole_text(message)
            reply = Reader()
            await reply.ask(session, gateway.url, "/fault plain -- Hangzhou", conversationId=reader.conversation_id)
        assert (reply.last["event"], reply.last.get("awaitingReply")) == ("completed", None)
        assert (coze.requests["chat"], coze.requests["cancel"]) == (2, 0)


async def test_tool_outputs_that_come_while_cozes_record_is_read_reach_it(tmp_path: Path) -> None:
    async with (
        simulated(rate=200) as coze,
        proxied(coze.url) as proxy,
        mortal(tmp_path, proxy.url) as gateway,
        client() as session,
    ):
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, gateway.url, message := "/fault action -- in between"))
        await reader.until(lambda r: r.named("action_required"))
        await gateway.kill()
        await asyncio.gather(asking, return_exceptions=True)

        def hold_the_list(request: bytes) -> None:
            if b"/v3/chat/message/list" in request and not proxy.fired["frozen"]:
                proxy.freeze()

        proxy.weather.trap = hold_the_list
        await gateway.start()
        calls = reader.named("action_required")[0]["toolCalls"]
        outputs = {"toolOutputs": [{"toolCallId": call["id"], "output": f"did {call['id'][:4]}"} for call in calls]}
        async with asyncio.timeout(patience(10)):
            await until(lambda: proxy.fired["frozen"] == 1)
            path = f"/api/coze/turns/{reader.turn_id}/tool-outputs"
            async with session.post(gateway.url + path, json=outputs) as response:
                assert response.status == 202, await response.text()
            proxy.thaw()
            await reader.finish(session, lambda: gateway.url)
        assert reader.last["event"] == "completed"
        assert all(f"did {call['id'][:4]}" in reader.text for call in calls)
        assert coze.requests["submit_tool_outputs"] == coze.posts_of(message) == 1


async def test_killed_with_a_turn_in_the_queue_both_are_answered_in_order(tmp_path: Path) -> None:
    async with simulated(rate=20) as coze, mortal(tmp_path, coze.url) as gateway, client() as session:
        first, second = Reader(), Reader()
        one, two = "/fault plain pieces:30 -- first", "/fault plain pieces:5 -- second"
        asking = asyncio.create_task(first.ask(session, gateway.url, one))
        async with asyncio.timeout(patience(10)):
            await first.until(lambda r: len(r.events) >= 3)
            waiting = asyncio.create_task(
                second.ask(session, gateway.url, two, conversationId=first.conversation_id, onBusy="queue")
            )
            await second.until(lambda r: r.named("notice", "queued"))
            await gateway.kill()
            await asyncio.gather(asking, waiting, return_exceptions=True)
            await gateway.start()
            await asyncio.gather(
                first.finish(session, lambda: gateway.url), second.finish(session, lambda: gateway.url)
            )
        assert (first.text, second.text) == (whole_text(one), whole_text(two))
        assert first.resets == second.resets == 0
        assert coze.posts_of(one) == coze.posts_of(two) == 1


async def test_killed_right_after_a_cancel_the_turn_stays_cancelled(tmp_path: Path) -> None:
    async with simulated(rate=20) as coze, mortal(tmp_path, coze.url) as gateway, client() as session:
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, gateway.url, message := "/fault plain pieces:90 -- stop me"))
        await reader.until(lambda r: len(r.text) >= 10)
        path = f"/api/coze/turns/{reader.turn_id}/cancel"
        async with session.post(gateway.url + path) as response:
            assert response.status == 202
        await asking
        await gateway.again()
        assert (await _turn(session, gateway.url, reader.turn_id))["status"] == "cancelled"
        again = Reader(reader.book)
        again.turn_id = reader.turn_id
        await again.listen(session, gateway.url)
        assert again.last == reader.last
        assert coze.posts_of(message) == 1


async def test_a_kill_right_after_an_answer_undoes_nothing_that_it_promised(tmp_path: Path) -> None:
    async with simulated(rate=200) as coze, mortal(tmp_path, coze.url) as gateway, client() as session:
        for life in range(3):
            stopped, answered = Reader(), Reader()
            asking = [
                asyncio.create_task(stopped.ask(session, gateway.url, f"/fault plain rate:20 -- stop me {life}")),
                asyncio.create_task(answered.ask(session, gateway.url, f"/fault action -- the light, please {life}")),
            ]
            await stopped.until(lambda r: r.text)
            await answered.until(lambda r: r.named("action_required"))
            calls = answered.named("action_required")[0]["toolCalls"]
            outputs = {"toolOutputs": [{"toolCallId": call["id"], "output": "done"} for call in calls]}
            async with (
                session.post(f"{gateway.url}/api/coze/turns/{stopped.turn_id}/cancel") as one,
                session.post(f"{gateway.url}/api/coze/turns/{answered.turn_id}/tool-outputs", json=outputs) as other,
            ):
                assert (one.status, other.status) == (202, 202)
                await gateway.kill()
            await asyncio.gather(*asking, return_exceptions=True)
            await gateway.start()
            async with asyncio.timeout(patience(10)):
                await stopped.finish(session, lambda: gateway.url)
                await answered.finish(session, lambda: gateway.url)
            assert stopped.last["event"] == "cancelled"
            assert answered.last["event"] == "completed"
        assert coze.requests["cancel"] >= 3


async def test_a_turn_that_ends_while_the_gateway_stops_is_known_as_ended_to_the_next_start(tmp_path: Path) -> None:
    async with (
        simulated(first_ms=0, rate=100) as coze,
        mortal(tmp_path, coze.url, GATEWAY_DRAIN_SECONDS="0.2") as gateway,
        client() as session,
    ):
        for life in range(3):
            readers = [Reader() for _ in range(24)]
            messages = [f"/fault plain pieces:{30 + number} -- {life} {number}" for number in range(24)]
            asking = [
                asyncio.create_task(reader.ask(session, gateway.url, message))
                for reader, message in zip(readers, messages, strict=True)
            ]
            for reader in readers:
                await reader.until(lambda r: r.text)  # Coze has accepted it: the next start can finish it
            await readers[0].until(lambda r: len(r.text) > 20)
            assert await gateway.process.terminate() == 0
            await asyncio.gather(*asking, return_exceptions=True)
            await gateway.start()
            for reader, message in zip(readers, messages, strict=True):
                async with asyncio.timeout(patience(10)):
                    await reader.finish(session, lambda: gateway.url)
                assert reader.text == whole_text(message)
                stands = await _turn(session, gateway.url, reader.turn_id)
                assert (stands["status"], stands["content"]) == ("completed", reader.text)
