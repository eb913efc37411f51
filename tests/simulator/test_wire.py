"""What the simulated Coze sends, against what the real one was recorded to send."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator import whole_text
from tests.simulator.caller import Caller, deltas, exact_records

SAMPLES = Path(__file__).parent.parent / "coze"


def shapes(records: list[tuple[str, Any]]) -> dict[tuple[str, str, bool], list[str]]:
    """The keys, in their order, of each kind of record: by event, type of message, and whether it reasons."""
    return {
        (event, data.get("type", ""), "reasoning_content" in data): list(data)
        for event, data in records
        if isinstance(data, dict)
    }


@pytest.mark.parametrize(
    ("sample", "faults"),
    [
        ("chat-plain.sse", "plain"),
        ("chat-reasoning.sse", "reasoning"),
        ("chat-tool-call.sse", "tool"),
        ("chat-multi-answer.sse", "multi plain"),
        ("chat-requires-action.sse", "action"),
        ("chat-failed.sse", "failed:5000 plain"),
        ("chat-error-event.sse", "error-event:4013 plain"),
        ("studio-chat.sse", "studio plain"),
    ],
)
async def test_each_kind_of_record_has_the_recorded_keys_in_the_recorded_order(
    caller: Caller, sample: str, faults: str
) -> None:
    recorded = (SAMPLES / sample).read_bytes()
    sent = await caller.stream(f"/fault {faults} 你好")
    if "studio" in sample:
        assert sent.endswith(b"event:conversation.stream.done\ndata:\n\n")
        recorded, sent = (stream[: stream.rindex(b"event:")] for stream in (recorded, sent))
    theirs, ours = shapes(exact_records(recorded)), shapes(exact_records(sent))
    common = theirs.keys() & ours.keys()
    assert len(common) >= 3
    # The plug-in's sample has a field that only chats with earlier messages have.
    optional = {"inserted_additional_messages"}
    for kind in common:
        assert ours[kind] == [key for key in theirs[kind] if key not in optional], kind


async def test_the_older_shape_has_the_recorded_keys_and_numbers_every_frame(caller: Caller) -> None:
    recorded = (SAMPLES / "v2-chat.sse").read_bytes()
    sent = await caller.stream("/fault v2 plain 你好")

    def frames(stream: bytes) -> list[dict[str, Any]]:
        records = stream.split(b"\n\n")
        assert records.pop() == b""
        assert all(record.startswith(b"data:{") for record in records)
        return [json.loads(record[5:]) for record in records]

    theirs, ours = frames(recorded), frames(sent)
    assert list(ours[0]) == list(theirs[0])
    assert list(ours[0]["message"]) == list(theirs[0]["message"])
    assert ours[-1] == theirs[-1] == {"event": "done"}
    assert [frame["seq_id"] for frame in ours[:-1]] == list(range(len(ours) - 1))
    answer = [frame for frame in ours[:-1] if frame["message"]["type"] == "answer"]
    assert [frame["is_finish"] for frame in answer] == [False] * (len(answer) - 1) + [True]
    assert "".join(frame["message"]["content"] for frame in answer) == whole_text("/fault plain 你好")


async def test_a_turn_is_created_in_progress_deltas_the_whole_its_follow_ups_completed_and_done(
    caller: Caller,
) -> None:
    records = await caller.records("/fault plain 你好")
    events = [event.removeprefix("conversation.") for event, _ in records]
    pieces = events.count("message.delta")
    assert pieces > 100
    assert events == [
        "chat.created",
        "chat.in_progress",
        *["message.delta"] * pieces,
        *["message.completed"] * 5,
        "chat.completed",
        "done",
    ]
    kinds = [data["type"] for event, data in records if event == "conversation.message.completed"]
    assert kinds == ["answer", "verbose", "follow_up", "follow_up", "follow_up"]
    assert records[-1][1] == "[DONE]"
    whole = next(data for _, data in records if isinstance(data, dict) and "created_at" in data and "type" in data)
    assert deltas(records) == whole["content"] == whole_text("/fault plain 你好")


async def test_ids_are_decimal_strings_of_19_digits_and_never_given_twice(caller: Caller) -> None:
    seen: list[str] = []
    for _ in range(5):
        records = await caller.records("/fault pieces:1 x")
        chat = records[0][1]
        messages = {data["id"] for event, data in records if event == "conversation.message.completed"}
        seen += [chat["id"], chat["conversation_id"], *messages]
    assert all(re.fullmatch(r"[1-9][0-9]{18}", identity) for identity in seen)
    assert len(set(seen)) == len(seen)


async def test_every_answer_names_its_log_id_in_the_header_and_json_also_in_its_body(caller: Caller) -> None:
    form = re.compile(r"[0-9]{14}[0-9A-F]{20}")
    async with caller.post("/fault pieces:1 x") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert form.fullmatch(response.headers["X-Tt-Logid"])
        await response.read()
    async with caller.post("/fault code:4009 x") as response:
        assert response.content_type == "application/json"
        body = await response.json()
        assert list(body) == ["code", "msg", "detail"]
        assert body["detail"] == {"logid": response.headers["X-Tt-Logid"]}
        assert form.fullmatch(body["detail"]["logid"])


async def test_a_stream_begins_with_its_conversation_and_an_empty_one_in_the_query_is_none(caller: Caller) -> None:
    first = (await caller.records("/fault pieces:1 x", conversation_id=""))[0][1]
    second = (await caller.records("/fault pieces:1 x", conversation_id=first["conversation_id"]))[0][1]
    assert second["conversation_id"] == first["conversation_id"]
    assert second["id"] != first["id"]


async def test_without_stream_the_chat_is_in_progress_and_retrieve_takes_both_methods(caller: Caller) -> None:
    async with caller.post("/fault pieces:2 x", stream=False) as response:
        body = await response.json()
    sample = json.loads((SAMPLES / "chat-created.json").read_bytes())
    assert list(body) == list(sample)
    assert body["data"]["status"] == "in_progress"
    chat = body["data"]
    ids = {"conversation_id": chat["conversation_id"], "chat_id": chat["id"]}
    by_get = await caller.ask("GET", "/v3/chat/retrieve", params=ids)
    by_post = await caller.ask("POST", "/v3/chat/retrieve", params=ids)
    assert by_get[0] == by_post[0] == 200
    assert by_get[1]["data"] == by_post[1]["data"]
    sample = json.loads((SAMPLES / "retrieve.json").read_bytes())
    assert list(by_get[1]) == list(sample)
    assert by_get[1]["data"]["status"] == "completed"
    assert set(sample["data"]) <= set(by_get[1]["data"])
    assert list(by_get[1]["data"]) == sorted(by_get[1]["data"])


async def test_the_list_holds_what_the_stream_completed_with_the_recorded_keys(caller: Caller) -> None:
    records = await caller.records("/fault tool 你好")
    listed = await caller.messages(records[0][1])
    streamed = [data for event, data in records if event == "conversation.message.completed"]
    fields = ("id", "type", "content", "content_type", "chat_id")
    assert [[m[f] for f in fields] for m in listed] == [[m[f] for f in fields] for m in streamed]
    sample = json.loads((SAMPLES / "message-list.json").read_bytes())
    assert list(listed[0]) == list(sample["data"][0])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v3/chat/retrieve"),
        ("GET", "/v3/chat/message/list"),
        ("POST", "/v3/chat/cancel"),
        ("POST", "/v1/conversation/create"),
    ],
)
async def test_the_token_invalid_is_401_for_calls_that_do_not_stream(caller: Caller, method: str, path: str) -> None:
    status, body = await caller.ask(method, path, token="invalid", json={} if method == "POST" else None)
    assert (status, body["code"]) == (401, 700012006)


async def test_the_token_invalid_is_a_200_with_json_for_a_chat_that_streams(caller: Caller) -> None:
    async with caller.post("x", token="invalid") as response:
        assert (response.status, (await response.json())["code"]) == (200, 4101)
    async with caller.post("x", token="invalid", stream=False) as response:
        assert (response.status, (await response.json())["code"]) == (401, 700012006)
    assert caller.simulator.chats_started == 0


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"bot_id": ""}, 4000),
        ({"user_id": None}, 4000),
        ({"additional_messages": "x"}, 4000),
        ({"additional_messages": [{"role": "user", "content": "x"}] * 101}, 4004),
        ({"meta_data": {"a": 1}}, 4003),
        ({"meta_data": {"": "v"}}, 4003),
        ({"meta_data": {"k": ""}}, 4003),
        ({"meta_data": {"k" * 65: "v"}}, 4003),
        ({"meta_data": {"k": "v" * 513}}, 4003),
        ({"meta_data": {str(number): "v" for number in range(17)}}, 4003),
        ({"custom_variables": {"a": 1}}, 4000),
        ({"parameters": "{}"}, 4000),
        ({"enable_card": "yes"}, 4000),
        ({"shortcut_command": {"parameters": {}}}, 4000),
        ({"shortcut_command": {"command_id": "7", "parameters": {"a": 1}}}, 4000),
        ({"additional_messages": [{"role": "system", "content": "x"}]}, 4000),
        ({"additional_messages": [{"role": "assistant", "type": "function_call", "content": "x"}]}, 4000),
        ({"additional_messages": [{"role": "user", "content": "x", "content_type": "card"}]}, 4000),
        ({"additional_messages": [{"role": "user", "content": 7}]}, 4000),
        *(
            ({"additional_messages": [{"role": "user", "content": content, "content_type": "object_string"}]}, 4000)
            for content in (
                "look",
                "{}",
                "[]",
                '[{"type":"text","text":"alone"}]',
                '[{"type":"text","text":"a"},{"type":"text","text":"b"},{"type":"file","file_id":"7"}]',
                '[{"type":"image"}]',
                '[{"type":"film","file_id":"7"}]',
            )
        ),
        ({"conversation_id": "conv_x"}, 4002),
        ({"stream": False, "auto_save_history": False}, 4007),
    ],
)
async def test_a_wrong_request_gets_coze_s_code_in_a_200(caller: Caller, fields: dict[str, Any], code: int) -> None:
    async with caller.post("x", **fields) as response:
        assert (response.status, (await response.json())["code"]) == (200, code)


async def test_a_body_that_is_no_json_is_4000(caller: Caller) -> None:
    for body in (b"", b"{", b"[1]", b"\xff", b"[" * 100_000):
        status, answer = await caller.ask("POST", "/v3/chat", data=body)
        assert (status, answer["code"]) == (200, 4000)


async def test_an_unknown_path_is_404_with_code_4000(caller: Caller) -> None:
    for method, path in (("GET", "/v3/nothing"), ("GET", "/v3/chat"), ("DELETE", "/v3/chat/cancel")):
        status, body = await caller.ask(method, path)
        assert (status, body["code"]) == (404, 4000)


async def test_an_unknown_chat_is_4001(caller: Caller) -> None:
    chat = (await caller.records("/fault pieces:1 x"))[0][1]
    for wrong in ({"chat_id": "1"}, {"conversation_id": "1"}):
        ids = {"conversation_id": chat["conversation_id"], "chat_id": chat["id"]} | wrong
        assert (await caller.ask("GET", "/v3/chat/retrieve", params=ids))[1]["code"] == 4001


async def test_a_conversation_is_created_and_retrieved(caller: Caller) -> None:
    status, body = await caller.ask("POST", "/v1/conversation/create", json={"meta_data": {"k": "v"}, "name": "n"})
    assert status == 200
    made = body["data"]
    assert (made["meta_data"], made["name"]) == ({"k": "v"}, "n")
    query = {"conversation_id": made["id"]}
    assert (await caller.ask("GET", "/v1/conversation/retrieve", params=query))[1]["data"] == made
    records = await caller.records("/fault pieces:1 x", conversation_id=made["id"])
    assert records[0][1]["conversation_id"] == made["id"]


async def test_an_object_string_s_text_is_the_message(caller: Caller) -> None:
    items = json.dumps([{"type": "image", "file_id": "7"}, {"type": "text", "text": "/fault echo 看图"}])
    message = {"role": "user", "content": items, "content_type": "object_string"}
    assert deltas(await caller.records("", additional_messages=[message])) == "看图"


async def test_an_http_1_0_client_gets_the_stream_unchunked(caller: Caller) -> None:
    import asyncio
    from urllib.parse import urlsplit

    from tests.simulator.caller import chat_body

    where = urlsplit(caller.simulator.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    body = json.dumps(chat_body("/fault pieces:3 x")).encode()
    head = b"POST /v3/chat HTTP/1.0\r\nAuthorization: Bearer t\r\nContent-Length: %d\r\n\r\n" % len(body)
    writer.write(head + body)
    answer = await reader.read()
    writer.close()
    head, _, stream = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert exact_records(stream)[-1] == ("done", "[DONE]")
