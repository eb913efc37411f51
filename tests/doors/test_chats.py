"""Coze's own client for Python against the door: chats, streamed and polled."""

import asyncio
from typing import Any

import pytest

from gateway.simulator import whole_text
from gateway.simulator.faults import ASKING, Fault
from tests.doors.clients import CUTS, QUESTION, asked, cozepy, cut_after, text_of
from tests.doors.conftest import TOKEN, Door

Event = cozepy.ChatEventType


SAID = ["plain", "reasoning", "tool", "multi", "audio", "card-only", "empty", "crlf", "no-done", "action question"]


@pytest.mark.parametrize("faults", [*SAID, *sorted(ASKING)])
async def test_the_stream_is_the_one_that_coze_sent(coze: cozepy.Coze, door: Door, faults: str) -> None:
    message = f"/fault {faults} {QUESTION}"
    events = await asyncio.to_thread(lambda: list(coze.chat.stream(**asked(message))))
    with cozepy.SyncHTTPClient() as http:
        straight = cozepy.Coze(cozepy.TokenAuth("x"), door.simulator.url, http)
        directly = await asyncio.to_thread(lambda: list(straight.chat.stream(**asked(message))))
    assert told(events) == told(directly)
    assert text_of(events) == text_of(directly)
    assert door.simulator.chats_started == 2


def told(events: list[cozepy.ChatEvent]) -> list[Any]:
    """The events without what differs from chat to chat; consecutive pieces of one kind as one."""
    found: list[Any] = []
    for event in events:
        if event.message is not None:
            kind = "reasoning" if event.message.reasoning_content else event.message.type
            one = (event.event, kind, event.message.content_type)
            if event.event == Event.CONVERSATION_MESSAGE_COMPLETED:
                found.append((*one, event.message.content))
            elif not found or found[-1] != one:
                found.append(one)
        elif event.chat is not None:
            found.append((event.event, event.chat.status, event.chat.usage and event.chat.usage.token_count))
        else:
            found.append(event.event)
    return found


def assert_whole(events: list[cozepy.ChatEvent], message: str) -> None:
    """These are the events of a chat that was cut upstream, without a gap and without a repetition."""
    completed = [e.message for e in events if e.event == Event.CONVERSATION_MESSAGE_COMPLETED and e.message]
    answers = [m.content for m in completed if m.type == cozepy.MessageType.ANSWER and m.content_type == "text"]
    assert "\n\n".join(answers) == whole_text(message)
    assert text_of(events) == "".join(answers)
    assert len({m.id for m in completed}) == len(completed)
    last = events[-1]
    assert last.event == Event.CONVERSATION_CHAT_COMPLETED
    assert last.chat is not None
    assert last.chat.usage is not None
    assert last.chat.usage.token_count > 0
    assert [m.type for m in completed].count(cozepy.MessageType.FOLLOW_UP) == 3


@pytest.mark.parametrize("pieces", CUTS)
async def test_a_cut_upstream_is_one_unbroken_stream(coze: cozepy.Coze, door: Door, pieces: int) -> None:
    message = cut_after(pieces)
    assert_whole(await asyncio.to_thread(lambda: list(coze.chat.stream(**asked(message)))), message)
    assert door.simulator.chats_started == 1
    assert door.simulator.faults_fired[Fault.DROP_AFTER] == 1


async def test_the_asynchronous_client_gets_an_unbroken_stream_wherever_the_upstream_is_cut(door: Door) -> None:
    async with cozepy.AsyncHTTPClient() as http:
        coze = cozepy.AsyncCoze(cozepy.AsyncTokenAuth(TOKEN), door.url, http)

        async def read(message: str) -> None:
            assert_whole([event async for event in coze.chat.stream(**asked(message))], message)

        await asyncio.gather(*(read(cut_after(pieces)) for pieces in CUTS))
    assert door.simulator.chats_started == len(CUTS)
    assert door.simulator.faults_fired[Fault.DROP_AFTER] == len(CUTS)


async def test_create_and_poll_ends_with_the_whole_answer(coze: cozepy.Coze, door: Door) -> None:
    poll = await asyncio.to_thread(lambda: coze.chat.create_and_poll(**asked(QUESTION)))
    assert poll.chat.status == cozepy.ChatStatus.COMPLETED
    assert poll.messages is not None
    answers = [message.content for message in poll.messages if message.type == cozepy.MessageType.ANSWER]
    assert answers == [whole_text(QUESTION)]
    assert door.simulator.requests["retrieve"] == 0


async def test_a_chat_is_cancelled_here_and_at_coze(coze: cozepy.Coze, door: Door) -> None:
    def cancel() -> list[cozepy.Chat]:
        chat = coze.chat.create(**asked("/fault rate:1 x"))
        ids = {"conversation_id": chat.conversation_id, "chat_id": chat.id}
        return [chat, coze.chat.cancel(**ids), coze.chat.retrieve(**ids)]

    chats = await asyncio.to_thread(cancel)
    assert [chat.status for chat in chats] == ["in_progress", "canceled", "canceled"]
    await door.served.balanced()
    assert door.simulator.requests["cancel"] == 1


async def test_a_chat_without_an_answer_is_completed_as_coze_said(coze: cozepy.Coze) -> None:
    poll = await asyncio.to_thread(lambda: coze.chat.create_and_poll(**asked("/fault empty x")))
    assert poll.chat.status == cozepy.ChatStatus.COMPLETED


async def test_a_chat_that_coze_has_completed_ends_once_and_cannot_be_cancelled_any_more(
    coze: cozepy.Coze, door: Door
) -> None:
    def read() -> tuple[list[cozepy.ChatEventType], int | None]:
        seen: list[cozepy.ChatEventType] = []
        code: int | None = None
        for event in coze.chat.stream(**asked("/fault rate:0 plain no-done hold-open:600 x")):
            seen.append(event.event)
            if event.chat is not None and event.event == Event.CONVERSATION_CHAT_COMPLETED:
                with pytest.raises(cozepy.CozeAPIError) as refused:
                    coze.chat.cancel(conversation_id=event.chat.conversation_id, chat_id=event.chat.id)
                code = refused.value.code
        return seen, code

    seen, code = await asyncio.to_thread(read)
    assert code == 4104
    assert seen[-1] == Event.CONVERSATION_CHAT_COMPLETED
    assert door.simulator.requests["cancel"] == 0


async def test_tool_outputs_go_on_in_a_stream_of_their_own(coze: cozepy.Coze) -> None:
    def act() -> tuple[list[cozepy.ChatEvent], list[cozepy.ChatEvent]]:
        first = list(coze.chat.stream(**asked("/fault action 开灯")))
        waits = first[-1].chat
        calls = waits.required_action.submit_tool_outputs.tool_calls
        outputs = [cozepy.ToolOutput(tool_call_id=call.id, output="ok") for call in calls]
        ids = {"conversation_id": waits.conversation_id, "chat_id": waits.id}
        return first, list(coze.chat.submit_tool_outputs(**ids, tool_outputs=outputs, stream=True))

    first, second = await asyncio.to_thread(act)
    assert first[-1].event == Event.CONVERSATION_CHAT_REQUIRES_ACTION
    assert second[0].event == Event.CONVERSATION_CHAT_IN_PROGRESS
    assert second[-1].event == Event.CONVERSATION_CHAT_COMPLETED
    assert "ok" in text_of(second)


async def test_a_conversation_goes_on_by_coze_s_own_id_of_it(coze: cozepy.Coze, door: Door) -> None:
    def talk(**more: Any) -> cozepy.Chat:
        chat: cozepy.Chat | None = list(coze.chat.stream(**asked("你好"), **more))[-1].chat
        assert chat is not None
        return chat

    first = await asyncio.to_thread(talk)
    second = await asyncio.to_thread(talk, conversation_id=first.conversation_id)
    assert first.conversation_id == second.conversation_id
    assert first.id != second.id
    rows = await door.served.services.store.coze.conversations_named(first.conversation_id)
    assert len(rows) == 1


async def test_a_busy_conversation_is_4016_under_200(coze: cozepy.Coze, door: Door) -> None:
    chat = await asyncio.to_thread(lambda: coze.chat.create(**asked("/fault rate:1 x")))
    body = {"bot_id": "b", "user_id": "u", "stream": True, "additional_messages": []}
    path = f"/v3/chat?conversation_id={chat.conversation_id}"
    status, headers, answer = await door.served.post(path, body, Authorization=f"Bearer {TOKEN}")
    assert (status, answer["code"]) == (200, 4016)
    assert headers["Content-Type"].startswith("application/json")
    assert headers["X-Tt-Logid"] == answer["detail"]["logid"]


@pytest.mark.parametrize(("message", "code"), [("/fault code:4015 x", 4015), ("/fault nosuch x", 4000)])
async def test_coze_s_refusals_come_with_its_code_and_log_id(coze: cozepy.Coze, message: str, code: int) -> None:
    with pytest.raises(cozepy.CozeAPIError) as raised:
        await asyncio.to_thread(lambda: list(coze.chat.stream(**asked(message))))
    assert raised.value.code == code
    assert len(raised.value.logid or "") == 34
