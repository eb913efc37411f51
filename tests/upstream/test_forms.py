"""Coze's streams in the forms that proxies may give them, read by us, by a simple model, and by Coze's own client."""

import asyncio
import gzip
import json
import random
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.errors import UpstreamError
from gateway.upstream.protocol import Answer, ChatCompleted, ChatFailed, ChatRequest, Created, Delta, Item, Reasoning
from tests.upstream.conftest import Connect
from tests.upstream.servers import SAMPLES, Peer, Play, sample, serving
from tests.upstream.test_first_word import Heard, cut

with warnings.catch_warnings(record=True):
    import cozepy  # a module of authlib that it imports warns

NAMES = sorted(path.name for path in SAMPLES.glob("*.sse") if path.name.startswith(("chat", "studio")))
REQUEST = ChatRequest("b", "u", "m")


@dataclass
class Found:
    """What is found in a stream, by the model or by the gateway."""

    chat: tuple[str, str] | None = None
    texts: dict[tuple[str, str], str] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    failures: list[int | None] = field(default_factory=list)
    completed: int = 0

    def add(self, kind: str, message_id: str, text: str) -> None:
        self.texts[kind, message_id] = self.texts.get((kind, message_id), "") + text


def whole(text: str, *, over: bool) -> str:
    """Halves joined; one at the end that nobody says the last word on may still find its partner in Coze's record."""
    if not over and "\ud800" <= text[-1:] <= "\udbff":
        text = text[:-1]
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def model(text: bytes, *, clean: bool) -> Found:
    """The stream read the simple way: split at blank lines, then by each record's name."""
    *blocks, rest = text.split(b"\n\n")
    found, over = Found(), False
    for at, block in enumerate([*blocks, rest] if clean else blocks):
        lines = dict(line.split(b":", 1) for line in block.split(b"\n") if b":" in line)
        name = lines.get(b"event", b"").strip().decode().removeprefix("conversation.")
        if name in ("done", "stream.done") and b"data" in lines:
            break
        try:
            data = json.loads(lines.get(b"data", b""))
        except ValueError:
            assert at == len(blocks), block  # what was cut
            continue
        match name:
            case "chat.created" | "chat.in_progress" if found.chat is None:
                found.chat = (str(data["id"]), str(data["conversation_id"]))
            case "message.delta" if data["type"] == "answer":
                found.add("reasoning", str(data["id"]), data.get("reasoning_content") or "")
                found.add("text", str(data["id"]), data["content"])
            case "message.completed" if data["type"] == "answer":
                found.answers.append(data["content"])
            case "chat.failed" | "error":
                error = data.get("last_error") or data
                found.failures.append(int(error["code"]))
                over = True
            case "chat.completed":
                found.completed += 1
                over = True
            case "chat.requires_action":
                over = True
            case _:
                pass
    found.texts = {key: joined for key, value in found.texts.items() if (joined := whole(value, over=over))}
    return found


def heard(items: list[Item]) -> Found:
    found = Found()
    for item in items:
        match item:
            case Created(chat_id, conversation_id):
                found.chat = (chat_id, conversation_id)
            case Delta(message_id, text):
                found.add("text", message_id, text)
            case Reasoning(message_id, text):
                found.add("reasoning", message_id, text)
            case Answer(_, content):
                found.answers.append(content)
            case ChatFailed(coze_code):
                found.failures.append(coze_code)
            case ChatCompleted():
                found.completed += 1
            case _:
                pass
    return found


# -- the forms


def numbers(text: bytes) -> bytes:
    return re.sub(rb'"((?:\w+_)?id)":"(\d+)"', rb'"\1":\2', text)


def torn(text: bytes, rng: random.Random) -> bytes:
    """Pieces cut in two at any UTF-16 unit, as upstreams do that count so. Its JSON is escaped."""
    records = []
    for record in text.split(b"\n\n"):
        begin, _, data = record.partition(b"data:")
        if b"message.delta" in begin and rng.random() < 0.5:
            piece = json.loads(data)
            content = piece["content"].replace("，", "😀").replace(" ", "👩‍👩‍👧")
            units = content.encode("utf-16-le")
            at = 2 * rng.randrange(len(units) // 2 + 1)
            for half in (units[:at], units[at:]):
                said = json.dumps(piece | {"content": half.decode("utf-16-le", "surrogatepass")})
                records.append(begin + b"data:" + said.encode())
        else:
            records.append(record)
    return b"\n\n".join(records)


PACKINGS: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.compress, "deflate": zlib.compress}


def form(seed: int) -> tuple[bytes, bool, Play]:
    """A sample in a form: its plain text, whether its end is a clean one, and how it is sent."""
    rng = random.Random(seed)
    text = sample(rng.choice(NAMES))[:60_000]
    text = text[: text.rfind(b"\n\n") + 2]
    if rng.random() < 0.5:
        text = numbers(text)
    if rng.random() < 0.5:
        text = torn(text, rng)
    if rng.random() < 0.7:
        text = text[: rng.randrange(len(text) + 1)]
    clean = rng.random() < 0.6
    packing = rng.choice(["", "", "gzip", "deflate"]) if clean else ""
    label = rng.choice(["text/event-stream", "application/json", "text/plain", ""])
    body = PACKINGS[packing](text)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {label}\r\nConnection: close\r\nContent-Encoding: {packing}\r\n"
    head += f"Content-Length: {len(body) + (0 if clean else 1)}\r\n\r\n"
    return text, clean, cut(head.encode() + body, rng.choice([7, 300, 5000, 10**6]))


@pytest.mark.parametrize("first", range(0, 400, 50))
async def test_a_stream_in_any_form_says_what_a_simple_reader_reads(connect: Connect, first: int) -> None:
    seeds: dict[str, Play] = {}
    kinds: Counter[str] = Counter()
    refusals: list[tuple[int, tuple[bool, bool]]] = []

    async def play(peer: Peer) -> None:
        assert peer.request is not None
        await seeds[json.loads(peer.request.body)["user_id"]](peer)

    async with serving(play) as server, connect(server.url) as coze:
        for seed in range(first, first + 50):
            text, clean, seeds[str(seed)] = form(seed)
            expected = model(text, clean=clean)
            try:
                stream = await coze.chat(ChatRequest("b", str(seed), "m"), items := Heard())
            except UpstreamError as error:
                nothing = Found(failures=expected.failures)
                empty = None in (error.coze_code, *expected.failures) or len(text) < 8  # no more than a beginning
                kept = (expected == nothing, error.coze_code in expected.failures or empty)
                refusals.append((seed, kept))
                kinds["refused"] += 1
                continue
            async with asyncio.timeout(10):
                end = await stream.ended()
            stream.close()
            assert heard(items) == expected, seed
            kinds[end] += 1
    assert [seed for seed, kept in refusals if kept != (True, True)] == []
    assert len(kinds) >= 3, kinds


# -- Coze's own client


READABLE = ["chat-plain.sse", "chat-reasoning.sse", "chat-tool-call.sse", "chat-multi-answer.sse", "chat-rewritten.sse"]


@pytest.mark.parametrize("name", READABLE)
@pytest.mark.parametrize("packing", PACKINGS)
async def test_cozes_own_client_reads_the_same(connect: Connect, name: str, packing: str) -> None:
    """It refuses halves of characters, ids as numbers, and other labels; what it can read, it reads as we do."""
    text = sample(name)
    body = PACKINGS[packing](text)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: {packing or 'identity'}\r\n"
    data = (head + f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body
    async with serving(cut(data, 1000)) as server, connect(server.url) as coze:
        stream = await coze.chat(REQUEST, items := Heard())
        await stream.ended()
        stream.close()
        theirs = await asyncio.to_thread(official, server.url)
    assert heard(items) == theirs


def official(url: str) -> Found:
    found = Found()
    with cozepy.SyncHTTPClient() as http:
        client: Any = cozepy.Coze(cozepy.TokenAuth("pat_x"), url, http)
        for event in client.chat.stream(bot_id="b", user_id="u"):
            match event.event.value.removeprefix("conversation."):
                case "chat.created":
                    found.chat = (event.chat.id, event.chat.conversation_id)
                case "message.delta":
                    found.add("text", event.message.id, event.message.content)
                    found.add("reasoning", event.message.id, event.message.reasoning_content or "")
                case "message.completed" if event.message.type == cozepy.MessageType.ANSWER:
                    found.answers.append(event.message.content)
                case "chat.completed":
                    found.completed += 1
    found.texts = {key: joined for key, value in found.texts.items() if (joined := whole(value, over=True))}
    return found
