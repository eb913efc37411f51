"""The records of a workflow's run, in whatever form Coze or a studio of somebody's own sends them."""

import json
from typing import Any

import pytest

from tests.doors.studio import BODY, Record, Studio, joined, post, served, studio, told
from tests.transports.conftest import Served

__all__ = ["served", "studio"]

DONE: Record = ("Done", {"debug_url": "https://www.coze.cn"})
LONG = "汉" * 100_000  # longer than a piece may be


def said(content: str, node: str = "1", *, last: bool = False, **more: Any) -> Record:
    fields = {"content": content, "node_id": node, "node_title": f"N{node}", "node_is_finish": last, **more}
    return "Message", fields | {"node_seq_id": "7"}


def stream(*records: Record) -> str:
    numbered = enumerate(records)
    return "".join(f"id: {at}\nevent: {name}\ndata: {json.dumps(data)}\n\n" for at, (name, data) in numbered)


async def played(served: Served, studio: Studio, text: str) -> list[Record]:
    studio.plays = [text]
    _, answered = await post(served, "stream_run", BODY)
    return told(answered)


@pytest.mark.parametrize(
    "records",
    [
        [("Message", {"content": "no field but the text"}), ("Message", {"content": "!", "node_is_finish": True})],
        [("Message", {"content": "ids", "node_id": 7569380013475250218, "node_is_finish": True})],
        [("Message", {"content": "null", "node_id": None, "node_title": None, "node_is_finish": True})],
        [said("", "1"), said("", "1", last=True), said("", "2", last=True), said("empty ones", "3", last=True)],
        [said("a", "1"), said("b", "2"), said("c", "1"), said("d", "2", last=True), said("e", "1", last=True)],
        [said("short"), said(LONG, last=True)],
        [said(LONG), said("", last=True)],
        [said("again", last=True), said("again", last=True)],
        [said('"node_is_finish":true', node='"node_is_finish":true'), said("!", last=True)],
    ],
)
async def test_records_come_as_they_were_sent(served: Served, studio: Studio, records: list[Record]) -> None:
    whole = [*records, DONE]
    found = await played(served, studio, stream(*whole))
    assert joined(found) == joined(whole)


async def test_each_node_s_texts_are_counted_up_to_its_end(served: Served, studio: Studio) -> None:
    records = [said("a", "1"), said("b", "2"), said("c", "1"), said("d", "2"), said("e", "1", last=True)]
    found = await played(served, studio, stream(*records, said("f", "2", last=True), said("g", "1", last=True), DONE))
    numbers = [(data["node_id"], data["node_seq_id"], data["content"]) for name, data in found if name == "Message"]
    assert numbers == [
        *(("1", "0", "a"), ("2", "0", "b"), ("1", "1", "c"), ("2", "1", "d"), ("1", "2", "e")),
        *(("2", "2", "f"), ("1", "0", "g")),
    ]


async def test_only_the_record_itself_says_that_a_long_last_text_goes_on(served: Served, studio: Studio) -> None:
    record = said(LONG, last=True, ext={"node_is_finish": True})
    found = await played(served, studio, stream(record, DONE))
    pieces = [data for name, data in found if name == "Message"]
    assert [data["node_is_finish"] for data in pieces] == [False, True]
    assert all(data["ext"] == {"node_is_finish": True} for data in pieces)
    assert "".join(data["content"] for data in pieces) == LONG


async def test_a_half_of_a_pair_without_its_partner_is_in_the_node_s_last_record(
    served: Served, studio: Studio
) -> None:
    half = stream(said("a"), said("", last=True), DONE).replace('"a"', '"a\\ud83d"')
    found = await played(served, studio, half)
    assert [(data["content"], data["node_is_finish"]) for name, data in found if name == "Message"] == [
        ("a", False),
        ("\ufffd", True),
    ]


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


async def test_a_record_with_something_too_deep_to_be_passed_on_keeps_its_node(served: Served, studio: Studio) -> None:
    text = stream(said("a", "1"), said("b", "2", last=True, ext=nested(100)), DONE)
    found = await played(served, studio, text)
    assert [(data["node_id"], data["node_title"], data["content"]) for name, data in found if name == "Message"] == [
        ("1", "N1", "a"),
        ("2", "N2", "b"),
    ]


async def test_an_interrupt_with_something_too_deep_to_be_passed_on_is_asked_all_the_same(
    served: Served, studio: Studio
) -> None:
    asked = {"event_id": "7569/1", "type": 5, "data": "{}"}
    fields = {"interrupt_data": asked, "node_title": "输入"}
    found = await played(served, studio, stream(said("a"), ("Interrupt", fields | {"ext": nested(100)})))
    assert found[-1] == ("Interrupt", fields)
