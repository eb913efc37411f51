"""A workflow's records: which items come of which."""

import json
from typing import Any

import pytest

from gateway.upstream.protocol import ActionRequired, ChatCompleted, ChatFailed, Delta, Done, Item, Skipped
from gateway.upstream.runs import Node, RunBegun
from gateway.upstream.sse import SseDecoder
from gateway.upstream.workflow_protocol import WorkflowReader
from tests.upstream.servers import sample

SAMPLES = ["workflow.sse", "workflow-interrupt.sse", "workflow-error.sse"]


def items_of(text: bytes, size: int = 10**9) -> list[Item]:
    decoder = SseDecoder()
    reader = WorkflowReader(decoder)
    items: list[Item] = []
    for at in range(0, len(text), size):
        items += reader.items(decoder.feed(text[at : at + size]))
    return items


def record(event: str, data: Any, number: int | None = None) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"id: {number}\n" if number is not None else "").encode() + f"event: {event}\ndata: {text}\n\n".encode()


def said(content: str, node: str = "1", *, finished: bool = False, **fields: Any) -> bytes:
    data = {"content": content, "node_id": node, "node_title": f"n{node}", "node_is_finish": finished}
    return record("Message", data | fields)


def text_of(items: list[Item]) -> str:
    return "".join(item.text for item in items if isinstance(item, Delta))


DONE = record("Done", {})


def test_a_node_is_named_before_its_first_text_and_before_its_last() -> None:
    items = items_of(sample("workflow.sse"))
    output = "秋天的第一杯奶茶🧋来了。"
    assert items[:3] == [RunBegun(), Node("输出", "158711", False), Delta("", "秋天")]
    assert [item for item in items if isinstance(item, Node)] == [
        Node("输出", "158711", False),
        Node("输出", "158711", True),
        Node("End", "900001", True),
    ]
    assert text_of(items) == output + json.dumps({"output": output}, ensure_ascii=False, separators=(",", ":"))
    assert items[-4:-1] == [
        Node("End", "900001", True),
        Delta("", '{"output":"秋天的第一杯奶茶🧋来了。"}'),
        ChatCompleted({"token_count": 321, "output_count": 44, "input_count": 277}),
    ]
    assert items[-1] == Done()


def test_an_interrupt_is_a_call_with_cozes_event_id() -> None:
    items = items_of(sample("workflow-interrupt.sse"))
    assert items == [
        RunBegun(),
        Node("问答", "121334", True),
        Delta("", "请问要查询哪个城市、哪一天的天气？"),
        ActionRequired(
            [
                {
                    "id": "7569380013475250218/2769808280134765896",
                    "type": "interrupt",
                    "function": {"name": "问答", "arguments": ""},
                    "interruptType": 2,
                }
            ]
        ),
    ]
    asked = {"event_id": "a/b", "type": 5, "data": "{}", "required_parameters": {"city": {"type": "string"}}}
    [_, action] = items_of(record("Interrupt", {"interrupt_data": asked, "node_title": "n"}) + said("late"))
    assert isinstance(action, ActionRequired)
    assert action.tool_calls[0]["requiredParameters"] == {"city": {"type": "string"}}
    assert action.tool_calls[0]["function"] == {"name": "n", "arguments": "{}"}


@pytest.mark.parametrize("data", [{}, {"interrupt_data": {}}, {"interrupt_data": None}, "{", {"interrupt_data": "a"}])
def test_an_interrupt_that_nobody_could_answer_is_none(data: Any) -> None:
    assert items_of(record("Interrupt", data)) == [RunBegun(), Skipped("malformed")]


@pytest.mark.parametrize(
    ("data", "failed"),
    [
        ({"error_code": 4000, "error_message": "m"}, ChatFailed(4000, "m", True)),
        ({"error_code": "4000", "error_message": "m"}, ChatFailed(4000, "m", True)),
        ({"code": 5000, "msg": "m", "detail": {"logid": "L"}}, ChatFailed(5000, "m", True, "L")),
        ({"code": "720702222", "msg": "m", "detail": None}, ChatFailed(720702222, "m", True)),
        ({"error_code": 4009, "error_message": "m"}, ChatFailed(4009, "m", False)),
        ({"error_code": 4101, "error_message": "m"}, ChatFailed(4101, "m", False)),
        ({}, ChatFailed(None, "", True)),
        ({"error_code": [1], "msg": 3, "detail": []}, ChatFailed(None, "", True)),
    ],
)
@pytest.mark.parametrize("event", ["Error", "error", "ERROR"])
def test_a_failure_is_read_in_either_form(event: str, data: Any, failed: ChatFailed) -> None:
    """It is one of a run that was on its way, unless its code says that Coze had no room or took no token."""
    assert items_of(record(event, data)) == [failed]


def test_a_failure_that_cannot_be_read_is_one_all_the_same() -> None:
    assert items_of(record("Error", "{")) == [Skipped("malformed"), ChatFailed(None, "", True)]


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1000])
def test_any_chunking_says_the_same(name: str, size: int) -> None:
    text = sample(name)
    assert items_of(text, size) == items_of(text)
    assert items_of(text.replace(b"\n", b"\r\n"), size) == items_of(text)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_studios_lower_case_says_the_same(name: str) -> None:
    text = sample(name)
    lower = text
    for event in (b"Message", b"Interrupt", b"Done", b"Error", b"PING"):
        lower = lower.replace(b"event: " + event, b"event: " + event.lower())
    assert lower != text
    assert items_of(lower) == items_of(text)


def test_a_node_is_named_again_when_another_spoke_in_between_or_it_runs_again() -> None:
    text = said("a") + said("b", "2") + said("c") + said("d", finished=True) + said("e") + said("", finished=True)
    named = [(item.node_id, item.finished) for item in items_of(text + DONE) if isinstance(item, Node)]
    assert named == [("1", False), ("2", False), ("1", False), ("1", True), ("1", False), ("1", True)]
    assert text_of(items_of(text)) == "abcde"
    twice = said("a", node_execute_uuid="x") + said("b", node_execute_uuid="y") + said("c", node_execute_uuid="y")
    assert len([item for item in items_of(twice) if isinstance(item, Node)]) == 2


def test_a_node_without_an_id_is_known_by_its_title() -> None:
    text = record("Message", {"content": "秋天", "node_is_finish": False, "node_seq_id": "0", "node_title": "输出"})
    assert items_of(text + text) == [RunBegun(), Node("输出", "", False), Delta("", "秋天"), Delta("", "秋天")]


def test_nothing_follows_done_or_an_interrupt() -> None:
    assert items_of(said("a") + DONE + said("b"))[-1] == Done()
    assert items_of(sample("workflow-interrupt.sse") + said("b") + DONE) == items_of(sample("workflow-interrupt.sse"))


def test_a_ping_says_that_the_workflow_runs() -> None:
    assert items_of(record("PING", {"content": "{}"}) * 3) == [RunBegun()]
    assert items_of(record("ping", "")) == [RunBegun()]


def test_a_gap_in_the_numbers_is_counted_and_changes_nothing() -> None:
    whole = [record("PING", "{}", 0), said("a"), said("b"), DONE]
    numbered = [b"id: %d\n" % number + part.removeprefix(b"id: 0\n") for number, part in enumerate(whole)]
    assert Skipped("missing") not in items_of(b"".join(numbered))
    gap = [numbered[0], b"id: 5\n" + whole[1], b"id: 6\n" + whole[2], b"id: 9\n" + whole[3]]
    for size in (10**9, 20):
        items = items_of(b"".join(gap), size)
        assert [item for item in items if item != Skipped("missing")] == items_of(b"".join(numbered))
        assert Skipped("missing") in items
    again = [numbered[0], numbered[1], numbered[1].replace(b"id: 1", b"id: 0"), numbered[3]]
    assert Skipped("missing") not in items_of(b"".join(again))
    assert items_of(record("Done", {}, 10**30)) == [RunBegun(), ChatCompleted(None), Done()]


def test_a_text_that_could_not_be_read_ends_the_run_as_failed_because_nothing_repeats_it() -> None:
    for broken in (b'event: Message\ndata: {"content":"b\n\n', b'event: message\ndata: {"content":"\xff"}\n\n'):
        items = items_of(said("a") + broken + said("c") + DONE)
        assert text_of(items) == "ac"
        assert items[-2:] == [ChatFailed(None, "", True), Done()]
    items = items_of(said("a") + record("Sparkle", "{") + record("PING", "{") + DONE)
    assert items[-2:] == [ChatCompleted(None), Done()]


def test_halves_of_a_character_are_joined_within_a_node_only() -> None:
    def half(content: str, node: str = "1", *, finished: bool = False) -> bytes:
        fields = f'"node_id":"{node}","node_is_finish":{str(finished).lower()}'
        return record("Message", f'{{"content":"{content}",{fields}}}')

    assert text_of(items_of(half(r"\ud83d") + half("-", "2") + half(r"\ude00!"))) == "-😀!"
    assert text_of(items_of(half(r"a\ud83d", finished=True) + half(r"\ude00", "2"))) == "a\ufffd\ufffd"
    assert text_of(items_of(half(r"a\ud83d") + DONE)) == "a\ufffd"


def test_usage_of_any_kind_costs_no_text() -> None:
    for usage in ({"token_count": 7}, [1], "x", None, {"a": {"b": 1}}):
        items = items_of(said("a", usage=usage) + DONE)
        assert text_of(items) == "a"
        assert ChatCompleted({"token_count": 7} if usage == {"token_count": 7} else None) in items
    large = items_of(said("," * 200_000 + '"usage"', usage={"token_count": 1}) + DONE)
    assert len(text_of(large)) == 200_007


def test_a_last_record_without_its_blank_line_counts_if_it_is_complete() -> None:
    def last(text: bytes) -> list[Item] | None:
        decoder = SseDecoder()
        reader = WorkflowReader(decoder)
        reader.items(decoder.feed(text))
        found = decoder.open_record()
        assert found is not None
        return reader.last_items(found)

    assert last(said("a") + DONE.rstrip()) == [ChatCompleted(None), Done()]
    assert last(said("a") + said("b").rstrip()[:-3]) is None
    assert WorkflowReader.tells_of_failure(b"Error")
    assert not WorkflowReader.tells_of_failure(b"Message")
