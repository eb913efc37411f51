"""The wire: entries of a log in each transport's bytes."""

import json

from hypothesis import given
from hypothesis import strategies as st

from adapters.transports import wire
from gateway.events import Notice, Text
from gateway.ids import LogKey
from gateway.log.entry import Entry
from gateway.log.epochs import Epochs
from gateway.log.tail import Tail

TAIL = Tail(LogKey("conv_1"), Epochs.parse("abc123"))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
ENTRIES = st.lists(st.builds(Entry.of, st.integers(1, 10**9), TEXTS.map(lambda t: Text("message", t))), max_size=5)


def frames(data: bytes) -> list[bytes]:
    """The payloads of a server's WebSocket text frames."""
    found = []
    while data:
        assert data[0] == 0x81
        size, at = data[1], 2
        if size > 125:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
        found.append(data[at : at + size])
        data = data[at + size :]
    return found


@given(ENTRIES)
def test_an_event_is_the_same_object_over_every_transport(entries: list[Entry]) -> None:
    wanted = [json.loads(b"{" + e.body + b"}") | {"id": f"abc123-{e.sequence}"} for e in entries]
    assert [json.loads(wire.event(TAIL, entry)) for entry in entries] == wanted
    assert [json.loads(payload) for payload in frames(wire.websocket(TAIL, entries))] == wanted
    polled = json.loads(wire.poll(TAIL, entries, after="abc123-0", ended=True))
    last = wanted[-1]["id"] if wanted else "abc123-0"
    assert polled == {"events": wanted, "next": last, "ended": True}
    (shared,) = frames(wire.shared('turns/ä"')(TAIL, entries))
    assert json.loads(shared) == {"topic": 'turns/ä"', "events": wanted}
    blocks = wire.sse(TAIL, entries).decode().split("\n\n")
    assert blocks.pop() == ""
    assert [block.split("\n")[0] for block in blocks] == [f"id: {event['id']}" for event in wanted]
    assert [json.loads(block.split("\n")[1].removeprefix("data: ")) for block in blocks] == wanted


@given(TEXTS)
def test_no_text_can_break_a_line_or_forge_a_record(text: str) -> None:
    data = wire.sse(TAIL, [Entry.of(1, Text("message", text))])
    assert data.count(b"\n") == 3
    assert b"\r" not in data
    assert len(data.decode().splitlines()) == 3


def test_the_notice_of_a_queued_turn_has_no_id_anywhere() -> None:
    entry = wire.queued()
    wanted = {"event": "notice", "code": "queued"}
    assert json.loads(wire.event(TAIL, entry)) == wanted
    assert wire.sse(TAIL, [entry]) == b'data: {"event":"notice","code":"queued"}\n\n'
    assert json.loads(wire.poll(TAIL, [entry], after="abc123-7", ended=False)) == {
        "events": [wanted], "next": "abc123-7", "ended": False
    }  # fmt: skip
    with_id = Entry.of(8, Notice("recovering"))
    assert json.loads(wire.poll(TAIL, [with_id, entry], after="x", ended=False))["next"] == "abc123-8"


def test_frames_of_every_size_say_it_as_the_protocol_wants() -> None:
    for size in (0, 1, 125, 126, 127, 65_535, 65_536, 100_000):
        assert frames(wire.frame(wire.TEXT, b"x" * size)) == [b"x" * size]


def test_a_close_frame_holds_its_code_and_at_most_as_many_words_as_fit() -> None:
    assert wire.close(1000) == b"\x88\x02\x03\xe8"
    long = wire.close(1013, "x" * 500)
    assert (long[0], long[1], len(long)) == (0x88, 125, 127)
