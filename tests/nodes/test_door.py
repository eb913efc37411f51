"""Coze's own door over nodes: a chat or a run that began at one node is asked about, answered and continued at
another."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.simulator import Simulator, whole_run, whole_text
from tests.databases import PostgresServer
from tests.faults.coze import simulated
from tests.nodes.cluster import Cluster, cluster
from tests.waiting import until

pytestmark = pytest.mark.timeout(120)

A, B = 0, 1
HEADS = {"Authorization": "Bearer pat_caller"}


@contextlib.asynccontextmanager
async def doors(postgres: PostgresServer, **environment: str) -> AsyncIterator[tuple[Cluster, Simulator]]:
    async with (
        simulated(first_ms=10, rate=200) as coze,
        cluster(postgres, coze.url, nodes=2, **environment) as nodes,
    ):
        yield nodes, coze


async def tell(nodes: Cluster, node: int, path: str, body: Any, **heads: str) -> tuple[str, list[tuple[str, Any]]]:
    """The turn that the answer names, and the records of its stream."""
    async with nodes.session.post(nodes.url(node) + path, json=body, headers=HEADS | heads) as response:
        lines = [line for line in (await response.text()).split("\n") if line and not line.startswith("id:")]
        turn = response.headers.get("X-Gateway-Turn", "")
    pairs = zip(lines[::2], lines[1::2], strict=True)
    return turn, [(name.partition(":")[2].strip(), json.loads(data.partition(":")[2])) for name, data in pairs]


async def ask(nodes: Cluster, node: int, path: str, chat: Any) -> Any:
    query = f"conversation_id={chat['conversation_id']}&chat_id={chat['id']}"
    async with nodes.session.get(f"{nodes.url(node)}{path}?{query}", headers=HEADS) as response:
        return (await response.json())["data"]


def chat_of(message: str) -> Any:
    said = [{"role": "user", "content": message, "content_type": "text"}]
    return {"bot_id": "75", "user_id": "u", "stream": True, "additional_messages": said}


def text_of(records: list[tuple[str, Any]]) -> str:
    texts = ("conversation.message.delta", "Message")
    return "".join(data["content"] for name, data in records if name in texts)


async def test_a_chat_is_known_and_continued_at_every_node(postgres: PostgresServer) -> None:
    message = "/fault plain pieces:30 x"
    async with doors(postgres) as (nodes, coze):
        turn, records = await tell(nodes, A, "/v3/chat", chat_of(message))
        assert text_of(records) == whole_text(message)
        chat = records[-2][1]
        assert (await ask(nodes, B, "/v3/chat/retrieve", chat))["status"] == "completed"
        assert len(await ask(nodes, B, "/v3/chat/message/list", chat)) >= 1
        heads = {"X-Gateway-Turn": turn, "X-Gateway-After": "7"}
        again, rest = await tell(nodes, B, "/v3/chat", chat_of(message), **heads)
        assert again == turn
        assert text_of(rest) == whole_text(message)[7:]
        assert coze.requests["chat"] == 1
        assert coze.requests["retrieve"] == 0


async def test_tool_outputs_and_the_answer_to_an_interrupt_are_given_at_another_node(postgres: PostgresServer) -> None:
    async with doors(postgres) as (nodes, coze):
        turn, records = await tell(nodes, A, "/v3/chat", chat_of("/fault action 开灯"))
        chat = dict(records)["conversation.chat.requires_action"]
        calls = chat["required_action"]["submit_tool_outputs"]["tool_calls"]
        outputs = [{"tool_call_id": call["id"], "output": "ok"} for call in calls]
        path = f"/v3/chat/submit_tool_outputs?conversation_id={chat['conversation_id']}&chat_id={chat['id']}"
        again, rest = await tell(nodes, B, path, {"stream": True, "tool_outputs": outputs})
        assert again == turn
        assert rest[-1][0] == "done"
        assert coze.requests["submit_tool_outputs"] == 1

        question = "/fault action 天气"
        body = {"workflow_id": "75", "parameters": {"input": question}}
        turn, records = await tell(nodes, A, "/v1/workflow/stream_run", body)
        asked = dict(records)["Interrupt"]["interrupt_data"]
        answer = {"workflow_id": "75", "event_id": asked["event_id"], "resume_data": "杭州", "interrupt_type": 2}
        again, rest = await tell(nodes, B, "/v1/workflow/stream_resume", answer)
        assert again == turn
        assert text_of(records) + text_of(rest) == whole_run(question) + whole_run(question, answer="杭州")
        assert rest[-1][0] == "Done"
        assert (coze.requests["run_workflow"], coze.requests["resume_workflow"]) == (1, 1)


async def test_a_chat_whose_node_dies_is_finished_by_a_node_that_knows_the_caller(postgres: PostgresServer) -> None:
    message = "/fault plain pieces:200 rate:40 x"
    async with doors(postgres) as (nodes, coze):
        async with nodes.session.post(f"{nodes.url(A)}/v3/chat", json=chat_of(message), headers=HEADS) as response:
            turn = response.headers["X-Gateway-Turn"]
            text = ""
            async for line in response.content:
                if line.startswith(b"data:") and b'"type":"answer"' in line:
                    text += json.loads(line.removeprefix(b"data:"))["content"]
                if len(text) > 20:
                    break
            await nodes.nodes[A].kill()
        heads = {"X-Gateway-Turn": turn, "X-Gateway-After": str(len(text))}

        async def rest() -> list[tuple[str, Any]]:
            _, records = await tell(nodes, B, "/v3/chat", chat_of(message), **heads)
            return records if records and records[-1][0] == "done" else []

        assert text + text_of(await until(rest, within=30)) == whole_text(message)
        assert coze.requests["chat"] == 1
