"""Workflows over nodes: answered anywhere, taken over while they wait, lost and said to be where they were going on."""

from typing import Any

import pytest

from gateway.simulator import whole_run
from tests.databases import PostgresServer
from tests.faults.coze import patience, simulated
from tests.nodes.cluster import Cluster, cluster

pytestmark = pytest.mark.timeout(120)

A, B = 0, 1
WAITS, GOES = "/fault action plain -- 天气", "/fault plain rate:50 pieces:1000 -- long"


async def _run(nodes: Cluster, message: str) -> str:
    body = {"userId": "u", "parameters": {"input": message}}
    status, answer = await nodes.post(A, "workflows/75/run", body, Prefer="wait=0")
    assert status == 202, answer
    turn: str = answer["turnId"]
    return turn


async def _answer(nodes: Cluster, turn: str, state: Any) -> None:
    outputs = {"toolOutputs": [{"toolCallId": state["toolCalls"][0]["id"], "output": "上海"}]}
    assert (await nodes.post(B, f"turns/{turn}/tool-outputs", outputs))[0] == 202


async def test_a_run_is_answered_at_any_node_and_taken_over_as_far_as_it_can_be(postgres: PostgresServer) -> None:
    whole = whole_run(WAITS) + whole_run(WAITS, answer="上海")
    async with simulated(first_ms=10, rate=1000) as coze, cluster(postgres, coze.url, nodes=2) as nodes:
        first, second, going = [await _run(nodes, message) for message in (WAITS, WAITS, GOES)]
        await _answer(nodes, first, await nodes.stands(B, first, "action_required"))
        assert (await nodes.last(B, first))["content"] == whole
        waits = await nodes.stands(B, second, "action_required")
        await nodes.speaks(B, going)
        await nodes.nodes[A].kill()
        lost = await nodes.last(B, going, within=patience(12))
        assert (lost["event"], lost["code"]) == ("error", "upstream_failed")
        assert whole_run(GOES).startswith(lost["content"])
        assert lost["content"]
        again = await nodes.stands(B, second, "action_required")
        assert again["toolCalls"] == waits["toolCalls"]
        await _answer(nodes, second, again)
        last = await nodes.last(B, second)
        assert (last["event"], last["content"]) == ("completed", whole)
        assert (coze.requests["run_workflow"], coze.requests["resume_workflow"]) == (3, 2)
