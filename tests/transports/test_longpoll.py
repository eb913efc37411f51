"""Long-poll beyond its events: when it answers, how much, and what it refuses."""

import asyncio
from typing import Any

import pytest

from tests.transports.conftest import Served
from tests.waiting import until


@pytest.fixture
async def idle(served: Served) -> str:
    """The path of a conversation in which nothing goes on, and its last position."""
    over = await served.ask("/fault plain pieces:10 rate:0 -- idle")
    return f"/api/coze/conversations/{over[0]['conversationId']}/poll?after={over[-1]['id']}"


async def timed(served: Served, path: str) -> tuple[float, int, dict[str, Any]]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    status, _, answer = await served.get(path)
    return loop.time() - began, status, answer


async def test_a_poll_without_events_waits_as_long_as_it_was_asked_to(served: Served, idle: str) -> None:
    after = idle.rpartition("=")[2]
    for wait, least, most in (("0", 0, 0.2), ("-5", 0, 0.2), ("0.5", 0.45, 0.9), ("1", 0.95, 1.4)):
        took, status, answer = await timed(served, f"{idle}&wait={wait}")
        assert least <= took < most
        assert (status, answer) == (200, {"events": [], "next": after, "ended": False})


async def test_a_wait_that_is_too_long_is_clamped_and_one_that_is_no_number_refused(served: Served, idle: str) -> None:
    asking = asyncio.create_task(timed(served, f"{idle}&wait=99999"))
    await asyncio.sleep(0.1)  # it may not answer meanwhile
    assert not asking.done()
    conversation = idle.split("/")[4]
    await served.ask("/fault plain pieces:2 rate:0 -- wake", conversationId=conversation)
    took, _, answer = await asyncio.wait_for(asking, 2)
    assert took < 2
    assert answer["events"]
    for query in ("wait=soon", "wait=1e3", "wait=NaN", "limit=all", "wait=&limit=-"):
        _, status, problem = await timed(served, f"{idle}&{query}")
        assert (status, problem["code"]) == (422, "invalid_request")


async def test_a_poll_answers_as_soon_as_there_are_events(served: Served) -> None:
    door = await served.start("/fault plain first:500 pieces:3 rate:5 -- soon")
    took, _, answer = await timed(served, f"/api/coze/{door.topic}/poll")
    assert took < 0.2
    assert [event["event"] for event in answer["events"]] == ["started"]
    took, _, answer = await timed(served, f"/api/coze/{door.topic}/poll?after={answer['next']}")
    assert 0.1 < took < 0.8
    assert answer["events"][0]["event"] == "message"
    assert answer["ended"] is False


async def test_limit_bounds_an_answer_and_nothing_is_lost_by_it(served: Served) -> None:
    events = await served.ask("/fault reasoning tool audio pieces:30 rate:0 -- much")
    path = f"/api/coze/turns/{events[0]['turnId']}/poll"
    _, _, everything = await served.get(path)
    assert everything["ended"] is True
    for limit, most in ((1, 1), (2, 2), (0, 1), (5, 5), (100_000, 1000)):
        got, answer = [], {"ended": False, "next": ""}
        while not answer["ended"]:
            _, _, answer = await served.get(f"{path}?limit={limit}&after={answer['next'] or '0'}")
            assert 0 < len(answer["events"]) <= most
            got += answer["events"]
        assert got == everything["events"]


async def test_ended_comes_with_the_last_event_and_is_not_told_too_early(served: Served) -> None:
    door = await served.start("/fault plain pieces:20 rate:100 -- ends")
    after, answers = "0", list[dict[str, Any]]()
    while not answers or not answers[-1]["ended"]:
        _, headers, answer = await served.get(f"/api/coze/{door.topic}/poll?after={after}")
        assert headers["Cache-Control"] == "no-store"
        assert headers["Content-Type"] == "application/json"
        answers.append(answer)
        after = answer["next"]
    assert answers[-1]["events"][-1]["event"] == "completed"
    _, _, again = await served.get(f"/api/coze/{door.topic}/poll?after={after}")
    assert again == {"events": [], "next": after, "ended": True}


async def test_many_polls_that_wait_are_all_woken_by_one_event(served: Served, idle: str) -> None:
    asking = [asyncio.create_task(served.get(idle)) for _ in range(100)]
    await until(lambda: served.services.ledger.count("subscription") >= 100, within=5)
    await served.ask("/fault plain pieces:2 rate:0 -- wake", conversationId=idle.split("/")[4])
    answers = await asyncio.wait_for(asyncio.gather(*asking), 2)
    assert all(answer[2]["events"][0]["event"] == "started" for answer in answers)


async def test_a_client_that_gives_up_waiting_is_noticed(served: Served, idle: str) -> None:
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await served.get(idle)
    await until(lambda: not served.services.ledger.count("subscription"), within=1)
