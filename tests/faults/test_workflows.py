"""Workflows through kill -9: what waits still waits, what was going on is lost and said so, nothing runs twice."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.simulator import Simulator, whole_run
from tests.faults.coze import patience, simulated
from tests.faults.mortal import Mortal, mortal
from tests.faults.proxy import proxied
from tests.faults.reading import Reader, client
from tests.waiting import until


async def started(session: aiohttp.ClientSession, gateway: Mortal, message: str, wait: int = 0) -> dict[str, Any]:
    body = {"userId": "u", "parameters": {"input": message}}
    path = f"{gateway.url}/api/coze/workflows/75/run"
    async with session.post(path, json=body, headers={"Prefer": f"wait={wait}"}) as response:
        assert response.status in (200, 202), await response.text()
        found: dict[str, Any] = await response.json()
        return found


async def state(session: aiohttp.ClientSession, gateway: Mortal, turn_id: str) -> dict[str, Any]:
    async with session.get(f"{gateway.url}/api/coze/turns/{turn_id}") as response:
        found: dict[str, Any] = await response.json()
        return found


async def answer(session: aiohttp.ClientSession, gateway: Mortal, turn: dict[str, Any], output: str) -> None:
    outputs = [{"toolCallId": call["id"], "output": output} for call in turn["toolCalls"]]
    path = f"{gateway.url}/api/coze/turns/{turn['turnId']}/tool-outputs"
    async with session.post(path, json={"toolOutputs": outputs}) as response:
        assert response.status == 202, await response.text()


async def heard(session: aiohttp.ClientSession, gateway: Mortal, turn_id: str) -> Reader:
    reader = Reader()
    reader.turn_id = turn_id
    async with asyncio.timeout(patience(8)):
        await reader.finish(session, lambda: gateway.url)
    return reader


def runs(coze: Simulator) -> tuple[int, int]:
    return coze.requests["run_workflow"], coze.requests["resume_workflow"]


async def test_a_run_that_waits_for_an_answer_waits_through_kills(tmp_path: Path) -> None:
    async with simulated(rate=1000) as coze, mortal(tmp_path, coze.url) as gateway, client() as session:
        message = "/fault action plain -- 天气"
        turn = await started(session, gateway, message, wait=10)
        for _ in range(2):
            await gateway.again()
            again = await state(session, gateway, turn["turnId"])
            assert (again["status"], again["toolCalls"]) == ("action_required", turn["toolCalls"])
        await answer(session, gateway, again, "上海")
        reader = await heard(session, gateway, turn["turnId"])
        assert reader.last["event"] == "completed"
        assert reader.text == whole_run(message) + whole_run(message, answer="上海")
        assert runs(coze) == (1, 1)


@pytest.mark.parametrize("uncertain", ["false", "true"])
async def test_a_run_that_was_going_on_ends_with_what_it_said(tmp_path: Path, uncertain: str) -> None:
    """Also one that had said nothing yet: Coze runs it, so it is not asked for again, whatever the operator allows."""
    async with (
        simulated(rate=50) as coze,
        mortal(tmp_path, coze.url, GATEWAY_RETRY_UNCERTAIN=uncertain) as gateway,
        client() as session,
    ):
        message = "/fault plain pieces:500 -- long"
        turns = [await started(session, gateway, m) for m in (message, f"/fault first:60000 plain -- {message}")]

        async def speaks() -> bool:
            return len((await state(session, gateway, turns[0]["turnId"]))["content"]) > 20

        await until(speaks, within=10)
        await until(lambda: coze.requests["run_workflow"] == 2)
        await asyncio.sleep(0.2)  # the ping, which nobody outside can see
        await gateway.again()
        readers = [await heard(session, gateway, turn["turnId"]) for turn in turns]
        for reader in readers:
            assert (reader.last["event"], reader.last["code"]) == ("error", "upstream_failed")
            assert "may still be running" in reader.last["error"]
        assert len(readers[0].text) > 20
        assert whole_run(message).startswith(readers[0].text)
        assert readers[1].text == ""
        assert runs(coze) == (2, 0)


async def test_killed_while_the_answer_was_on_its_way_nobody_knows(tmp_path: Path) -> None:
    async with (
        simulated(rate=1000) as coze,
        proxied(coze.url) as proxy,
        mortal(tmp_path, proxy.url) as gateway,
        client() as session,
    ):
        turn = await started(session, gateway, "/fault action plain -- 天气", wait=10)
        proxy.refuse()
        proxy.cut_all()
        await asyncio.sleep(0.2)  # nothing tells from outside when the gateway has seen that
        await answer(session, gateway, turn, "上海")
        await gateway.kill()
        await proxy.listen()
        await gateway.start()
        reader = await heard(session, gateway, turn["turnId"])
        assert (reader.last["event"], reader.last["code"]) == ("error", "upstream_uncertain")
        assert runs(coze) == (1, 0)


async def test_an_answer_that_coze_did_not_take_is_given_again(tmp_path: Path) -> None:
    async with (
        simulated(rate=1000) as coze,
        proxied(coze.url) as proxy,
        mortal(tmp_path, proxy.url) as gateway,
        client() as session,
    ):
        message = "/fault action plain -- 天气"
        turn = await started(session, gateway, message, wait=10)
        proxy.refuse()
        proxy.cut_all()
        await asyncio.sleep(0.2)  # nothing tells from outside when the gateway has seen that
        await answer(session, gateway, turn, "上海")
        reader = Reader()
        reader.turn_id = turn["turnId"]
        reading = asyncio.create_task(reader.finish(session, lambda: gateway.url))
        await reader.until(lambda r: r.events and r.events[-1]["event"] == "notice")
        await proxy.listen()
        async with asyncio.timeout(patience(8)):
            await reading
        assert reader.last["event"] == "completed"
        assert reader.text == whole_run(message) + whole_run(message, answer="上海")
        assert runs(coze) == (1, 1)
