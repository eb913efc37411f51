"""What Coze says in forms of its own, byte for byte, and what a listener sees of it. All are played at once."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.faults.coze import gateway, patience
from tests.faults.reading import Reader, client
from tests.processes import GatewayProcess
from tests.upstream.servers import Peer, json_answer, serving

CHAT = "75693122401188618"
"""The beginning of every chat's id; the row's number follows, so that the record of each can be found."""

LOG_ID = "20260101000000AA"


def head(*headers: str, label: str = "text/event-stream", length: int | None = None) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Type: {label}", f"X-Tt-Logid: {LOG_ID}", "Connection: close", *headers]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


H = head()


def event(name: str, data: Any) -> bytes:
    return f"event:{name}\ndata:{json.dumps(data)}\n\n".encode()


def chat(name: str, **fields: Any) -> bytes:
    """An event of the chat, whose id is put in as it is sent."""
    return event(f"conversation.chat.{name}", {"id": "@", "conversation_id": "8", "status": name} | fields)


def delta(text: str, **fields: Any) -> bytes:
    said = {"id": "9", "type": "answer", "content": text, "content_type": "text", "chat_id": "@"}
    return event("conversation.message.delta", said | fields)


def whole(text: str, kind: str = "answer", message_id: str = "9") -> bytes:
    said = {"id": message_id, "type": kind, "content": text, "content_type": "text", "chat_id": "@"}
    return event("conversation.message.completed", said)


def error(code: int) -> bytes:
    return event("error", {"code": code, "msg": "x"})


def failed(code: int) -> bytes:
    return chat("failed", last_error={"code": code, "msg": "x"})


DONE = event("done", "[DONE]")
GOOD = H + chat("created") + delta("hi") + whole("hi") + chat("completed") + DONE
CREATED = chat("created")
ASKS = {"submit_tool_outputs": {"tool_calls": [{"id": "", "type": "reply_message", "function": None}]}}
INTERRUPTED = whole('{"msg_type":"interrupt","data":""}', "verbose", "10")


def broken(text: bytes) -> bytes:
    """A body that is shorter than it was announced."""
    return head(length=len(text) + 1000) + text


@dataclass(frozen=True)
class Row:
    """What each message of a turn is answered, the last one again and again; and what must be seen of it."""

    name: str
    answers: tuple[bytes, ...]
    ends: str = "completed"
    text: str = "hi"
    posts: int = 1
    code: int | None = None
    log_id: str | None = None
    recovered: bool = False
    suggestions: tuple[str, ...] = ()
    status: str = "completed"
    record: str = "hi"
    empty_lists: int = 0
    within: float = 4.0
    asks: bool = False


LATER = {4009: "upstream_rate_limited", 4013: "upstream_rate_limited", 4016: "conversation_busy"}
LATER |= {4020: "upstream_rate_limited"}
ROWS = [
    *(Row(f"error event {code}, then better", (H + error(code), GOOD), posts=2) for code in (*LATER, 5000)),
    *(Row(f"first record failed {code}, then better", (H + failed(code), GOOD), posts=2) for code in LATER),
    *(
        Row(f"a JSON body labelled as a stream {code}", (H + json.dumps({"code": code}).encode(), GOOD), posts=2)
        for code in LATER
    ),
    *(Row(f"no event line {code}", (H + b'data: {"code":%d,"msg":"x"}\n\n' % code, GOOD), posts=2) for code in LATER),
    Row("error event 4016 for ever", (H + error(4016),), "conversation_busy", "", 4, 4016, LOG_ID, within=12),
    Row("first record failed 4028", (H + failed(4028), GOOD), "upstream_rejected", "", 1, 4028, LOG_ID),
    Row("first record failed 5000", (H + failed(5000), GOOD), "upstream_unavailable", "", 1, 5000, LOG_ID),
    Row("failed 4016 after created", (H + CREATED + failed(4016), GOOD), "conversation_busy", "", 1, 4016, LOG_ID),
    Row("error 4016 after created", (H + CREATED + error(4016), GOOD), "conversation_busy", "", 1, 4016, LOG_ID),
    Row(
        "JSON 4101 labelled as a stream",
        (H + b'{"code":4101,"msg":"x"}',),
        "upstream_unauthorized",
        "",
        1,
        4101,
        LOG_ID,
    ),
    Row("JSON 4000 labelled as a stream", (H + b'{"code":4000,"msg":"x"}',), "upstream_rejected", "", 1, 4000, LOG_ID),
    Row("a stream labelled as JSON", (GOOD.replace(b"text/event-stream", b"application/json"),)),
    Row("a failure without its blank line", (H + failed(4028)[:-2], GOOD), "upstream_rejected", "", 1, 4028, LOG_ID),
    Row("a failure without its line's end", (H + failed(4028)[:-1], GOOD), "upstream_rejected", "", 1, 4028, LOG_ID),
    Row("a failure, cut", (H + failed(4028)[:-9], GOOD), "upstream_failed", "", 1, None, LOG_ID),
    Row("a failure at a broken end", (broken(failed(4028)[:-1]), GOOD), "upstream_failed", "", 1, None, LOG_ID),
    Row(
        "a failure at a broken end, after created",
        (broken(CREATED + failed(4028)[:-1]), GOOD),
        "upstream_rejected",
        "",
        1,
        4028,
        LOG_ID,
        status="failed",
    ),
    Row("an answer whose last record has no blank line", ((H + CREATED + delta("hi") + chat("completed"))[:-2],)),
    Row("done without its blank line", ((GOOD)[:-2],)),
    Row("no event line 4000", (H + b'data: {"code":4000,"msg":"x"}\n\n',), "upstream_rejected", "", 1, 4000, LOG_ID),
    Row("all in one read with its head", (H + CREATED + failed(4000),), "upstream_rejected", "", 1, 4000, LOG_ID),
    Row("nothing but done", (H + DONE,), "upstream_empty", "", 1, None, LOG_ID),
    Row(
        "a pair over two pieces",
        (H + CREATED + delta("a\ud83d") + delta("\ude00b") + chat("completed") + DONE,),
        text="a😀b",
    ),
    Row("half a pair", (H + CREATED + delta("a\ud83d") + chat("completed") + DONE,), text="a\ufffd"),
    Row(
        "half a pair, then a break",
        (broken(CREATED + delta("a\ud83d")),),
        text="a😀!",
        record="a😀!",
        recovered=True,
    ),
    Row(
        "a late suggestion",
        (H + CREATED + delta("hi") + chat("completed") + whole("more?", "follow_up", "10") + DONE,),
        suggestions=("more?",),
    ),
    Row("a record that lags", (broken(CREATED),), recovered=True, empty_lists=4, within=8),
    Row(
        "ids that are numbers",
        (GOOD.replace(b'"@"', b"@").replace(b'"8"', b"8").replace(b'"9"', b"9"),),
    ),
    Row(
        "ids that are numbers, and a break",
        (broken((CREATED + delta("h")).replace(b'"@"', b"@").replace(b'"9"', b"9")),),
        recovered=True,
    ),
    Row(
        "completed, but failed",
        (H + CREATED + delta("hi") + chat("completed", status="failed", last_error={"code": 4028}) + DONE,),
        "upstream_rejected",
        "hi",
        1,
        4028,
        LOG_ID,
    ),
    Row(
        "a question",
        (H + CREATED + delta("h") + whole("hi") + chat("requires_action", required_action=ASKS) + DONE,),
        asks=True,
    ),
    Row("a question without words", (H + CREATED + chat("requires_action", required_action=ASKS),), text="", asks=True),
    Row("a question without a call", (H + CREATED + whole("hi") + chat("requires_action") + DONE,), asks=True),
    Row(
        "a question that only the record has",
        (H + CREATED + chat("requires_action") + DONE,),
        asks=True,
        recovered=True,
        status="requires_action",
    ),
    Row(
        "a question of a chatflow",
        (H + CREATED + delta("h") + whole("hi") + INTERRUPTED + event("done", {"debug_url": "x"}),),
        asks=True,
    ),
    Row(
        "an interruption of a bot's chat, which the record explains",
        (H + CREATED + whole("hi") + INTERRUPTED + DONE,),
        asks=True,
        recovered=True,
        status="requires_action",
    ),
]
UNCERTAIN = [row for row in ROWS if row.ends in ("upstream_rejected", "upstream_failed")]
"""Those that no operator's wish to repeat what is uncertain may repeat."""


@dataclass
class Coze:
    """Answers as the rows say. A message is its row's name."""

    posts: Counter[str] = field(default_factory=Counter)
    lists: Counter[str] = field(default_factory=Counter)

    async def play(self, peer: Peer) -> None:
        assert peer.request is not None
        target = urlsplit(peer.request.target)
        if target.path == "/v3/chat":
            name = json.loads(peer.request.body)["additional_messages"][0]["content"]
            number, row = next((number, row) for number, row in enumerate(ROWS) if row.name == name)
            answer = row.answers[min(self.posts[name], len(row.answers) - 1)]
            self.posts[name] += 1
            await peer.send(answer.replace(b"@", b"%s%02d" % (CHAT.encode(), number)))
            peer.writer.close()
            return
        chat_id = parse_qs(target.query).get("chat_id", [f"{CHAT}00"])[0]
        row = ROWS[int(chat_id.removeprefix(CHAT))]
        data: Any = {"id": chat_id, "status": row.status, "last_error": {"code": 4028}}
        if target.path.endswith("list"):
            self.lists[row.name] += 1
            said = {"id": 9, "chat_id": int(chat_id), "type": "answer", "content": row.record, "content_type": "text"}
            data = [] if self.lists[row.name] <= row.empty_lists else [said]
        await peer.send(json_answer(json.dumps({"code": 0, "data": data}).encode()))


@dataclass
class Play:
    reader: Reader
    posts: int
    seconds: float


async def play(process: GatewayProcess, row: Row, posts: Counter[str]) -> Play:
    reader = Reader()
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(patience(20)), client() as session:
        await reader.ask(session, process.url, row.name)
    return Play(reader, posts[row.name], loop.time() - began)


async def _plays(folder: Path, rows: list[Row], **settings: str) -> dict[str, Play]:
    coze = Coze()
    async with serving(coze.play) as server, gateway(folder, server.url, **settings) as process:
        played = await asyncio.gather(*(play(process, row, coze.posts) for row in rows))
    return {row.name: play for row, play in zip(rows, played, strict=True)}


@pytest.fixture(scope="module")
def plays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Play]:
    return asyncio.run(_plays(tmp_path_factory.mktemp("says"), ROWS))


@pytest.fixture(scope="module")
def bold(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Play]:
    folder = tmp_path_factory.mktemp("bold")
    return asyncio.run(_plays(folder, UNCERTAIN, GATEWAY_RETRY_UNCERTAIN="true"))


def judge(row: Row, play: Play) -> None:
    last = play.reader.last
    assert (last.get("code") or last["event"]) == row.ends, last
    assert play.posts == row.posts
    assert len(play.reader.named("notice", "retrying")) == row.posts - 1
    assert play.reader.text == last["content"] == row.text
    assert last.get("upstream", {}).get("code") == row.code
    assert last.get("upstream", {}).get("logId") == row.log_id
    assert last.get("recovered", False) is row.recovered
    assert last.get("awaitingReply", False) is row.asks
    assert [e["content"] for e in play.reader.named("suggestion")] == list(row.suggestions)
    assert play.seconds < patience(row.within)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_coze_says_is_what_is_seen(plays: dict[str, Play], row: Row) -> None:
    judge(row, plays[row.name])


@pytest.mark.parametrize("row", UNCERTAIN, ids=lambda row: row.name)
def test_nothing_that_coze_refused_or_failed_is_repeated_as_uncertain(bold: dict[str, Play], row: Row) -> None:
    judge(row, bold[row.name])


async def test_who_interrupts_waits_until_coze_lets_go_of_the_old_chat(tmp_path: Path) -> None:
    posts = 0

    async def play(peer: Peer) -> None:
        nonlocal posts
        assert peer.request is not None
        if urlsplit(peer.request.target).path != "/v3/chat":
            await peer.send(json_answer(b'{"code":0,"data":{}}'))
            return
        posts += 1
        if posts == 1:
            await peer.send((H + CREATED + delta("never")).replace(b"@", b"71"))
            await peer.closed()
        else:
            await peer.send([b"", b"", H + error(4016), H + failed(4016), GOOD][posts].replace(b"@", b"72"))
            peer.writer.close()

    async with serving(play) as server, gateway(tmp_path, server.url) as process, client() as session:
        first, second = Reader(), Reader()
        asking = asyncio.create_task(first.ask(session, process.url, "one"))
        await first.until(lambda reader: reader.text)
        async with asyncio.timeout(patience(10)):
            await second.ask(session, process.url, "two", conversationId=first.conversation_id, onBusy="interrupt")
            await asking
        assert first.last["event"] == "cancelled"
        assert (second.last["event"], second.text, posts) == ("completed", "hi", 4)
        assert len(second.named("notice", "retrying")) == 2
