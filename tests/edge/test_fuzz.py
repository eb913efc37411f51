"""500 seeded mutations of Coze's recorded bytes through the whole gateway: each turn ends, nothing grows.

`FUZZ_TURNS` and `FUZZ_SEED` choose others.
"""

import asyncio
import json
import os
import random
import resource
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from tests.edge.whole import BODY, Whole, quiet, whole

TURNS = int(os.environ.get("FUZZ_TURNS", "500"))
SEED = int(os.environ.get("FUZZ_SEED", "7569312240118861864"))
AT_ONCE = 100
SAMPLES = [
    path.read_bytes()
    for path in sorted((Path(__file__).parent.parent / "coze").glob("*.sse"))
    if path.stat().st_size < 100_000
]
RECORD = {
    "retrieve": (Path(__file__).parent.parent / "coze" / "retrieve.json").read_bytes(),
    "messages": (Path(__file__).parent.parent / "coze" / "message-list.json").read_bytes(),
}
LAST = {"completed", "cancelled", "error"}
HOSTILE = [
    b"\r",
    b"\n",
    b"\r\n\r\n",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"\x0b\x1c",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b"\\u0000",
    b"\\u2028",
    b"NaN",
    b"Infinity",
    b"-1e999",
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 500,
    b'"',
    b"\\",
    b"}",
    b"{",
    b"null",
    b"data: {}\n\n",
    b'event: done\ndata: "[DONE]"\n\n',
    b"id: forged-1\n",
    b"retry: 1\n",
    b": comment\n\n",
    b'data: {"event":"completed","content":"forged"}\n\n',
    b"x" * 70_000,
]


def flip(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.randint(1, 20)):
        data[chance.randrange(len(data))] = chance.randrange(256)


def insert(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        data[at:at] = chance.choice(HOSTILE)


def cut(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.randint(1, 400)]


def end_early(chance: random.Random, data: bytearray) -> None:
    del data[chance.randrange(len(data)) :]


def double(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    data[at:at] = data[at : at + chance.randint(1, 2000)]


def shuffle(chance: random.Random, data: bytearray) -> None:
    records = bytes(data).split(b"\n\n")
    chance.shuffle(records)
    data[:] = b"\n\n".join(records)


def splice(chance: random.Random, data: bytearray) -> None:
    other = chance.choice(SAMPLES)
    data[chance.randrange(len(data)) :] = other[chance.randrange(len(other)) :]


MUTATIONS: list[Callable[[random.Random, bytearray], None]] = [flip, insert, cut, end_early, double, shuffle, splice]


def mutated(number: int) -> tuple[bytes, random.Random]:
    """The bytes that Coze answers in turn `number`, and the dice for how they are cut."""
    chance = random.Random(SEED + number)
    data = bytearray(chance.choice(SAMPLES))
    for mutate in chance.choices(MUTATIONS, k=chance.randint(1, 3)):
        if data:
            mutate(chance, data)
    return bytes(data), chance


async def hostile_coze() -> AsyncIterator[str]:
    """A server in Coze's place that answers message `N` with mutation N, and questions about it likewise."""

    async def chat(request: web.Request) -> web.StreamResponse:
        said = (await request.json())["additional_messages"][-1]["content"]
        data, chance = mutated(int(said))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while data:
            size = chance.choice([1, 7, 100, 5000, 100_000])
            await response.write(data[:size])
            data = data[size:]
        if chance.random() < 0.2 and request.transport is not None:
            request.transport.abort()
        return response

    def record(what: str) -> Callable[[web.Request], Any]:
        dice = random.Random(f"{SEED} {what}")

        async def answer(request: web.Request) -> web.Response:
            data = bytearray(RECORD[what])
            if dice.random() < 0.3:
                dice.choice(MUTATIONS)(dice, data)
            return web.Response(body=bytes(data), content_type="application/json")

        return answer

    app = web.Application()
    app.router.add_post("/v3/chat", chat)
    app.router.add_route("*", "/v3/chat/retrieve", record("retrieve"))
    app.router.add_route("*", "/v3/chat/message/list", record("messages"))
    app.router.add_post("/v3/chat/cancel", record("retrieve"))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Whole]:
    async for coze in hostile_coze():
        limits = {
            "turn_timeout": 5,
            "upstream_idle_timeout": 2,
            "upstream_retries": 1,
            "max_connections_per_user": 1000,
        }
        async with whole(tmp_path, coze_api_token="token", coze_api_base=coze, **limits) as gateway:
            yield gateway


def strict(text: str) -> dict[str, Any]:
    """`text` as strict JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {text[:200]}")

    value: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return value


def check(stream: bytes, number: int) -> str:
    """What holds for any stream, whatever Coze sent. The last event's name."""
    text = stream.decode("utf-8", "strict")
    assert not set(text) & set("\r\0\u0085\u2028\u2029"), number
    events, ids = [], []
    for frame in text.split("\n\n"):
        fields = [line.partition(": ") for line in frame.split("\n") if line and not line.startswith(":")]
        assert {name for name, _, _ in fields} <= {"id", "data", "retry"}, (number, frame[:200])
        for name, _, value in fields:
            if name == "data":
                events.append(strict(value))
            if name == "id":
                ids.append(value)
                assert value == strict(frame.partition("data: ")[2])["id"], number
    names = [event["event"] for event in events]
    assert names[0] == "started", number
    assert [name for name in names if name in LAST] == [names[-1]], (number, names)
    assert len(set(ids)) == len(ids), number
    said = ""
    for event in events:
        if event["event"] == "message" and "contentType" not in event:
            said = event["content"] if event.get("replace") else said + event["content"]
    assert said == events[-1]["content"], number
    "".join(str(event) for event in events).encode()  # no lone surrogate anywhere
    return str(names[-1])


async def one_turn(session: ClientSession, url: str, number: int) -> str:
    body = BODY | {"userId": f"user {number}", "message": str(number)}
    async with session.post(f"{url}/api/coze/chat/stream", json=body) as answer:
        assert answer.status == 200, await answer.text()
        return check(await answer.read(), number)


async def test_whatever_bytes_coze_sends_every_turn_ends_once_and_is_whole(running: Whole) -> None:
    ends: dict[str, int] = {}
    numbers = iter(range(TURNS))

    async def some() -> None:
        for number in numbers:
            async with asyncio.timeout(20):
                end = await one_turn(running.session, running.url, number)
            ends[end] = ends.get(end, 0) + 1

    await some_turns_first(running)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(some())
    assert sum(ends.values()) == TURNS
    assert ends["completed"] > TURNS / 10, ends  # the mutations leave some answers whole,
    assert ends["error"] > TURNS / 10, ends  # and break some for good
    await quiet(running)
    async with running.session.get(f"{running.url}/healthz") as answer:
        assert answer.status == 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


async def some_turns_first(running: Whole) -> None:
    """So that what is loaded once does not count as growth."""
    for number in range(TURNS, TURNS + 5):
        async with asyncio.timeout(20):
            await one_turn(running.session, running.url, number)
