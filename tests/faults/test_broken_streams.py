"""Coze's stream breaks anywhere, in any way, on its way to the gateway: the answer arrives whole, from one chat."""

import asyncio
import itertools
import random
import re
from pathlib import Path

from gateway.simulator import whole_text
from tests.faults.coze import gateway, patience, simulated
from tests.faults.proxy import Fault, Trap, proxied
from tests.faults.reading import Reader, client

PLACES = {
    "the first piece": b"event:conversation.message.delta",
    "the answer's last word": b"event:conversation.message.completed",
    "the chat's last word": b"event:conversation.chat.completed",
}
FAULTS: tuple[Fault, ...] = ("close", "reset", "stall", "half")


async def test_a_stream_broken_anywhere_in_any_way_is_finished_from_the_record(tmp_path: Path) -> None:
    traps: dict[bytes, Trap] = {}
    async with (
        simulated(rate=200) as coze,
        proxied(coze.url) as proxy,
        gateway(tmp_path, proxy.url) as process,
        client() as session,
    ):

        def trap(request: bytes) -> Trap | None:
            return next((trap for name, trap in traps.items() if name in request), None)

        proxy.weather.trap = trap

        async def play(place: str, fault: Fault) -> tuple[str, Reader]:
            name = f"{fault} before {place}"
            message = f"/fault plain pieces:20 -- {name}?"
            traps[name.encode()] = Trap(PLACES[place], fault)
            reader = Reader()
            async with asyncio.timeout(patience(20)):
                await reader.ask(session, process.url, message)
            return message, reader

        plays = await asyncio.gather(*(play(place, fault) for place in PLACES for fault in FAULTS))
        assert [trap.times for trap in traps.values()] == [0] * len(traps)
        assert proxy.fired == dict.fromkeys(FAULTS, len(PLACES))
        for message, reader in plays:
            assert reader.last["event"] == "completed", (message, reader.last)
            assert reader.last["recovered"] is True
            assert len(reader.named("notice", "recovering")) == 1
            assert reader.text == whole_text(message)
            assert coze.posts_of(message) == 1
        assert coze.chats_started == len(plays)


async def test_what_breaks_after_the_chats_last_word_is_no_break(tmp_path: Path) -> None:
    async with (
        simulated(rate=200) as coze,
        proxied(coze.url) as proxy,
        gateway(tmp_path, proxy.url) as process,
        client() as session,
    ):
        sprung = Trap(b"event:done", "reset")
        proxy.weather.trap = lambda request: sprung
        reader = Reader()
        await reader.ask(session, process.url, message := "/fault plain pieces:20 -- and then?")
        assert sprung.times == 0
        assert reader.last["event"] == "completed"
        assert reader.last["recovered"] is False
        assert reader.text == whole_text(message)


async def test_a_stream_broken_before_coze_said_that_it_has_the_message_is_uncertain(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        for fault in FAULTS[:3]:
            group.create_task(_break_early(tmp_path / fault, fault))


async def _break_early(tmp_path: Path, fault: Fault) -> None:
    async with (
        simulated() as coze,
        proxied(coze.url) as proxy,
        gateway(tmp_path, proxy.url) as process,
        client() as session,
    ):
        readers = [Reader() for _ in range(2)]
        traps = [Trap(b"HTTP/1.1 200", fault), Trap(b"event:conversation.chat.created", fault)]
        messages = [f"hello number {number}" for number in range(2)]
        proxy.weather.trap = lambda request: next(
            (trap for message, trap in zip(messages, traps, strict=True) if message.encode() in request), None
        )
        async with asyncio.timeout(patience(10)):
            await asyncio.gather(
                *(reader.ask(session, process.url, text) for reader, text in zip(readers, messages, strict=True))
            )
        assert [trap.times for trap in traps] == [0, 0]
        for reader, message in zip(readers, messages, strict=True):
            assert reader.last["code"] == "upstream_uncertain"
            assert reader.last["retryable"] is True
            assert coze.posts_of(message) == 1


async def test_a_break_while_tool_outputs_are_sent_is_recovered_from_the_chats_record(tmp_path: Path) -> None:
    async with (
        simulated(rate=200) as coze,
        proxied(coze.url) as proxy,
        gateway(tmp_path, proxy.url) as process,
        client() as session,
    ):
        sprung = Trap(b"HTTP/1.1 200", "reset")
        proxy.weather.trap = lambda request: sprung if b"submit_tool_outputs" in request else None
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, process.url, message := "/fault action -- the light, please"))
        await reader.until(lambda r: r.named("action_required"))
        calls = reader.named("action_required")[0]["toolCalls"]
        outputs = {"toolOutputs": [{"toolCallId": call["id"], "output": "done"} for call in calls]}
        path = f"{process.url}/api/coze/turns/{reader.turn_id}/tool-outputs"
        async with session.post(path, json=outputs) as response:
            assert response.status == 202
        async with asyncio.timeout(patience(10)):
            await asking
        assert sprung.times == 0
        assert reader.last["event"] == "completed"
        assert reader.last["recovered"] is True
        assert coze.requests["submit_tool_outputs"] == coze.posts_of(message) == 1


async def test_an_answer_that_comes_byte_by_byte_is_the_same(tmp_path: Path) -> None:
    async with (
        simulated(rate=0) as coze,
        proxied(coze.url) as proxy,
        gateway(tmp_path, proxy.url) as process,
        client() as session,
    ):
        proxy.weather.bytewise = True
        reader = Reader()
        async with asyncio.timeout(patience(20)):
            await reader.ask(session, process.url, message := "/fault plain hostile pieces:20 -- slowly")
        assert proxy.fired["bytewise"] > 0
        assert reader.text == whole_text(message)
        assert reader.last["recovered"] is False


async def test_two_hundred_turns_broken_at_random_are_two_hundred_chats(tmp_path: Path) -> None:
    chance = random.Random(200)
    ways = ("drop-after", "reset-after", "eof-after", "cut-record-after", "cut-utf8-after", "cut-chunk-after")
    messages = [
        f"/fault {chance.choice(ways)}:{chance.randrange(20)} plain pieces:20 -- turn {number}" for number in range(200)
    ]
    async with simulated(rate=100) as coze, gateway(tmp_path, coze.url) as process, client() as session:

        async def play(message: str) -> None:
            await asyncio.sleep(chance.random() * 3)  # turns begin at any moment of three seconds
            reader = Reader()
            await reader.ask(session, process.url, message)
            assert reader.text == whole_text(message)
            assert reader.last["recovered"] is True
            times = [at for at, event in zip(reader.times, reader.events, strict=True) if event["event"] == "notice"]
            assert len(times) == 1

        async with asyncio.timeout(60):
            await asyncio.gather(*(play(message) for message in messages))
        assert coze.chats_started == coze.requests["chat"] == 200


async def test_coze_is_asked_for_a_broken_chat_once_a_second_at_most(tmp_path: Path) -> None:
    asked: list[float] = []
    async with (
        simulated(rate=8) as coze,
        proxied(coze.url) as proxy,
        gateway(tmp_path, proxy.url) as process,
        client() as session,
    ):
        loop = asyncio.get_running_loop()
        heads: dict[int, int] = {}

        def watch(request: bytes) -> Trap | None:
            count = request.count(b"/v3/chat/retrieve?")
            if count > heads.get(id(asyncio.current_task()), 0):
                heads[id(asyncio.current_task())] = count
                asked.append(loop.time())
            return None

        proxy.weather.trap = watch
        reader = Reader()
        await reader.ask(session, process.url, message := "/fault drop-after:2 plain pieces:32 -- patience")
        assert reader.text == whole_text(message)
        assert coze.requests["retrieve"] == len(asked) >= 3
        gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
        assert min(gaps) > 0.9


async def test_a_recovery_that_the_turns_time_ends_counts_as_failed(tmp_path: Path) -> None:
    async with (
        simulated() as coze,
        gateway(tmp_path, coze.url, GATEWAY_TURN_TIMEOUT="2") as process,
        client() as session,
    ):
        reader = Reader()
        await reader.ask(session, process.url, "/fault drop-after:3 never-complete plain pieces:20 -- for ever?")
        async with session.get(f"{process.url}/metrics") as response:
            counted = re.findall(r'recoveries_total\{outcome="(\w+)"\} ([1-9]\S*)', await response.text())
    assert counted == [("failed", "1.0")]
