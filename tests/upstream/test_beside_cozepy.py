"""Everything that Coze says in a chat, read by the gateway in any chunking and by Coze's own client in one piece."""

import asyncio
import json
import random
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.events import Event, Message, Text
from gateway.upstream.coze_protocol import ChatReader
from gateway.upstream.protocol import (
    ActionRequired,
    Answer,
    Audio,
    ChatCompleted,
    ChatFailed,
    Created,
    Delta,
    Done,
    Item,
    Reasoning,
    Skipped,
    StreamEnd,
    Suggestion,
    Tool,
)
from gateway.upstream.sse import SseDecoder
from tests.turns import fold, new_turn
from tests.upstream.servers import SAMPLES, sample, serving, streaming

with warnings.catch_warnings(record=True):
    import cozepy  # a module of authlib that it imports warns

CHAT = {"id": "7569312240118861864", "conversation_id": "7569312240118845480", "bot_id": "7561209983316475943"}
CREATED = ("conversation.chat.created", CHAT | {"status": "created"})
COMPLETED = ("conversation.chat.completed", CHAT | {"status": "completed", "usage": {"token_count": 3}})
DONE = ("done", "[DONE]")
QUESTION = {"id": "", "type": "reply_message", "function": None, "require_info": None}
TOOL = {"id": "BUJJ=", "type": "function", "function": {"name": "light", "arguments": '{"id":7561201144273518632}'}}


def message(name: str, number: int, content: str, **fields: Any) -> tuple[str, Any]:
    shown = {"role": "assistant", "type": "answer", "content_type": "text", "chat_id": CHAT["id"]}
    return f"conversation.{name}", {"id": f"756931225840568{number:04}", **shown, "content": content, **fields}


def delta(number: int, content: str, **fields: Any) -> tuple[str, Any]:
    return message("message.delta", number, content, **fields)


def whole(number: int, content: str, **fields: Any) -> tuple[str, Any]:
    return message("message.completed", number, content, **fields)


def waits(*calls: Any, **fields: Any) -> tuple[str, Any]:
    action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": list(calls)}}
    return "conversation.chat.requires_action", CHAT | {"status": "requires_action", "required_action": action} | fields


def usage(value: Any) -> list[tuple[str, Any]]:
    return [
        CREATED,
        whole(1, "好"),
        ("conversation.chat.completed", CHAT | {"status": "completed", "usage": value}),
        DONE,
    ]


OBJECTS = json.dumps([{"type": "text", "text": "看图"}, {"type": "image", "file_id": "7569312258405687350"}])
CALL = '{"name":"a-b","arguments":{"q":"湖"},"plugin_id":7561201144273518632,"plugin_type":1,"thought":"hm"}'

MADE: dict[str, list[tuple[str, Any]]] = {
    "audio, also after the end": [
        CREATED,
        delta(1, "好"),
        message("audio.delta", 1, "UklGRg==", content_type="audio"),
        whole(1, "好"),
        COMPLETED,
        message("audio.delta", 1, "AAAA", content_type="audio"),
        message("audio.delta", 1, "BBBB", content_type="audio"),
        DONE,
    ],
    "an object_string": [CREATED, whole(1, OBJECTS, content_type="object_string"), COMPLETED, DONE],
    "a card between two answers": [
        CREATED,
        delta(1, "一"),
        whole(1, "一"),
        whole(2, '{"card_type":3}', content_type="card"),
        delta(3, "二"),
        whole(3, "二"),
        COMPLETED,
        DONE,
    ],
    "knowledge, tools, verbose": [
        CREATED,
        whole(1, '{"msg_type":"knowledge_recall","data":"{}","from_module":null}', type="verbose"),
        whole(2, "recalled", type="knowledge"),
        whole(3, CALL, type="function_call"),
        whole(4, CALL[:40], type="function_call"),
        whole(5, '{"code":0}', type="tool_response"),
        whole(6, "text", type="tool_output"),
        whole(7, "{}", type="tool_response", content_type="card"),
        delta(8, "好"),
        whole(8, "好"),
        whole(9, "And?", type="follow_up"),
        whole(10, "And?", type="follow_up"),
        COMPLETED,
        DONE,
    ],
    "reasoning and text in one record": [
        CREATED,
        delta(1, "", reasoning_content="hm"),
        delta(1, "\n\n", reasoning_content="."),
        delta(1, '👩‍👩‍👧 \\ " & < >'),
        whole(1, '\n\n👩‍👩‍👧 \\ " & < >'),
        COMPLETED,
        DONE,
    ],
    "rewritten, and whole without a piece": [
        CREATED,
        delta(1, "50$\\%$"),
        whole(1, "50%"),
        whole(2, "all at once"),
        COMPLETED,
        DONE,
    ],
    "a question": [CREATED, delta(1, "Which"), whole(1, "Which city?"), waits(QUESTION), DONE],
    "a question as a card": [CREATED, whole(1, '{"card_type":3}', content_type="card"), waits(QUESTION), DONE],
    "a question in the call": [
        CREATED,
        waits(QUESTION | {"function": {"name": "ask", "arguments": '{"question":"Which?"}'}}),
        DONE,
    ],
    "a question beside a tool": [CREATED, whole(1, "Which?"), waits(TOOL, QUESTION), DONE],
    "a question without a call": [
        CREATED,
        whole(1, "Which?"),
        ("conversation.chat.requires_action", CHAT | {"status": "requires_action"}),
        DONE,
    ],
    "a failure whose code is 0": [
        CREATED,
        ("conversation.chat.failed", CHAT | {"status": "failed", "last_error": {"code": 0, "msg": "no"}}),
    ],
    "no usage": usage(None),
    "empty usage": usage({}),
    "usage of zeros": usage({"token_count": 0, "output_count": 0, "input_count": 0}),
    "usage in part": usage({"token_count": 9}),
}
"""What the samples don't show, in the same form."""


def text_of(records: list[tuple[str, Any]]) -> bytes:
    lines = (f"event:{name}\ndata:{json.dumps(data, ensure_ascii=False)}\n\n" for name, data in records)
    return "".join(lines).encode()


STREAMS = {path.name: path.read_bytes() for path in sorted(SAMPLES.glob("*.sse")) if not path.name.startswith("work")}
STREAMS |= {name: text_of(records) for name, records in MADE.items()}
OTHER_FORM = {"v2-chat.sse", "v2-chat-error.sse"}
"""Coze's client reads only the newer form of the API."""


# -- what Coze's client makes of it


async def theirs(text: bytes) -> list[Item]:
    async with serving(streaming(text)) as server:
        return await asyncio.to_thread(lambda: list(_told(server.url)))


def _told(url: str) -> Iterator[Item]:
    created = False
    with cozepy.SyncHTTPClient() as http:
        client: Any = cozepy.Coze(cozepy.TokenAuth("pat_x"), url, http)
        events = client.chat.stream(bot_id="b", user_id="u")
        while True:
            try:
                event = next(events)
            except StopIteration:
                return
            except ValidationError as error:  # it expects every failure in a chat's form
                flat: Any = error.errors()[0]["input"]
                yield ChatFailed(int(flat["code"]), flat["msg"], exists=True)
                return
            except Exception as error:
                if not (raised := re.fullmatch(r"error event: (.*)", str(error))):
                    raise
                said = json.loads(raised[1])
                yield ChatFailed(said["code"], said["msg"])
                return
            if event.chat is not None and not created:
                created = True
                yield Created(event.chat.id, event.chat.conversation_id)
            yield from _message(event) if event.message is not None else _chat(event)


def _message(event: Any) -> Iterator[Item]:
    said = event.message
    identity, content, kind = said.id, said.content, said.content_type.value
    if event.event == cozepy.ChatEventType.CONVERSATION_AUDIO_DELTA:
        yield Audio(content)
    elif event.event == cozepy.ChatEventType.CONVERSATION_MESSAGE_DELTA:
        if said.reasoning_content:
            yield Reasoning(identity, said.reasoning_content)
        if content:
            yield Delta(identity, content)
    elif said.type == cozepy.MessageType.ANSWER:
        yield Answer(identity, content, kind)
    elif said.type == cozepy.MessageType.FUNCTION_CALL:
        if '"plugin_type":6' not in content:
            name = re.match(r'\{"name":"([^"]+)"', content)
            yield Tool(identity, "call", name[1] if name else "", content)
    elif said.type in (cozepy.MessageType.TOOL_RESPONSE, cozepy.MessageType.TOOL_OUTPUT):
        yield Tool(identity, "output", "", content)
    elif said.type == cozepy.MessageType.FOLLOW_UP:
        yield Suggestion(identity, content)


def _chat(event: Any) -> Iterator[Item]:
    chat = event.chat
    match event.event:
        case cozepy.ChatEventType.CONVERSATION_CHAT_COMPLETED:
            used = chat.usage and chat.usage.model_dump(exclude_unset=True)
            yield ChatCompleted(used or None)
        case cozepy.ChatEventType.CONVERSATION_CHAT_FAILED:
            yield ChatFailed(chat.last_error.code or None, chat.last_error.msg, exists=True)
        case cozepy.ChatEventType.CONVERSATION_CHAT_REQUIRES_ACTION:
            action = chat.required_action
            calls = action.submit_tool_outputs.tool_calls if action is not None else []
            asks = [call for call in calls if call.type == cozepy.ChatToolCallType.REPLY_MESSAGE]
            words = [json.loads(call.function.arguments)["question"] for call in asks if call.function]
            tools = [call.model_dump(mode="json", exclude_unset=True) for call in calls if call not in asks]
            for tool in tools:
                tool.setdefault("require_info", None)  # a field that the client leaves out
            yield ActionRequired(tools, "".join(words) if asks else None)
        case _:
            pass


def told(items: list[Item]) -> list[Item]:
    """The items that Coze's client has, too: it doesn't tell of the end of the stream."""
    shown = [item for item in items if not isinstance(item, Done | Skipped)]
    return [
        ActionRequired([{"require_info": None, **call} for call in item.tool_calls], item.question, item.usage)
        if isinstance(item, ActionRequired)
        else item
        for item in shown
    ]


# -- what the gateway makes of it


def read(*chunks: bytes) -> list[list[Item]]:
    """The items of each chunk."""
    decoder, reader = SseDecoder(), ChatReader()
    return [reader.items(decoder.feed(chunk)) for chunk in chunks]


def flat(batches: list[list[Item]]) -> list[Item]:
    return [item for items in batches for item in items]


def shortened(text: bytes) -> bytes:
    """The stream with only some of its pieces, so that it can be cut at each of its bytes."""
    records = text.split(b"\n\n")
    pieces = [at for at, record in enumerate(records) if b"message.delta" in record[:40]]
    left_out = set(pieces[2:-2])
    return b"\n\n".join(record for at, record in enumerate(records) if at not in left_out)


def at_random(text: bytes, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    most = rng.choice([3, 40, 700, 5000])
    chunks, at = [], 0
    while at < len(text):
        size = rng.randint(1, most)
        chunks.append(text[at : at + size])
        at += size
    return chunks


@pytest.mark.filterwarnings("ignore:Unknown MessageType value")  # it doesn't know `knowledge`
@pytest.mark.parametrize("name", [name for name in STREAMS if name not in OTHER_FORM])
async def test_the_gateway_reads_what_cozes_own_client_reads(name: str) -> None:
    text = STREAMS[name]
    ours = read(text)
    unreadable = [record for record in text.split(b"\n\n") if Skipped("malformed") in flat(read(record + b"\n\n"))]
    readable = text
    for record in unreadable:  # Coze's client gives up on the record that is no JSON
        readable = readable.replace(record + b"\n\n", b"")
    assert len(unreadable) == (name == "recorded-reasoning.sse")
    assert told(flat(ours)) == await theirs(readable)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_cut_in_two_at_any_byte_says_the_same(name: str) -> None:
    text = shortened(STREAMS[name])
    wanted = flat(read(text))
    assert wanted
    for at in range(1, len(text)):
        assert flat(read(text[:at], text[at:])) == wanted, at


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_in_any_chunks_gives_the_same_turn(name: str) -> None:
    text = STREAMS[name]
    wanted = outcome([flat(read(text))])
    assert wanted == outcome(read(*(text[at : at + 1] for at in range(len(text)))))
    for seed in range(20 if len(text) < 30_000 else 3):
        assert outcome(read(*at_random(text, seed))) == wanted, seed


def outcome(batches: list[list[Item]]) -> Any:
    """Everything that readers of a turn are given, however many pieces the text comes in."""
    turn = new_turn()
    events: list[Event] = [event for items in batches for event in turn.take(items)]
    if turn.phase != "ended":
        events += turn.stream_ended(StreamEnd.FINISHED)
    assert fold(events) == turn.content
    others = [event for event in events if not isinstance(event, Text) and not _replaces(event)]
    return turn.phase, turn.content, turn.reasoning, others


def _replaces(event: Event) -> bool:
    return isinstance(event, Message) and event.replace


def test_what_a_turn_shows_of_each_kind() -> None:
    """The comparison above would also hold for nothing."""
    kinds = {type(event) for text in STREAMS.values() for event in outcome([flat(read(text))])[3]}
    assert {kind.__name__ for kind in kinds} == {
        "ActionNeeded",
        "AudioPiece",
        "Completed",
        "Failed",
        "FollowUp",
        "Message",
        "ToolUse",
    }


def test_a_local_plugin_is_told_once_as_the_action() -> None:
    events = new_turn().take(flat(read(sample("chat-requires-action.sse"))))
    assert [type(event).__name__ for event in events] == ["ActionNeeded"]
