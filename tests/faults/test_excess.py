"""A Coze that says too much: its own turn ends with `error`, and nobody else waits or pays for it."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.bounds import MIB, TEXT_BYTES, TURN_BYTES
from tests.faults.coze import gateway
from tests.faults.reading import Reader, client
from tests.upstream.servers import LAST_CHUNK, STREAM_HEAD, Peer, Play, chunk, json_answer, serving

ENGLISH = {"Accept-Language": "en"}
CHAT, CONVERSATION = "7569312240118861864", "7569312240118845480"


def record(name: str, **fields: Any) -> bytes:
    return b"event:%b\ndata:%b\n\n" % (name.encode(), json.dumps(fields, ensure_ascii=False).encode())


def message(name: str, number: object, kind: str, content: str, form: str = "text", **more: Any) -> bytes:
    fields = {"id": str(number), "type": kind, "content": content, "content_type": form, "chat_id": CHAT}
    return record(f"conversation.message.{name}", conversation_id=CONVERSATION, role="assistant", **fields, **more)


def delta(number: object, content: str, **more: Any) -> bytes:
    return message("delta", number, "answer", content, **more)


def whole(number: object, content: str, kind: str = "answer", form: str = "text") -> bytes:
    return message("completed", number, kind, content, form)


CREATED = record("conversation.chat.created", id=CHAT, conversation_id=CONVERSATION, status="created")
COMPLETED = record("conversation.chat.completed", id=CHAT, conversation_id=CONVERSATION, status="completed")


def streams(records: Callable[[], Iterator[bytes]], batch: int = 60_000) -> Play:
    """Sends the records, several at once as a fast Coze would, and a good end."""

    async def play(peer: Peer) -> None:
        assert peer.request is not None
        if not peer.request.target.startswith("/v3/chat?") and peer.request.target != "/v3/chat":
            await peer.send(json_answer(b'{"code":0}'))
            return
        await peer.send(STREAM_HEAD + chunk(CREATED))
        held = b""
        for one in records():
            held += one
            if len(held) >= batch:
                await peer.send(chunk(held))
                held = b""
        await peer.send(chunk(held + COMPLETED + b'event:done\ndata:"[DONE]"\n\n') + LAST_CHUNK)

    return play


def audio() -> Iterator[bytes]:
    for _ in range(3000):
        yield record("conversation.audio.delta", id="5", content_type="audio", content="A" * 102_400, chat_id=CHAT)


def emoji() -> Iterator[bytes]:
    for _ in range(16_000):
        yield delta(1, "\N{GRINNING FACE}" * 1000)


def answers() -> Iterator[bytes]:
    for number in range(10_000):
        yield delta(number + 1, "x")


def rewritings() -> Iterator[bytes]:
    text = "a" * 1000
    yield from (delta(1, text) for _ in range(2000))
    for number in range(200):
        yield delta(number + 10, "ab") + whole(number + 10, f"b{number}")


def segments() -> Iterator[bytes]:
    for number in range(50_000):
        yield delta(1, "piece ") + whole(10**18 + number, '{"name":"t"}', "function_call")


def thinking() -> Iterator[bytes]:
    for _ in range(50_000):
        yield delta(1, "piece ") + delta(1, "", reasoning_content="hm")


def reasoning() -> Iterator[bytes]:
    for _ in range(6_000):
        yield delta(1, "", reasoning_content="\u601d\u8003" * 500)


def held_back() -> Iterator[bytes]:
    yield delta(1, "a") + delta(2, "b")
    for _ in range(300):
        yield delta(1, "h" * 100_000)


def suggestions() -> Iterator[bytes]:
    for number in range(20_000):
        yield whole("", f"why {number}?", "follow_up")


def silent_answers() -> Iterator[bytes]:
    for number in range(20_000):
        yield whole(10**18 + number, "")


def one_record() -> Iterator[bytes]:
    yield delta(1, "PLACE").replace(b"PLACE", b"\\ud83d" + b"x" * (15 * MIB))


def cards() -> Iterator[bytes]:
    for number in range(20_000):
        yield whole("", f"card {number}", form="card")


@pytest.mark.parametrize(
    "records",
    [
        audio,
        emoji,
        answers,
        rewritings,
        segments,
        thinking,
        reasoning,
        held_back,
        suggestions,
        silent_answers,
        one_record,
        cards,
    ],
    ids=lambda records: records.__name__,
)
async def test_a_turn_of_which_coze_says_too_much_ends_with_an_error_and_costs_little(
    records: Callable[[], Iterator[bytes]], tmp_path: Path
) -> None:
    async with (
        serving(streams(records)) as coze,
        gateway(tmp_path, coze.url) as process,
        client(headers=ENGLISH) as session,
    ):
        before = peak(process.pid, reset=True)
        reader = Reader()
        await reader.ask(session, process.url, "?")
        assert reader.last["event"] == "error"
        assert reader.last["code"] == "upstream_failed"
        assert "longer than allowed" in reader.last["error"]
        assert sum(len(json.dumps(event, ensure_ascii=False).encode()) for event in reader.events) < 3 * TURN_BYTES
        assert len(reader.text.encode()) <= TEXT_BYTES + 2 * MIB
        assert peak(process.pid) - before < 64 * MIB
        assert written(tmp_path) < 4 * TURN_BYTES
        async with session.get(f"{process.url}/api/coze/turns/{reader.turn_id}") as response:
            assert (await response.json())["status"] == "failed"


async def test_a_turn_within_its_bounds_is_whole_and_writes_no_more_than_it_has(tmp_path: Path) -> None:
    def many_tools() -> Iterator[bytes]:
        for number in range(8000):
            yield whole(10**18 + number, '{"name":"t","arguments":"%s"}' % ("x" * 90), "function_call")
        yield delta(1, "a" * 1_900_000) + delta(1, "the end")

    async with (
        serving(streams(many_tools, batch=1)) as coze,
        gateway(tmp_path, coze.url) as process,
        client() as session,
    ):
        reader = Reader()
        await reader.ask(session, process.url, "?")
        assert reader.last["event"] == "completed"
        assert reader.text.endswith("the end")
        assert len(reader.named("tool")) == 8000
        assert written(tmp_path) < 32 * MIB


def small_pieces(character: str, pieces: int, length: int) -> list[str]:
    return [character * length] * pieces


EIGHT = {
    "ascii": small_pieces("x", 2000, 4000),
    "chinese": small_pieces("好", 2000, 1333),
    "one piece": ["a", "x" * 8_000_000],
    "one piece of chinese": ["a", "好" * 2_666_000],
}
"""Answers of eight million bytes."""


@pytest.mark.parametrize("name", EIGHT)
async def test_an_answer_of_eight_million_bytes_is_whole_everywhere_and_costs_little(name: str, tmp_path: Path) -> None:
    pieces = EIGHT[name]
    text = "".join(pieces)
    # Measured: 50 to 56 MiB; one large piece that waits for its client while the database is written, 65 to 71.
    most = (80 if name == "one piece of chinese" else 64) * MIB

    def records() -> Iterator[bytes]:
        for piece in pieces:
            yield delta(1, piece)
        yield whole(1, text)

    async with (
        serving(streams(records)) as coze,
        gateway(tmp_path, coze.url) as process,
        client(headers=ENGLISH) as session,
    ):
        before = peak(process.pid, reset=True)
        reader = Reader()
        await reader.ask(session, process.url, "?")
        assert reader.last["event"] == "completed"
        assert reader.text == reader.last["content"] == text
        assert peak(process.pid) - before < most
        turn = f"{process.url}/api/coze/turns/{reader.turn_id}"
        async with session.get(turn) as response:
            assert (await response.json())["content"] == text
        async with session.get(f"{turn}/events") as response:  # somebody who comes late
            assert (await response.read()).count(text[-1000:].encode()) >= 2
        assert peak(process.pid) - before < most
        assert written(tmp_path) < 6 * len(text.encode())  # 5.1 once it is saved: pieces, then whole; twice on the disk


def written(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("log.db*"))


def peak(pid: int, *, reset: bool = False) -> int:
    """The most memory that a process has had, in bytes, since the last reset."""
    if reset:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
