"""Positions are a client's text: whatever it says, the answer is a `reset` or exact, and nobody else's."""

import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.edge.whole import Whole, events_of, whole

ALPHABET = "abz019._- /\\'\";%&?#=<>é你\U0001f600\u2028\u0085\x00\x01\x7f\t"
HOSTILE = [
    "-1",
    "00",
    "1",
    "-",
    "x-",
    "-x",
    "x-0",
    "x--1",
    "x-01",
    "x-1.5",
    "x-１",
    "x-+1",
    "x- 1",
    "x-1\n",
    "null",
    "undefined",
    "NaN",
    "../../etc/passwd",
    "' OR 1=1 --",
    "x" * 64,
    "x" * 65,
    "x" * 5000,
    "é-1",
    "\U0001f600",
    "%",
    "%00",
    "0x10",
    "1e9",
    "x-" + "9" * 18,
    "x-" + "9" * 19,
    "x-" + "9" * 5000,
    "[object Object]",
    "{}",
    "\u0661-1",
    "X-1",
]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Whole]:
    async with whole(tmp_path) as gateway:
        yield gateway


async def polled(gateway: Whole, scope: str, position: str, *, header: bool = False) -> list[dict[str, Any]]:
    query = "?wait=0" if header else f"?wait=0&after={quote(position, errors='replace')}"
    headers = {"Last-Event-ID": position} if header else {}
    async with gateway.session.get(f"{gateway.url}/api/coze/{scope}/poll{query}", headers=headers) as answer:
        assert answer.status == 200, (position, await answer.text())
        events: list[dict[str, Any]] = (await answer.json())["events"]
        return events


async def test_garbage_gets_a_reset_at_once_and_never_an_error_page(running: Whole) -> None:
    turn = await running.finished_turn({}, userId="ann")
    await running.finished_turn({}, userId="bob", message="what bob said")
    chance = random.Random(20251028)
    garbage = HOSTILE + ["".join(chance.choices(ALPHABET, k=chance.randint(1, 70))) for _ in range(150)]
    slowest = []
    for scope in (f"turns/{turn['turnId']}", f"conversations/{turn['conversationId']}"):
        for position in garbage:
            began = time.perf_counter()
            events = await polled(running, scope, position)
            slowest.append(time.perf_counter() - began)
            assert events[0]["event"] == "reset", (position, events)
            assert events[0]["reason"] in ("unknown", "ahead"), position
            assert events[0]["content"] == turn["content"]
            assert "bob" not in str(events)
        for position in [p for p in garbage if p.isprintable() and p.isascii() and p.strip() == p]:
            events = await polled(running, scope, position, header=True)
            assert events[0]["event"] == "reset", position
    assert sorted(slowest)[len(slowest) * 95 // 100] < 0.05


async def test_a_position_of_another_conversation_says_nothing_of_it(running: Whole) -> None:
    mine = await running.finished_turn({}, userId="ann")
    theirs = await running.finished_turn({}, userId="bob", message="what bob said")
    for scope in (f"turns/{mine['turnId']}", f"conversations/{mine['conversationId']}"):
        events = await polled(running, scope, theirs["position"])
        assert (events[0]["event"], events[0]["reason"]) == ("reset", "unknown")
        assert events[0]["content"] == mine["content"]
        assert theirs["turnId"] not in str(events)


async def test_a_position_ahead_of_the_log_is_told_so(running: Whole) -> None:
    turn = await running.finished_turn({}, userId="ann")
    epoch, _, sequence = turn["position"].rpartition("-")
    events = await polled(running, f"conversations/{turn['conversationId']}", f"{epoch}-{int(sequence) + 100}")
    assert (events[0]["event"], events[0]["reason"]) == ("reset", "ahead")


async def test_a_stream_from_garbage_on_a_finished_turn_is_its_reset_and_its_last_event(running: Whole) -> None:
    turn = await running.finished_turn({}, userId="ann")
    for header in ("garbage", "' OR 1=1 --", "x" * 5000):
        async with running.session.get(
            f"{running.url}/api/coze/turns/{turn['turnId']}/events", headers={"Last-Event-ID": header}
        ) as answer:
            events = await events_of(answer)
        assert [event["event"] for event in events] == ["reset", "completed"]
