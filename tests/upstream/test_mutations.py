"""Samples of Coze's streams, damaged at random but the same way each time: whatever comes, nothing breaks."""

import asyncio
import json
import random
import time
from collections import Counter

import msgspec
import pytest

from gateway.errors import UpstreamError
from gateway.upstream.coze_protocol import ChatReader
from gateway.upstream.protocol import ChatRequest, Done, Item, Skipped
from gateway.upstream.sse import SseDecoder
from tests.upstream.conftest import Connect
from tests.upstream.servers import LAST_CHUNK, SAMPLES, STREAM_HEAD, Peer, chunk, serving

NAMES = sorted(path.name for path in SAMPLES.glob("*.sse"))
TEXTS = {name: (SAMPLES / name).read_bytes()[:20_000] for name in NAMES}
NASTY = [
    b"\r",
    b"\n",
    b"\r\n\r\n",
    b"\0",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\xed\xa0\x80",
    "\u2028".encode(),
    b"\\ud800",
    b"\\udc00\\ud83d",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 3000,
    b'"',
    b"\\",
    b"null",
    b"data:",
    b"event:done\n",
    b"event:error\n",
    b"id:\0\n",
    b"retry:0\n",
    b":" * 100,
]


def mutated(seed: int) -> bytes:
    rng = random.Random(seed)
    text = bytearray(TEXTS[rng.choice(NAMES)])
    for _ in range(rng.randint(1, 12)):
        at = rng.randrange(len(text) + 1)
        to = min(len(text), at + rng.choice([1, 2, 10, 300]))
        match rng.randrange(7):
            case 0:
                text[at:to] = bytes(rng.randrange(256) for _ in range(to - at))
            case 1:
                del text[at:to]
            case 2:
                text[at:at] = text[at:to]
            case 3:
                text[at:at] = rng.choice(NASTY)
            case 4:
                text[at:to] = rng.choice(NASTY)
            case 5:
                text[at:at] = TEXTS[rng.choice(NAMES)][:3000]
            case 6:
                records = bytes(text).split(b"\n\n")
                rng.shuffle(records)
                text = bytearray(b"\n\n".join(records))
    return bytes(text)


def read(text: bytes, size: int) -> list[Item]:
    decoder, reader = SseDecoder(), ChatReader()
    items: list[Item] = []
    for i in range(0, len(text), size):
        items += reader.items(decoder.feed(text[i : i + size]))
    return items


@pytest.mark.parametrize("first", range(0, 500, 50))
def test_damaged_streams_give_items_and_nothing_else(first: int) -> None:
    skipped = 0
    for seed in range(first, first + 50):
        text = mutated(seed)
        began = time.monotonic()
        items = read(text, len(text))
        assert time.monotonic() - began < 1, seed
        assert read(text, random.Random(seed).randint(1, 500)) == items, seed
        assert len(msgspec.json.encode(items)) < 4 * len(text) + 10_000, seed
        assert Done() not in items[:-1], seed
        skipped += sum(isinstance(item, Skipped) for item in items)
    assert skipped, "the damage was felt"


@pytest.mark.parametrize("first", range(0, 100, 25))
async def test_damaged_answers_end_in_time_and_leave_nothing_open(connect: Connect, first: int) -> None:
    """Here HTTP itself is damaged too. The client's ledger is balanced after it."""

    async def play(peer: Peer) -> None:
        assert peer.request is not None
        seed = int(json.loads(peer.request.body)["user_id"])
        rng = random.Random(seed)
        text = mutated(seed)
        raw = bytearray(STREAM_HEAD + b"".join(chunk(text[i : i + 700]) for i in range(0, len(text), 700)) + LAST_CHUNK)
        for _ in range(rng.choice([0, 1, 5])):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        for i in range(0, len(raw), 3000):
            await peer.send(bytes(raw[i : i + 3000]))
        if rng.random() < 0.5:
            peer.writer.close()
        elif rng.random() < 0.5:
            peer.reset()

    ends: Counter[str] = Counter()
    async with serving(play) as server, connect(server.url, idle_timeout=0.2) as coze:
        for seed in range(first, first + 25):
            async with asyncio.timeout(3):
                try:
                    stream = await coze.chat(ChatRequest("b", str(seed), "m"), lambda items: None)
                except UpstreamError:
                    ends["refused"] += 1
                else:
                    ends[await stream.ended()] += 1
                    stream.close()
        assert len(server.requests) == 25
    assert len(ends) >= 3, ends
