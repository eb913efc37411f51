"""A client that sends its message again, with the position that it has reached, gets the rest and starts nothing."""

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.transports.conftest import Serve, Served, serving
from tests.transports.pages import FETCH_EVENT_SOURCE
from tests.transports.readers import Event
from tests.transports.test_real_clients import Require
from tests.transports.test_starting import asked_for
from tests.waiting import until

ANSWER = "/fault plain pieces:20 rate:100 -- come back"


async def post(served: Served, message: str, position: str = "", **fields: Any) -> list[Event]:
    """A message's events, sent with a position."""
    headers = {"Last-Event-ID": position} if position else {}
    async with served.stream(message, headers, **fields) as (_, events):
        return [event async for event in events]


def text(events: list[Event]) -> str:
    return "".join(event["content"] for event in events if event["event"] == "message")


async def test_a_running_turn_goes_on_at_the_position_that_comes_with_the_same_message(served: Served) -> None:
    async with served.stream(ANSWER) as (_, events):
        begun = [await anext(events) for _ in range(3)]
    rest = await post(served, ANSWER, begun[-1]["id"])
    assert rest[-1]["event"] == "completed"
    assert text(begun + rest) == rest[-1]["content"]
    assert {event["turnId"] for event in begun + rest if "turnId" in event} == {begun[0]["turnId"]}
    assert await asked_for(served) == 1


async def test_a_turn_that_is_over_gives_what_is_left_or_nothing(served: Served) -> None:
    events = await served.ask(ANSWER)
    for at, event in enumerate(events):
        rest = await post(served, ANSWER, event["id"])
        assert text(events[: at + 1] + rest) == events[-1]["content"]
        assert rest[-1:] == events[at + 1 :][-1:]
    _, _, answer = await served.post(
        "/api/coze/chat", {"userId": "u", "botId": "b", "message": ANSWER}, **{"Last-Event-ID": events[2]["id"]}
    )
    assert (answer["turnId"], answer["content"]) == (events[0]["turnId"], events[-1]["content"])
    assert await asked_for(served) == 1


async def test_another_body_or_user_or_what_is_no_position_of_theirs_is_a_new_turn(served: Served) -> None:
    events = await served.ask(ANSWER)
    position = events[3]["id"]
    for message, at, fields in (
        (f"{ANSWER}!", position, {}),
        (ANSWER, position, {"userId": "another"}),
        (ANSWER, position, {"botId": "another"}),
        (ANSWER, position, {"metaData": {"a": "b"}}),
        (ANSWER, position, {"conversationId": events[0]["conversationId"]}),
        (ANSWER, "garbage", {}),
        (ANSWER, "0", {}),
        (ANSWER, f"{position}9" * 20, {}),
        (ANSWER, "0" * 8 + position[8:], {}),
    ):
        found = await post(served, message, at, **fields)
        assert (found[0]["event"], found[-1]["event"]) == ("started", "completed")
        assert found[0]["turnId"] != events[0]["turnId"]
    assert await asked_for(served) == 10


async def test_of_turns_with_the_same_body_the_position_says_which(served: Served) -> None:
    apart = [await served.ask(ANSWER) for _ in range(3)]
    conversation = apart[0][0]["conversationId"]
    together = [await served.ask(ANSWER, conversationId=conversation) for _ in range(3)]
    await served.ask("/fault plain rate:0 -- another", conversationId=conversation)
    for events in apart:
        assert (await post(served, ANSWER, events[2]["id"]))[-1] == events[-1]
    for events in together:
        for at in (0, -2):
            assert (await post(served, ANSWER, events[at]["id"], conversationId=conversation))[-1] == events[-1]
    assert await asked_for(served) == 7


async def test_a_turn_whose_events_retention_took_is_told_by_a_reset_and_not_asked_again(serve: Serve) -> None:
    served = await serve(retention_seconds=0.2)
    events = await served.ask(ANSWER)
    await until(lambda: served.forgot(events[0]["turnId"]), within=20)
    reset, last = await post(served, ANSWER, events[3]["id"])
    assert (reset["event"], reset["reason"], reset["content"]) == ("reset", "expired", events[-1]["content"])
    assert last == {**events[-1], "usage": last["usage"]}
    assert await post(served, ANSWER, events[-1]["id"]) == []
    assert await asked_for(served) == 1


async def test_a_turn_is_found_by_the_next_process_too(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        events = await served.ask(ANSWER)
    async with serving(tmp_path) as served:
        assert (await post(served, ANSWER, events[2]["id"]))[-1] == events[-1]
        assert await asked_for(served) == 0


async def test_a_queued_turn_that_was_cancelled_is_found(served: Served) -> None:
    running = await served.start("/fault plain pieces:4000 rate:50 -- slow")
    fields = {"conversationId": (await served.state(running.topic[6:]))["conversationId"], "onBusy": "queue"}
    queued = await served.start(ANSWER, **fields)
    await served.post(f"/api/coze/{queued.topic}/cancel")
    position = (await served.ended(queued.topic[6:]))["position"]
    assert await post(served, ANSWER, position, **fields) == []
    assert await asked_for(served) == 1


# -- npm's fetch-event-source, which sends its POST again when its tab comes back ---------------------------------


@pytest.fixture(scope="session")
def fetch_event_source(require: Require, pytestconfig: pytest.Config) -> Path:
    """npm's `@microsoft/fetch-event-source`, installed once into pytest's cache."""
    folder = Path(pytestconfig.cache.mkdir("fetch-event-source"))
    package = folder / "node_modules" / "@microsoft" / "fetch-event-source"
    if not (package / "package.json").exists():
        command = [require("npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
        done = subprocess.run(
            [*command, "@microsoft/fetch-event-source@2.0.1"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=90,
            check=False,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"npm can't install fetch-event-source: {done.stderr[-200:]}")
    return package


@pytest.mark.parametrize("hidden", [300, 3000])
async def test_fetch_event_source_whose_tab_was_hidden_gets_the_rest_once(
    served: Served, require: Require, fetch_event_source: Path, hidden: int
) -> None:
    """Hidden for a moment, while the answer goes on, or until after its end."""
    body = {"userId": "u", "botId": "b", "message": "/fault plain pieces:60 rate:50 -- 你好, hide me"}
    process = await asyncio.create_subprocess_exec(
        require("node"), "-e", FETCH_EVENT_SOURCE, "--",
        str(fetch_event_source), f"{served.url}/api/coze/chat/stream", json.dumps(body), str(hidden),
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    try:
        out, _ = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    heard = json.loads(out)
    assert heard["opens"] == 2
    assert heard["last"]["event"] == "completed"
    assert heard["text"] == heard["last"]["content"]
    assert len(heard["ids"]) == len(set(heard["ids"]))
    assert await asked_for(served) == 1
