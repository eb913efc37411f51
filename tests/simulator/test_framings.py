"""Framings: other bytes, the same events to a reader that keeps to the WHATWG rules."""

import json
from typing import Any

import pytest

from tests.simulator.caller import Caller


def dispatched(stream: bytes) -> list[tuple[str, Any]]:
    """The events of a whole stream by the WHATWG rules (HTML, 9.2.6), told as simply as they can be."""
    lines = stream.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    events: list[tuple[str, Any]] = []
    name, data = "", list[str]()
    for line in lines[:-1]:
        if not line:
            if data:
                events.append((name, json.loads("\n".join(data))))
            name, data = "", []
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
    return events


def without_ids(events: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    moving = {"id", "conversation_id", "chat_id", "section_id", "created_at", "updated_at", "completed_at"}
    return [
        (name, {key: value for key, value in data.items() if key not in moving} if isinstance(data, dict) else data)
        for name, data in events
    ]


@pytest.mark.parametrize(
    ("faults", "mark"),
    [
        ("crlf", b"\r\n\r\n"),
        ("cr", b"\r\r"),
        ("mixed", b"\r\n\r\n"),
        ("bom", b"\xef\xbb\xbf"),
        ("space", b"data: {"),
        ("comments", b"\n:inside"),
        ("ids", b"\nretry:"),
        ("multiline-data", b",\ndata:"),
        ("data-first", b"}\nevent:"),
        ("bytes", b"event:"),
        ("crlf bom space comments ids multiline-data data-first bytes", b"\r\nretry: 1"),
    ],
)
async def test_other_framings_give_the_same_events(caller: Caller, faults: str, mark: bytes) -> None:
    usual = await caller.stream("/fault pieces:9 plain 你好")
    other = await caller.stream(f"/fault pieces:9 plain {faults} 你好")
    assert mark.replace(b"retry: ", b"retry:") in other
    assert without_ids(dispatched(other)) == without_ids(dispatched(usual))


async def test_without_the_last_blank_line_the_last_event_is_not_dispatched(caller: Caller) -> None:
    stream = await caller.stream("/fault pieces:2 no-last-blank x")
    assert stream.endswith(b'data:"[DONE]"\n')
    assert not stream.endswith(b"\n\n")
    assert dispatched(stream)[-1][0] == "conversation.chat.completed"


async def test_cr_alone_leaves_no_line_feed(caller: Caller) -> None:
    stream = await caller.stream("/fault pieces:2 cr x")
    assert b"\n" not in stream
    assert stream.endswith(b"\r\r")


async def test_one_of_the_ids_holds_a_nul(caller: Caller) -> None:
    stream = await caller.stream("/fault pieces:3 ids x")
    assert b"id:2\x00\n" in stream
    assert b"id:3\n" in stream


async def test_the_self_hosted_variant_fails_with_an_error_event(caller: Caller) -> None:
    records = dispatched(await caller.stream("/fault studio failed:5000 plain x"))
    assert records[-1][0] == "error"
    assert records[-1][1]["code"] == 5000


async def test_the_older_shape_fails_inside_its_data(caller: Caller) -> None:
    stream = await caller.stream("/fault v2 failed:702242001 plain x")
    last = json.loads(stream.rstrip(b"\n").rpartition(b"data:")[2])
    assert last["event"] == "error"
    assert last["error_information"]["code"] == 702242001
