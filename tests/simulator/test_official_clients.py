"""Coze's own clients as witnesses: what they accept from the real service they accept from the simulated one."""

import asyncio
import subprocess
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator import whole_run, whole_text
from tests.conftest import Require
from tests.simulator.caller import Caller
from tests.simulator.conftest import Start
from tests.simulator.node import seen_by_node

with warnings.catch_warnings(record=True) as _raised:
    # cozepy imports a module of authlib that warns, and switches that very warning on again as it does.
    import cozepy
for _warning in _raised:
    if "authlib.jose" not in str(_warning.message):
        warnings.warn_explicit(_warning.message, _warning.category, _warning.filename, _warning.lineno)

QUESTION = "你好，请介绍一下你自己"
NODE_PACKAGE = "@coze/api@1.3.9"
NODE_SCRIPT = Path(__file__).parent / "official_client.mjs"


@pytest.fixture
async def simulated(start: Start) -> Caller:
    return await start(first_ms=20, rate=500)


@pytest.fixture
def coze(simulated: Caller) -> Iterator[cozepy.Coze]:
    with cozepy.SyncHTTPClient() as http:
        yield cozepy.Coze(cozepy.TokenAuth("pat_x"), simulated.simulator.url, http)


@pytest.fixture
async def async_coze(simulated: Caller) -> AsyncIterator[cozepy.AsyncCoze]:
    async with cozepy.AsyncHTTPClient() as http:
        yield cozepy.AsyncCoze(cozepy.AsyncTokenAuth("pat_x"), simulated.simulator.url, http)


def asked(message: str) -> dict[str, Any]:
    question = cozepy.Message.build_user_question_text(message)
    return {"bot_id": "7561209983316475943", "user_id": "u", "additional_messages": [question]}


@pytest.mark.parametrize("faults", ["plain", "reasoning", "tool", "multi", "audio", "card-only", "crlf", "no-done"])
async def test_cozepy_reads_the_stream(coze: cozepy.Coze, simulated: Caller, faults: str) -> None:
    message = f"/fault {faults} {QUESTION}"
    events = await asyncio.to_thread(lambda: list(coze.chat.stream(**asked(message))))
    assert cozepy.ChatEventType.UNKNOWN not in [event.event for event in events]
    assert events[0].event == cozepy.ChatEventType.CONVERSATION_CHAT_CREATED
    over = next(event for event in events if event.event == cozepy.ChatEventType.CONVERSATION_CHAT_COMPLETED)
    assert over.chat.usage.token_count > 0
    texts = [
        event.message.content
        for event in events
        if event.event == cozepy.ChatEventType.CONVERSATION_MESSAGE_COMPLETED
        and event.message.type == cozepy.MessageType.ANSWER
        and event.message.content_type == cozepy.MessageContentType.TEXT
    ]
    assert "\n\n".join(texts) == whole_text(message)
    assert simulated.simulator.chats_started == 1


async def test_cozepy_s_async_client_reads_the_stream(async_coze: cozepy.AsyncCoze) -> None:
    text = ""
    async for event in async_coze.chat.stream(**asked(f"/fault plain {QUESTION}")):
        if event.event == cozepy.ChatEventType.CONVERSATION_MESSAGE_DELTA:
            assert event.message is not None
            text += event.message.content
    assert text == whole_text(f"/fault plain {QUESTION}")


async def test_cozepy_gives_feedback_on_a_message(coze: cozepy.Coze, simulated: Caller) -> None:
    def ask_and_rate() -> tuple[str, str]:
        poll = coze.chat.create_and_poll(**asked(f"/fault plain pieces:2 rate:0 -- {QUESTION}"))
        assert poll.messages
        answer = next(message for message in poll.messages if message.type == cozepy.MessageType.ANSWER)
        coze.conversations.messages.feedback.create(
            conversation_id=poll.chat.conversation_id or "",
            message_id=answer.id or "",
            feedback_type=cozepy.FeedbackType.UNLIKE,
            comment="too long",
        )
        return poll.chat.conversation_id or "", answer.id or ""

    conversation, message = await asyncio.to_thread(ask_and_rate)
    opinions = simulated.simulator.opinions
    assert opinions == {message: {"feedback_type": "unlike", "comment": "too long"}}
    feedback = coze.conversations.messages.feedback
    await asyncio.to_thread(lambda: feedback.delete(conversation_id=conversation, message_id=message))
    assert opinions == {}
    with pytest.raises(cozepy.CozeAPIError):
        await asyncio.to_thread(lambda: feedback.delete(conversation_id=conversation, message_id="1"))


async def test_cozepy_creates_and_polls(coze: cozepy.Coze) -> None:
    poll = await asyncio.to_thread(lambda: coze.chat.create_and_poll(**asked(QUESTION)))
    assert poll.chat.status == cozepy.ChatStatus.COMPLETED
    assert poll.messages is not None
    answers = [message.content for message in poll.messages if message.type == cozepy.MessageType.ANSWER]
    assert answers == [whole_text(QUESTION)]


async def test_cozepy_cancels(coze: cozepy.Coze) -> None:
    def cancel() -> tuple[cozepy.Chat, cozepy.Chat]:
        chat = coze.chat.create(**asked("/fault rate:1 x"))
        ids = {"conversation_id": chat.conversation_id, "chat_id": chat.id}
        return coze.chat.cancel(**ids), coze.chat.retrieve(**ids)

    assert [chat.status for chat in await asyncio.to_thread(cancel)] == [cozepy.ChatStatus.CANCELED] * 2


async def test_cozepy_submits_tool_outputs(coze: cozepy.Coze) -> None:
    def act() -> list[cozepy.ChatEvent]:
        *_, waits = coze.chat.stream(**asked("/fault action 开灯"))
        assert waits.event == cozepy.ChatEventType.CONVERSATION_CHAT_REQUIRES_ACTION
        calls = waits.chat.required_action.submit_tool_outputs.tool_calls
        outputs = [cozepy.ToolOutput(tool_call_id=call.id, output="ok") for call in calls]
        ids = {"conversation_id": waits.chat.conversation_id, "chat_id": waits.chat.id}
        return list(coze.chat.submit_tool_outputs(**ids, tool_outputs=outputs, stream=True))

    events = await asyncio.to_thread(act)
    assert events[-1].event == cozepy.ChatEventType.CONVERSATION_CHAT_COMPLETED


async def test_cozepy_talks_to_a_chatflow(coze: cozepy.Coze) -> None:
    message = f"/fault plain {QUESTION}"
    question = cozepy.Message.build_user_question_text(message)
    flow: dict[str, Any] = {"workflow_id": "75", "additional_messages": [question], "parameters": {"city": "上海"}}
    events = await asyncio.to_thread(lambda: list(coze.workflows.chat.stream(**flow)))
    deltas = [e.message.content for e in events if e.event == cozepy.ChatEventType.CONVERSATION_MESSAGE_DELTA]
    assert "".join(deltas) == whole_text(message)
    chat = events[-1].chat
    assert (chat.status, chat.bot_id) == (cozepy.ChatStatus.COMPLETED, None)
    ids = {"conversation_id": chat.conversation_id, "chat_id": chat.id}
    assert (await asyncio.to_thread(lambda: coze.chat.retrieve(**ids))).status == cozepy.ChatStatus.COMPLETED


def said(events: list[Any]) -> str:
    return "".join(event.message.content for event in events if event.event == cozepy.WorkflowEventType.MESSAGE)


async def test_cozepy_runs_a_workflow(coze: cozepy.Coze) -> None:
    message = f"/fault plain {QUESTION}"
    run: dict[str, Any] = {"workflow_id": "75", "parameters": {"input": message}}
    events = await asyncio.to_thread(lambda: list(coze.workflows.runs.stream(**run)))
    assert said(events) == whole_run(message)
    assert events[-1].message.node_title == "End"  # their client keeps `Done` to itself


async def test_cozepy_answers_an_interrupt(coze: cozepy.Coze) -> None:
    message = f"/fault action plain {QUESTION}"

    def act() -> tuple[list[Any], list[Any]]:
        first = list(coze.workflows.runs.stream(workflow_id="75", parameters={"input": message}))
        asked = first[-1].interrupt.interrupt_data
        answer: dict[str, Any] = {"event_id": asked.event_id, "interrupt_type": asked.type, "resume_data": "上海"}
        return first, list(coze.workflows.runs.resume(workflow_id="75", **answer))

    first, rest = await asyncio.to_thread(act)
    assert first[-1].event == cozepy.WorkflowEventType.INTERRUPT
    assert (said(first), said(rest)) == (whole_run(message), whole_run(message, answer="上海"))


async def test_cozepy_sees_a_workflow_fail_and_be_refused(coze: cozepy.Coze) -> None:
    def run(message: str) -> list[Any]:
        return list(coze.workflows.runs.stream(workflow_id="75", parameters={"input": message}))

    [failed] = await asyncio.to_thread(lambda: run("/fault failed-first:4000 x"))
    assert (failed.event, failed.error.error_code) == (cozepy.WorkflowEventType.ERROR, 4000)
    with pytest.raises(cozepy.CozeAPIError) as raised:
        await asyncio.to_thread(lambda: run("/fault code:4009 x"))
    assert raised.value.code == 4009


async def test_cozepy_makes_a_conversation(coze: cozepy.Coze) -> None:
    made = await asyncio.to_thread(lambda: coze.conversations.create(meta_data={"k": "v"}))
    again = await asyncio.to_thread(lambda: coze.conversations.retrieve(conversation_id=made.id))
    assert made.id == again.id
    assert again.meta_data == {"k": "v"}


@pytest.mark.parametrize(
    ("message", "code"), [("/fault code:4016 x", 4016), ("/fault status:401 x", 4100), ("/fault nosuch x", 4000)]
)
async def test_cozepy_sees_coze_s_errors(coze: cozepy.Coze, message: str, code: int) -> None:
    with pytest.raises(cozepy.CozeAPIError) as raised:
        await asyncio.to_thread(lambda: list(coze.chat.stream(**asked(message))))
    assert raised.value.code == code
    assert len(raised.value.logid or "") == 34


@pytest.fixture(scope="session")
def node_modules(require: Require, pytestconfig: pytest.Config) -> Path:
    """A folder in which the package is installed: the cache of pytest, so that only the first run fetches it."""
    require("node")
    folder = Path(pytestconfig.cache.mkdir("coze-api"))
    if not (folder / "node_modules" / "@coze" / "api" / "package.json").exists():
        flags = ("--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock", "--prefix", str(folder))
        command = (require("npm"), "install", *flags, NODE_PACKAGE)
        try:
            npm = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm did not install {NODE_PACKAGE} within 240 s")
        if npm.returncode != 0:
            pytest.skip(f"npm could not install {NODE_PACKAGE}: {npm.stderr[-300:]}")
    return folder / "node_modules"


@pytest.mark.timeout(300)
async def test_coze_s_client_for_node_streams_and_polls(
    simulated: Caller, node_modules: Path, require: Require
) -> None:
    seen = await seen_by_node(NODE_SCRIPT, node_modules, require, simulated.simulator.url, QUESTION, within=60)
    assert seen["events"][0] == "conversation.chat.created"
    assert seen["events"][-2:] == ["conversation.chat.completed", "done"]
    assert seen["streamed"] == whole_text(QUESTION)
    assert seen["status"] == "completed"
    assert seen["polled"] == [whole_text(QUESTION)]
    assert seen["refused"] == 4016
    assert seen["ran"] == whole_run(QUESTION)


async def test_cozepy_uploads_a_file_and_looks_it_up(coze: cozepy.Coze) -> None:
    file = await asyncio.to_thread(lambda: coze.files.upload(file=("图.png", b"x" * 100_000)))
    assert (file.bytes, file.file_name) == (100_000, "图.png")
    again = await asyncio.to_thread(lambda: coze.files.retrieve(file_id=file.id))
    assert again.created_at == file.created_at
