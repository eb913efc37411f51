"""Coze's dialects: which items come of which records."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.upstream.coze_protocol import ChatReader
from gateway.upstream.protocol import (
    ActionRequired,
    Answer,
    Audio,
    ChatCanceled,
    ChatCompleted,
    ChatFailed,
    Created,
    Delta,
    Done,
    Item,
    Reasoning,
    Skipped,
    Suggestion,
    Tool,
)
from gateway.upstream.sse import SseDecoder
from tests.turns import last, new_turn
from tests.upstream.servers import SAMPLES, sample

CHAT = {"id": "7", "conversation_id": "8"}
ANSWER = {"id": "9", "chat_id": "7", "role": "assistant", "type": "answer", "content": "hi", "content_type": "text"}


def items_of(text: bytes, chat_id: str = "") -> list[Item]:
    return ChatReader(chat_id).items(SseDecoder().feed(text))


def one(event: str, data: Any, *, chat_id: str = "7") -> list[Item]:
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return items_of(f"event:{event}\ndata:{text}\n\n".encode("utf-8", "surrogatepass"), chat_id)


def delta(**fields: Any) -> list[Item]:
    return one("conversation.message.delta", ANSWER | fields)


def completed(**fields: Any) -> list[Item]:
    return one("conversation.message.completed", ANSWER | fields)


def text_of(items: list[Item], kind: type[Delta | Reasoning] = Delta) -> str:
    return "".join(item.text for item in items if isinstance(item, kind))


def of(items: list[Item], *kinds: type[Item]) -> list[Item]:
    return [item for item in items if isinstance(item, kinds)]


def records(name: str) -> Iterator[tuple[str, Any]]:
    """A sample read the simple way, for comparison."""
    for block in sample(name).decode().split("\n\n"):
        event, _, data = block.partition("\ndata:")
        try:
            yield event.removeprefix("event:").strip(), json.loads(data)
        except ValueError:
            continue


# -- the samples


@pytest.mark.parametrize("name", ["chat-plain.sse", "chatflow.sse", "studio-chat.sse", "recorded-reasoning.sse"])
def test_the_pieces_of_a_sample_join_to_its_completed_answer(name: str) -> None:
    items = items_of(sample(name))
    [answer] = of(items, Answer)
    assert isinstance(answer, Answer)
    assert text_of(items) == answer.content
    assert {item.message_id for item in items if isinstance(item, Delta)} == {answer.message_id}
    assert isinstance(items[0], Created)
    assert isinstance(items[-2], ChatCompleted)
    assert isinstance(items[-1], Done)


def test_the_plain_sample_in_full() -> None:
    items = items_of(sample("chat-plain.sse"))
    spoken = [d["content"] for e, d in records("chat-plain.sse") if e == "conversation.message.delta"]
    assert [item.text for item in items if isinstance(item, Delta)] == spoken
    assert len(of(items, Suggestion)) == 3
    assert not of(items, Skipped, Tool, Reasoning)
    usage = next(item.usage for item in items if isinstance(item, ChatCompleted))
    assert usage
    assert set(usage) == {"token_count", "output_count", "input_count"}
    assert items[0] == Created(*(records_first("chat-plain.sse")[key] for key in ("id", "conversation_id")))


def records_first(name: str) -> dict[str, str]:
    first: dict[str, str] = next(records(name))[1]
    return first


def test_the_recorded_stream_in_full() -> None:
    items = items_of(sample("recorded-reasoning.sse"))
    assert (len(of(items, Reasoning)), len(of(items, Delta))) == (443, 736)
    assert len(text_of(items)) == 2016
    assert of(items, Skipped) == [Skipped("malformed")]


def test_reasoning_comes_before_the_answer() -> None:
    items = items_of(sample("chat-reasoning.sse"))
    kinds = [type(item) for item in of(items, Reasoning, Delta)]
    assert kinds == sorted(kinds, key=lambda kind: kind is Delta)
    assert text_of(items, Reasoning)


def test_reasoning_that_comes_only_with_the_whole_answer_is_told_before_it() -> None:
    assert completed(reasoning_content="hm") == [Reasoning("9", "hm"), Answer("9", "hi", "text")]
    piece, answer = ANSWER | {"content": "", "reasoning_content": "h"}, ANSWER | {"reasoning_content": "hm"}
    text = f"event:conversation.message.delta\ndata:{json.dumps(piece)}\n\n"
    text += f"event:conversation.message.completed\ndata:{json.dumps(answer)}\n\n"
    assert items_of(text.encode()) == [Reasoning("9", "h"), Answer("9", "hi", "text")]


def test_tools_are_named() -> None:
    call, output = of(items_of(sample("chat-tool-call.sse")), Tool)
    assert isinstance(call, Tool)
    assert isinstance(output, Tool)
    assert (call.phase, call.name) == ("call", "weather_lite-day_forecast")
    assert (output.phase, output.name) == ("output", "")
    assert json.loads(output.content)["code"] == 0


def test_cards_and_several_answers_come_whole() -> None:
    items = items_of(sample("chat-multi-answer.sse"))
    answers = [item for item in items if isinstance(item, Answer)]
    assert [answer.content_type for answer in answers] == ["text", "card", "text"]
    for answer in answers:
        pieces = [item.text for item in items if isinstance(item, Delta) and item.message_id == answer.message_id]
        assert "".join(pieces) == ("" if answer.content_type == "card" else answer.content)
    assert len({answer.message_id for answer in answers}) == 3


def test_a_rewritten_answer_differs_from_its_pieces() -> None:
    items = items_of(sample("chat-rewritten.sse"))
    [answer] = of(items, Answer)
    assert isinstance(answer, Answer)
    assert answer.content != text_of(items)


def test_an_action_is_required_with_its_opaque_id() -> None:
    items = items_of(sample("chat-requires-action.sse"))
    [action] = of(items, ActionRequired)
    assert isinstance(action, ActionRequired)
    assert action.tool_calls[0]["id"].endswith("S0A=")
    assert action.tool_calls[0]["function"]["name"] == "set_light"
    assert not of(items, ChatCompleted)


def test_a_submitted_stream_begins_in_progress() -> None:
    items = items_of(sample("chat-submit-tool-outputs.sse"), "7569351190027943976")
    assert items[0] == Created("7569351190027943976", "7569312240118845480")
    assert text_of(items)
    assert isinstance(items[-1], Done)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("chat-failed.sse", 5000),
        ("chat-error-event.sse", 4013),
        ("chatflow-failed.sse", 720702204),
        ("v2-chat-error.sse", 702242001),
    ],
)
def test_each_shape_of_failure_gives_its_code(name: str, code: int) -> None:
    items = items_of(sample(name))
    assert isinstance(items[-1], ChatFailed)
    assert items[-1].coze_code == code
    assert items[-1].message


def test_v2_groups_by_index_and_its_done_completes_the_chat() -> None:
    items = items_of(sample("v2-chat.sse"))
    pieces: dict[str, str] = {}
    for item in items:
        if isinstance(item, Delta):
            pieces[item.message_id] = pieces.get(item.message_id, "") + item.text
    expected: dict[str, str] = {}
    for line in sample("v2-chat.sse").decode().split("\n\n"):
        if line:
            record = json.loads(line.removeprefix("data:"))
            if record["event"] == "message" and record["message"]["type"] == "answer":
                index = str(record["index"])
                expected[index] = expected.get(index, "") + record["message"]["content"]
    assert pieces == expected
    assert items[-2:] == [ChatCompleted(None), Done()]
    assert [type(item) for item in of(items, Tool)] == [Tool, Tool]
    assert len(of(items, Suggestion)) == 2


@pytest.mark.parametrize("name", ["workflow.sse", "workflow-interrupt.sse", "workflow-error.sse"])
def test_workflow_events_are_not_a_chats(name: str) -> None:
    assert set(items_of(sample(name))) == {Skipped("unknown_event")}


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.sse")), ids=lambda path: path.name)
@pytest.mark.parametrize("size", [1, 100, 5000])
def test_each_sample_gives_the_same_items_however_it_is_cut(path: Any, size: int) -> None:
    text = path.read_bytes()
    decoder, reader = SseDecoder(), ChatReader()
    again: list[Item] = []
    for i in range(0, len(text), size):
        again += reader.items(decoder.feed(text[i : i + size]))
    assert again == items_of(text)


def studio_flow(*records: tuple[str, Any]) -> list[Item]:
    """What a chatflow of the self-hosted studio says: one id for all messages, and no message that is whole."""
    begin = ("chat.created", CHAT | {"status": "created", "execute_id": "5"})
    lines = (f"event: conversation.{name}\ndata: {json.dumps(data)}\n\n" for name, data in (begin, *records))
    return items_of("".join(lines).encode())[1:]


def test_in_the_studios_chatflows_a_completed_message_is_the_last_piece() -> None:
    def said(text: str) -> dict[str, Any]:
        return ANSWER | {"content": text}

    card = ANSWER | {"content": "{}", "content_type": "card"}
    waits = ("chat.requires_action", CHAT | {"status": "requires_action", "execute_id": "5"})
    items = studio_flow(
        ("message.delta", said("Hel")),
        ("message.completed", said("lo.")),
        ("message.delta", said(" And")),
        ("message.completed", said("")),
        ("message.completed", card),
        ("message.completed", said(" Which?")),
        waits,
    )
    assert items == [
        *(Delta("9", text) for text in ("Hel", "lo.", " And")),
        Answer("", "{}", "card"),
        Delta("9", " Which?"),
        ActionRequired([]),
    ]
    events = new_turn().take([Created("7", "8"), *items, Done()])
    assert last(events).content == "Hello. And Which?"


# -- deltas


def test_a_delta_with_both_gives_reasoning_first() -> None:
    assert delta(reasoning_content="hm") == [Reasoning("9", "hm"), Delta("9", "hi")]


@pytest.mark.parametrize("content", ["", None])
def test_a_delta_without_text_gives_only_its_reasoning(content: str | None) -> None:
    assert delta(content=content, reasoning_content="hm") == [Reasoning("9", "hm")]
    assert delta(content=content) == []


@pytest.mark.parametrize("kind", ["verbose", "function_call", "knowledge", "x"])
def test_a_delta_that_is_no_answer_is_not_shown(kind: str) -> None:
    assert delta(type=kind) == []


@pytest.mark.parametrize("kind", ["card", "object_string"])
def test_a_part_of_what_comes_whole_later_is_not_shown(kind: str) -> None:
    assert delta(content_type=kind) == []


def test_audio_comes_in_its_own_event_or_in_a_delta() -> None:
    audio = ANSWER | {"content": "UklGRg==", "content_type": "audio"}
    assert one("conversation.audio.delta", audio) == [Audio("UklGRg==")]
    assert one("conversation.message.delta", audio) == [Audio("UklGRg==")]


@pytest.mark.parametrize("missing", ["type", "content_type", "id", "chat_id", "role"])
@pytest.mark.parametrize("null", [True, False])
def test_a_delta_may_lack_what_is_not_its_text(missing: str, null: bool) -> None:
    fields: dict[str, Any] = dict(ANSWER)
    del fields[missing]
    if null:
        fields[missing] = None
    [item] = one("conversation.message.delta", fields)
    assert isinstance(item, Delta)
    assert item.text == "hi"


@pytest.mark.parametrize(
    "wrong", [{"content": 1.5}, {"content": ["x"]}, {"content": {}}, {"type": True}, {"id": 9.0}, {"chat_id": [7]}]
)
def test_a_delta_of_other_types_is_malformed(wrong: dict[str, Any]) -> None:
    assert delta(**wrong) == [Skipped("malformed")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", "malformed"),
        ("[DONE]", "malformed"),
        ('"[DONE]"', "malformed"),
        ("null", "malformed"),
        ("[]", "malformed"),
        ('{"content":"a"', "malformed"),
        ('{"content":"a"} x', "malformed"),
        ('{"content":"a\tb"}', "malformed"),
        ('{"content":NaN}', "not_finite"),
        ('{"content":"a","x":NaN}', "not_finite"),
        ('{"content":"a","x":[-Infinity]}', "not_finite"),
        ('{"content":"a","x":' + "[" * 100_000 + "]" * 100_000 + "}", "too_deep"),
        ('{"content":"a","x":' + '{"y":' * 100_000 + "1" + "}" * 100_001, "too_deep"),
        ("[" * 1_000_000, "malformed"),
        (r'  {"content":"\ud800","x":' + "[" * 5_000 + "]" * 5_000 + "}", "too_deep"),
    ],
)
def test_what_cannot_be_read_is_skipped_with_its_reason(data: str, reason: str) -> None:
    assert one("conversation.message.delta", data) == [Skipped(reason)]  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [b"hi", b"assistant", b'"9"'])
@pytest.mark.parametrize("bad", [b"\xff", b"\xe6\xad", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_invalid_utf8_anywhere_skips_the_record(place: bytes, bad: bytes) -> None:
    text = b"event:conversation.message.delta\ndata:" + json.dumps(ANSWER).encode() + b"\n\n"
    assert items_of(text.replace(place, place[:-1] + bad + place[-1:], 1), "7") == [Skipped("encoding")]


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"a\ud800b", "a\ufffdb"),
        (r"\udc00", "\ufffd"),
        (r"\ud83d\ude00", "😀"),
        (r"\ud83d\ude00\ud83dx", "😀\ufffdx"),
        (r"\ude00\ud83dx", "\ufffd\ufffdx"),
        (r"\ud83d\ud83d\ude00", "\ufffd😀"),
        (r"\ud83dx\ude00", "\ufffdx\ufffd"),
    ],
)
def test_a_lone_surrogate_becomes_the_replacement_character(escaped: str, text: str) -> None:
    data = json.dumps(ANSWER | {"content": "@"}).replace("@", escaped)
    assert one("conversation.message.delta", data) == [Delta("9", text)]
    assert one("conversation.message.completed", data) == [Answer("9", text, "text")]


def test_hostile_text_is_only_text() -> None:
    hostile = 'a\r\n\r\nevent: x\ndata: {}\0\u2028<script>"\\'
    assert delta(content=hostile) == [Delta("9", hostile)]


def test_numbers_of_any_size_do_not_hurt() -> None:
    data = json.dumps(ANSWER)[:-1] + ',"x":' + "9" * 10_000 + ',"y":1e999,"z":-0.0}'
    assert one("conversation.message.delta", data) == [Delta("9", "hi")]
    surrogate = data.replace('"hi"', r'"\udc00"')
    assert one("conversation.message.delta", surrogate) == [Delta("9", "\ufffd")]


# -- whole messages


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ('{"name":"a-b","arguments":{},"plugin_id":75612011442736000019999}', "a-b"),
        ('{"name":"a-b","arguments":{"x":"cut', "a-b"),
        ('{"arguments":{}}', ""),
        ('{"name":7}', ""),
        ("not JSON", ""),
        ("[" * 100_000, ""),
        ("", ""),
    ],
)
def test_a_calls_name_is_read_where_it_can_be(content: str, name: str) -> None:
    assert completed(type="function_call", content=content) == [Tool("9", "call", name, content)]


@pytest.mark.parametrize("kind", ["verbose", "knowledge", "question"])
def test_messages_that_are_not_for_listeners_give_nothing(kind: str) -> None:
    assert completed(type=kind) == []


def test_messages_of_every_other_type() -> None:
    assert completed(type="tool_output") == [Tool("9", "output", "", "hi")]
    assert completed(type="tool_response") == [Tool("9", "output", "", "hi")]
    assert completed(type="follow_up") == [Suggestion("9", "hi")]
    assert completed(content_type="card") == [Answer("9", "hi", "card")]
    assert completed(content="") == [Answer("9", "", "text")]
    assert completed(type="new") == [Skipped("unknown_event")]
    assert completed(content=None) == [Skipped("malformed")]


# -- the chat


@pytest.mark.parametrize("first", ["created", "in_progress"])
def test_a_chat_is_created_only_once(first: str) -> None:
    text = "".join(
        f"event:conversation.chat.{e}\ndata:{json.dumps(CHAT)}\n\n" for e in (first, "created", "in_progress")
    )
    assert items_of(text.encode()) == [Created("7", "8")]


def test_records_of_another_chat_are_skipped() -> None:
    assert delta(chat_id="666") == [Skipped("foreign_chat")]
    assert completed(chat_id="666") == [Skipped("foreign_chat")]
    assert one("conversation.audio.delta", ANSWER | {"chat_id": "666"}) == [Skipped("foreign_chat")]
    for event in ("created", "in_progress", "completed", "failed", "requires_action", "canceled"):
        assert one(f"conversation.chat.{event}", CHAT | {"id": "666"}) == [Skipped("foreign_chat")]
    wrapped = {"event": "message", "message": ANSWER | {"chat_id": "666"}}
    assert one("message", wrapped) == [Skipped("foreign_chat")]


@pytest.mark.parametrize("unsaved", ["0", "", None])
def test_a_chat_that_is_not_saved_has_no_id_to_compare(unsaved: str | None) -> None:
    assert delta(chat_id=unsaved) == [Delta("9", "hi")]


@pytest.mark.parametrize(
    ("usage", "kept"),
    [
        (None, None),
        ({}, None),
        ("x", None),
        ([1], None),
        ({"token_count": 3, "x": "y"}, {"token_count": 3, "x": "y"}),
        ({"a": None, "b": {"c": 1}, "d": [1], "e": 2}, {"e": 2}),
        ({"big": 2**70}, {"big": str(2**70)}),
    ],
)
def test_usage_keeps_numbers_and_strings(usage: Any, kept: Any) -> None:
    assert one("conversation.chat.completed", CHAT | {"usage": usage})[-1] == ChatCompleted(kept)


def test_usage_with_no_finite_number_loses_it_or_the_record_is_skipped() -> None:
    text = json.dumps(CHAT)[:-1] + ',"usage":{"a":1e999,"b":1}}'
    assert one("conversation.chat.completed", text)[-1] == ChatCompleted({"b": 1})
    assert one("conversation.chat.completed", text.replace("1e999", "NaN")) == [Skipped("not_finite")]


@pytest.mark.parametrize("status", ["requires_action", "required_action"])
@pytest.mark.parametrize("event", ["requires_action", "required_action", "completed", "in_progress"])
def test_status_or_event_say_that_an_action_is_required(event: str, status: str) -> None:
    calls = [{"id": "", "type": "reply_message", "function": None}]
    chat = CHAT | {"status": status, "required_action": {"submit_tool_outputs": {"tool_calls": calls}}}
    assert one(f"conversation.chat.{event}", chat) == [Created("7", "8"), ActionRequired([], "")]


@pytest.mark.parametrize(
    ("call", "question"),
    [
        ({"id": "", "function": None}, ""),
        ({}, ""),
        ({"function": 1}, ""),
        ({"function": {"name": "", "arguments": ""}}, ""),
        ({"function": {"name": "ask", "arguments": '{"question":"Which?"}'}}, "Which?"),
        ({"function": {"name": "ask", "arguments": '{"content":"Which?","options":["a"]}'}}, "Which?"),
        ({"function": {"name": "ask", "arguments": {"text": "Which?"}}}, "Which?"),
        ({"function": {"name": "ask", "arguments": '"Which?"'}}, "Which?"),
        ({"function": {"name": "ask", "arguments": "Which?"}}, "Which?"),
        ({"function": {"name": "ask", "arguments": '{"question":"Whi'}}, ""),
        ({"function": {"name": "ask", "arguments": '{"question":{"deep":1}}'}}, ""),
        ({"function": {"name": "ask", "arguments": r'{"question":"\ud800"}'}}, ""),
        ({"function": {"name": "ask", "arguments": "[" * 15_000}}, ""),
        ({"function": {"name": "ask", "arguments": "7"}}, ""),
        ({"function": None, "content": "Which?"}, "Which?"),
    ],
)
def test_the_words_of_a_question_are_taken_from_its_call_where_they_are_there(call: Any, question: str) -> None:
    action = {"submit_tool_outputs": {"tool_calls": [call | {"type": "reply_message"}]}}
    assert one("conversation.chat.requires_action", CHAT | {"required_action": action})[-1] == ActionRequired(
        [], question
    )


def test_calls_of_tools_and_questions_are_told_apart() -> None:
    tool = {"id": "x", "type": "function", "function": {"name": "n", "arguments": "{}"}}
    asks = [{"id": "", "type": "reply_message", "content": text} for text in ("One?", "Two?", "One?", "")]
    action = {"submit_tool_outputs": {"tool_calls": [*asks, tool]}}
    assert one("conversation.chat.requires_action", CHAT | {"required_action": action})[-1] == ActionRequired(
        [tool], "One?\n\nTwo?"
    )


def test_a_chat_that_waits_has_no_usage_but_one_that_is_not_all_zeros() -> None:
    for counts, usage in ((0, None), (3, {"token_count": 3})):
        chat = CHAT | {"status": "requires_action", "usage": {"token_count": counts}}
        assert one("conversation.chat.requires_action", chat)[-1] == ActionRequired([], None, usage)
        assert one("conversation.chat.completed", chat | {"status": "completed"})[-1] == ChatCompleted(
            {"token_count": counts}
        )


@pytest.mark.parametrize(
    ("plugin_type", "told"), [(6, False), ("6", False), (1, True), (60, True), (None, True), ([6], True)]
)
def test_the_call_of_a_local_plugin_is_told_only_as_the_required_action(plugin_type: Any, told: bool) -> None:
    content = json.dumps({"name": "ts-home-light", "arguments": {"plugin_type": 6}, "plugin_type": plugin_type})
    tool = [Tool("9", "call", "ts-home-light", content)]
    assert completed(type="function_call", content=content) == (tool if told else [])


def chatflow(*kinds: str, state: str = "", done: str = '{"debug_url":"https://www.coze.cn/x"}') -> list[Item]:
    """The end of a chatflow that says these kinds of `verbose`."""
    said = [ANSWER | {"type": "verbose", "content": json.dumps({"msg_type": kind, "data": ""})} for kind in kinds]
    records = [("message.completed", ANSWER), *(("message.completed", message) for message in said)]
    records += [(f"chat.{state}", CHAT | {"status": state})] if state else []
    text = "".join(f"event: conversation.{name}\ndata: {json.dumps(data)}\n\n" for name, data in records)
    return items_of(f"{text}event: done\ndata: {done}\n\n".encode(), "7")[1:]


def test_a_chatflow_that_is_interrupted_waits_for_a_reply() -> None:
    assert chatflow("interrupt", "generate_answer_finish") == [ActionRequired([]), Done()]
    assert chatflow("generate_answer_finish", "empty result") == [Done()]
    assert chatflow("interrupt", done='"[DONE]"') == [Done()]  # of a bot's chat, Coze's record tells what it waits for


@pytest.mark.parametrize(
    ("state", "end"),
    [("requires_action", ActionRequired([])), ("completed", ChatCompleted(None)), ("canceled", ChatCanceled())],
)
def test_what_the_chats_state_says_of_an_interrupted_chatflow_counts(state: str, end: Item) -> None:
    assert chatflow("interrupt", state=state) == [Created("7", "8"), end, Done()]


@pytest.mark.parametrize(
    "content", ['"interrupt"', '{"msg_type":"x","data":"\\"interrupt\\""}', '["interrupt"]', "{", ""]
)
def test_what_only_looks_like_an_interruption_is_none(content: str) -> None:
    said = json.dumps(ANSWER | {"type": "verbose", "content": content})
    text = f'event:conversation.message.completed\ndata:{said}\n\nevent:done\ndata:{{"debug_url":"x"}}\n\n'
    assert items_of(text.encode(), "7") == [Done()]


def test_an_empty_required_action_alone_says_nothing() -> None:
    chat = CHAT | {"status": "completed", "required_action": {"type": "", "submit_tool_outputs": {"tool_calls": []}}}
    assert one("conversation.chat.completed", chat) == [Created("7", "8"), ChatCompleted(None)]


@pytest.mark.parametrize(
    "action", [None, 1, "x", {}, {"submit_tool_outputs": 1}, {"submit_tool_outputs": {"tool_calls": [1]}}]
)
def test_calls_of_an_action_may_be_missing(action: Any) -> None:
    items = one("conversation.chat.requires_action", CHAT | {"required_action": action})
    assert items == [Created("7", "8"), ActionRequired([])]


def test_calls_hold_nothing_that_json_writers_refuse() -> None:
    call = {"id": "x", "n": 2**80, "m": 2**53 - 1, "deep": {"y": [1.5, None, True]}}
    chat = CHAT | {"required_action": {"submit_tool_outputs": {"tool_calls": [call]}}}
    assert one("conversation.chat.requires_action", chat)[-1] == ActionRequired([call | {"n": str(2**80)}])
    nested: Any = 1
    for _ in range(100):
        nested = [nested]
    chat = CHAT | {"required_action": {"submit_tool_outputs": {"tool_calls": [{"x": nested}]}}}
    assert one("conversation.chat.requires_action", chat) == [Skipped("too_deep")]


@pytest.mark.parametrize("spelling", ["canceled", "cancelled"])
def test_a_cancelled_chat_in_either_spelling(spelling: str) -> None:
    assert one(f"conversation.chat.{spelling}", CHAT)[-1] == ChatCanceled()


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        ({"last_error": {"code": 4028, "msg": "no"}}, 4028, "no"),
        ({"last_error": {"code": "4028", "msg": "no"}}, 4028, "no"),
        ({"last_error": {"code": 0, "msg": ""}, "code": 5, "msg": "flat"}, 5, "flat"),
        ({"last_error": {"code": 0, "msg": "why"}}, None, "why"),
        ({"last_error": None, "code": "700", "msg": "flat"}, 700, "flat"),
        ({"code": "x", "msg": 3}, None, ""),
        ({"code": True}, None, ""),
        ({"code": 2**90}, None, ""),
        ({}, None, ""),
        ({"code": 1, "msg": "m" * 9000}, 1, "m" * 500),
    ],
)
@pytest.mark.parametrize("event", ["error", "conversation.chat.failed"])
def test_failures_in_any_shape(event: str, data: dict[str, Any], code: int | None, message: str) -> None:
    assert one(event, data) == [ChatFailed(code, message, exists=event != "error")]


@pytest.mark.parametrize("event", ["error", "conversation.chat.failed"])
@pytest.mark.parametrize("data", ["", "overloaded", '{"code":', "[]"])
def test_a_failure_that_cannot_be_read_is_still_one(event: str, data: str) -> None:
    assert one(event, data) == [Skipped("malformed"), ChatFailed(None, "", exists=event != "error")]


# -- the end, and what is not known


@pytest.mark.parametrize("event", ["done", "conversation.stream.done"])
@pytest.mark.parametrize("data", ['"[DONE]"', "[DONE]", '{"debug_url":"x"}', "", "\ufffd{"])
def test_done_goes_by_its_name_whatever_its_data(event: str, data: str) -> None:
    assert one(event, data) == [Done()]


def test_nothing_comes_after_done() -> None:
    reader = ChatReader()
    late = [(b"conversation.message.delta", json.dumps(ANSWER).encode())]
    assert reader.items([(b"done", b""), *late]) == [Done()]
    assert reader.done
    assert reader.items(late) == []


def test_data_that_says_done_is_not_done() -> None:
    assert items_of(b'data:"[DONE]"\n\n') == [Skipped("malformed")]
    assert delta(content="[DONE]") == [Delta("9", "[DONE]")]


@pytest.mark.parametrize(
    "event", ["ping", "PING", "Done", "conversation.chat.new", "Conversation.message.delta", "done "]
)
def test_unknown_events_are_counted_and_never_text(event: str) -> None:
    assert one(event, ANSWER) == [Skipped("unknown_event")]


def test_a_v3_record_whose_json_has_an_event_goes_by_its_line() -> None:
    assert delta(event="error") == [Delta("9", "hi")]


def test_the_webs_shape() -> None:
    message = {"message_id": "5", "reply_id": "6", "type": "answer", "content": "hi", "content_type": "text"}
    record = {"message": message, "is_finish": False, "index": 0, "conversation_id": "8", "seq_id": 0}
    assert one("message", record) == [Delta("5", "hi")]
    assert one("message", record | {"message": message | {"content_type": "card"}}) == [Answer("5", "hi", "card")]
    assert one("message", {"message": message | {"reasoning_content": "hm"}}) == [
        Reasoning("5", "hm"),
        Delta("5", "hi"),
    ]


@pytest.mark.parametrize(
    ("data", "items"),
    [
        ({"event": "ping"}, [Skipped("unknown_event")]),
        ({"event": "message"}, [Skipped("unknown_event")]),
        ({"content": "x"}, [Skipped("unknown_event")]),
        ({"event": "error"}, [ChatFailed(None, "")]),
        ({"event": "error", "code": 5, "msg": "flat"}, [ChatFailed(5, "flat")]),
        ({"event": "message", "message": {"type": "answer", "content": 1.5}}, [Skipped("malformed")]),
        ({"event": "message", "message": "x"}, [Skipped("malformed")]),
        ({"event": "message", "index": 2**80, "message": {"type": "answer", "content": "x"}}, [Delta(str(2**80), "x")]),
        ({"event": "message", "index": "a", "message": {"type": "answer", "content": "x"}}, [Delta("", "x")]),
    ],
)
def test_records_with_the_message_inside(data: Any, items: list[Item]) -> None:
    assert one("message", data) == items


# -- failures without an event line


@pytest.mark.parametrize(
    ("data", "items"),
    [
        ({"code": 4000, "msg": "x"}, [ChatFailed(4000, "x")]),
        ({"code": "4016", "msg": "x"}, [ChatFailed(4016, "x")]),
        ({"code": 4016, "msg": "x", "detail": {"logid": "L"}}, [ChatFailed(4016, "x", log_id="L")]),
        (
            {"id": "7", "status": "failed", "last_error": {"code": 4028, "msg": "x"}},
            [ChatFailed(4028, "x", exists=True)],
        ),
        ({"id": "666", "status": "failed"}, [Skipped("foreign_chat")]),
        ({"code": 0, "msg": ""}, [Skipped("unknown_event")]),
        ({"msg": "x"}, [Skipped("unknown_event")]),
        ({"event": "ping", "code": 4000}, [Skipped("unknown_event")]),
    ],
)
@pytest.mark.parametrize("event", ["message", ""])
def test_a_failure_may_lack_its_event_line(event: str, data: Any, items: list[Item]) -> None:
    assert one(event, data) == items


# -- numbers for strings


def with_numbers(text: bytes) -> bytes:
    """A text whose ids are numbers."""
    return re.sub(rb'"((?:\w+_)?id)": ?"(\d+)"', rb'"\1":\2', text)


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.sse")), ids=lambda path: path.name)
def test_ids_that_are_numbers_are_the_same_ids(path: Any) -> None:
    text = path.read_bytes()
    assert with_numbers(text) != text or b'id":"' not in text
    assert items_of(with_numbers(text)) == items_of(text)


@pytest.mark.parametrize("number", [9, 2**53 + 1, 7569312240118861864, 2**63, 2**64 + 1, 10**30 + 7])
def test_an_id_of_any_size_is_exact(number: int) -> None:
    assert delta(id=number) == [Delta(str(number), "hi")]
    halved = json.dumps(ANSWER | {"id": number, "content": "\ude00"})
    assert one("conversation.message.delta", halved) == [Delta(str(number), "\ufffd")]
    assert completed(id=number) == [Answer(str(number), "hi", "text")]
    assert one("conversation.chat.created", {"id": number, "conversation_id": number}, chat_id="") == [
        Created(str(number), str(number))
    ]
    message = {"message": ANSWER | {"message_id": number, "chat_id": 7}}
    assert one("message", message) == [Delta(str(number), "hi")]


def test_ids_inside_of_calls_are_exact_for_readers_whose_numbers_have_53_bits() -> None:
    calls = [{"id": "x", "plugin_id": 2**53 + 1, "list": [-(2**53) - 1]}]
    chat = CHAT | {"required_action": {"submit_tool_outputs": {"tool_calls": calls}}}
    assert one("conversation.chat.requires_action", chat)[-1] == ActionRequired(
        [{"id": "x", "plugin_id": str(2**53 + 1), "list": [str(-(2**53) - 1)]}]
    )


def test_numbers_name_the_same_chat_as_strings() -> None:
    assert delta(chat_id=7) == [Delta("9", "hi")]
    assert delta(chat_id=8) == [Skipped("foreign_chat")]
    assert delta(chat_id=0) == [Delta("9", "hi")]


def test_other_strings_may_be_numbers_too() -> None:
    assert delta(content=2026) == [Delta("9", "2026")]
    calls = [{"id": 2**60 + 1, "type": "function"}]
    chat = CHAT | {"required_action": {"submit_tool_outputs": {"tool_calls": calls}}}
    assert one("conversation.chat.requires_action", chat)[-1] == ActionRequired([calls[0] | {"id": str(2**60 + 1)}])


# -- statuses


@pytest.mark.parametrize("event", ["created", "in_progress", "completed", "requires_action"])
@pytest.mark.parametrize(
    ("status", "end"),
    [
        ("failed", ChatFailed(4028, "x", exists=True)),
        ("canceled", ChatCanceled()),
        ("cancelled", ChatCanceled()),
        ("requires_action", ActionRequired([])),
    ],
)
def test_an_end_that_a_status_names_is_one_in_any_event(event: str, status: str, end: Item) -> None:
    chat = CHAT | {"status": status, "last_error": {"code": 4028, "msg": "x"}}
    assert one(f"conversation.chat.{event}", chat) == [Created("7", "8"), end]


@pytest.mark.parametrize("status", ["created", "in_progress", "completed", "new", None, "", 7])
def test_without_an_end_in_its_status_the_event_says_how_a_chat_stands(status: Any) -> None:
    chat = CHAT | {"status": status, "last_error": {"code": 0, "msg": ""}}
    assert one("conversation.chat.completed", chat) == [Created("7", "8"), ChatCompleted(None)]
    assert one("conversation.chat.in_progress", chat) == [Created("7", "8")]
    assert one("conversation.chat.canceled", chat) == [Created("7", "8"), ChatCanceled()]
    assert one("conversation.chat.failed", chat) == [ChatFailed(None, "", exists=True)]


def test_a_record_of_more_values_than_can_be_read_in_a_moment_is_skipped() -> None:
    began = time.monotonic()
    many = ",".join(["{}"] * 2_000_000)
    for data in (f'{{"usage":[{many}]}}', f'{{"id":7,"usage":[{many}]}}', f'{{"content":"\\ud800","x":[{many}]}}'):
        assert one("conversation.chat.completed", data) == [Skipped("malformed")]
        assert one("conversation.message.delta", data)[-1:] != [Delta("", "\ufffd")]
    assert time.monotonic() - began < 3
