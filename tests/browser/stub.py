"""A small gateway that misbehaves on demand: the contract's routes over lists in memory.

`/w/NAME/…` is a world of its own, so that tests beside each other share nothing; without it, the world is the page's.
`POST …/stub` with the fields of `Manners` changes how a world behaves; `GET …/stub` tells what it saw.
"""

import asyncio
import json
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any

from aiohttp import BodyPartReader, WSMsgType, web

from adapters.browser import PAGE_PATH, add_routes

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob: http: https:; "
    "media-src 'self' data: blob: http: https:; connect-src 'self'; font-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types dompurify"
)


@dataclass(slots=True)
class Manners:
    """How a world behaves. Numbers that count down (`cuts`, `busy`, …) heal by themselves."""

    answer: str = "Hello **world**, this is the *stub*."
    reasoning: str = ""
    piece: int = 6
    """Characters in a piece."""
    delay: float = 0.01
    """Seconds between pieces."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """Sent before the text."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    """The calls whose outputs the turn waits for at half of its text."""
    suggestions: list[str] = field(default_factory=list)
    asks: bool = False
    """The answer ends with a question to the user."""
    fail: dict[str, Any] = field(default_factory=dict)
    """The fields of an `error` that ends the answer at half of its text."""
    streaming: bool = True
    transports: list[str] = field(default_factory=lambda: ["sse", "websocket", "longpoll"])
    retry: int = 100
    heartbeat: float = 15
    buffer_sse: bool = False
    refuse_sse: int = 0
    refuse_ws: bool = False
    mute_ws: bool = False
    cuts: int = 0
    """How many more connections are cut, each after `cut_after` events."""
    cut_after: int = 3
    busy: int = 0
    """How many more requests get 503 with `Retry-After`."""
    busy_code: str = "overloaded"
    """Or `rate_limited`, with 429."""
    retry_after: str = "1"
    break_poll: int = 0
    """How many more long-polls get a proxy's 502."""
    busy_feedback: int = 0
    """How many more times feedback gets 503."""
    busy_cancel: int = 0
    """How many more stops get 503 with `retry_after`."""
    told: int = 0
    """How many more streams are told to come back, with `told_retry`, after one event."""
    told_retry: int = 400
    lose_post: int = 0
    """How many more questions are taken and then cut before a byte of the answer."""
    hold_post: float = 0
    """Seconds between a question's taking and the first byte of its answer."""
    repeat: bool = False
    """Streams begin one event too early, as a careless gateway would."""
    stall_after: int = 0
    """The next stream says nothing more after so many events, not even heartbeats, and stays open."""
    hold_after: int = 0
    """Streams say nothing more after so many events, as behind a proxy that begins to buffer."""
    only_retry: int = 0
    """How many more streams end after the `retry:` that they begin with."""
    ws_junk: str = ""
    """What each socket says first."""
    tokens: list[str] = field(default_factory=list)
    """The bearer tokens that are taken; any, when there are none."""
    simulated: bool = False
    reset: bool = False
    """The next listener with a position gets `reset`."""


@dataclass(slots=True)
class Turn:
    id: str
    conversation: str
    input: str
    user: str
    cancelled: bool = False
    status: str = "running"
    text: str = ""
    first: int = 0
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody gave tool outputs, or cancelled."""

    @property
    def over(self) -> bool:
        return self.status not in ("queued", "running", "action_required")


class World:
    def __init__(self) -> None:
        self.manners = Manners()
        self.logs: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.turns: dict[str, Turn] = {}
        self.keys: dict[str, str] = {}
        self.seen: list[dict[str, Any]] = []
        self.configs = 0
        """How often the configuration was asked for."""
        self.outputs: list[dict[str, Any]] = []
        self.titles: dict[str, str | None] = {}
        self.feedback: dict[str, str] = {}
        self.news = asyncio.Condition()
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, body: dict[str, Any], key: str | None) -> Turn:
        if key and key in self.keys:
            return self.turns[self.keys[key]]
        conversation = body.get("conversationId") or f"conv_{uuid.uuid4()}"
        turn = Turn(f"turn_{uuid.uuid4()}", conversation, body.get("message", ""), body.get("userId", ""))
        turn.first = len(self.logs[conversation])
        others = [other for other in self.turns.values() if other.conversation == conversation]
        self.turns[turn.id] = turn
        if key:
            self.keys[key] = turn.id
        waits = body.get("onBusy") == "queue" and [t for t in others if not t.over]
        task = asyncio.get_running_loop().create_task(self.queue(turn, waits) if waits else self.write(turn))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return turn

    async def append(self, turn: Turn, event: dict[str, Any]) -> None:
        log = self.logs[turn.conversation]
        async with self.news:
            log.append({"id": f"stub-{len(log) + 1}", **event})
            self.news.notify_all()

    async def queue(self, turn: Turn, before: list[Turn]) -> None:
        """Begins when the turns before it have ended; one that is cancelled meanwhile leaves no trace."""
        turn.status = "queued"
        async with self.news:
            await self.news.wait_for(lambda: turn.cancelled or all(other.over for other in before))
        if turn.cancelled:
            turn.status = "cancelled"
            return
        turn.status, turn.first = "running", len(self.logs[turn.conversation])
        await self.write(turn)

    async def write(self, turn: Turn) -> None:
        m = self.manners
        ids = {"conversationId": turn.conversation, "turnId": turn.id}
        await self.append(turn, {"event": "started", **ids, "input": turn.input})
        for i in range(0, len(m.reasoning), 12):
            await asyncio.sleep(m.delay)  # the pace of its answer
            await self.append(turn, {"event": "reasoning", "content": m.reasoning[i : i + 12]})
        for event in m.events:
            await asyncio.sleep(m.delay)  # the pace of its answer
            await self.append(turn, event)
        text = m.answer[: len(m.answer) // 2] if m.fail else m.answer
        for i in range(0, len(text), m.piece):
            await asyncio.sleep(m.delay)  # the pace of its answer
            if m.tools and i >= len(text) // 2 and not turn.answered.is_set():
                turn.status = "action_required"
                await self.append(turn, {"event": "action_required", "toolCalls": m.tools})
                await turn.answered.wait()
                turn.status = "running"
            if turn.cancelled:
                turn.status = "cancelled"
                return await self.append(turn, {"event": "cancelled", **ids, "content": turn.text})
            piece = text[i : i + m.piece]
            turn.text += piece
            await self.append(turn, {"event": "message", "content": piece})
        if m.fail:
            turn.status = "failed"
            return await self.append(turn, {"event": "error", "retryable": True, **m.fail, **ids, "content": turn.text})
        for suggestion in m.suggestions:
            await self.append(turn, {"event": "suggestion", "content": suggestion})
        turn.status = "completed"
        last = {"event": "completed", **ids, "content": turn.text, "usage": {"token_count": 7}, "recovered": False}
        await self.append(turn, last | ({"awaitingReply": True} if m.asks else {}))

    def begin(self, scope: str, ident: str, after: str | None) -> int:
        """The index in the log after which a listener goes on."""
        turn = self.turns.get(ident)
        log = self.logs[turn.conversation if turn else ident]
        if after is None:
            running = [t.first for t in self.turns.values() if t.conversation == ident and not t.over]
            return turn.first if turn else (running[0] if running else len(log))
        index = 0 if after == "0" else next((i + 1 for i, e in enumerate(log) if e["id"] == after), 0)
        return max(index, turn.first) if turn else index

    async def listen(self, scope: str, ident: str, index: int) -> AsyncIterator[list[dict[str, Any]]]:
        """Batches of events; ends with a turn. An empty batch says that there was nothing for a heartbeat."""
        turn = self.turns.get(ident)
        log = self.logs[turn.conversation if turn else ident]
        while True:
            async with self.news:
                if index >= len(log):
                    if turn and turn.over:
                        return
                    try:
                        await asyncio.wait_for(self.news.wait(), self.manners.heartbeat)
                    except TimeoutError:
                        pass
                batch = log[index:]
            index += len(batch)
            yield batch
            if turn and any(e["event"] in ("completed", "cancelled", "error") for e in batch):
                return


WORLDS: web.AppKey[dict[str, World]] = web.AppKey("worlds")


def world(request: web.Request) -> World:
    found = request.app[WORLDS].setdefault(request.match_info.get("world", ""), World())
    return found


def note(request: web.Request, transport: str, **more: Any) -> None:
    position = request.headers.get("Last-Event-ID") or request.query.get("lastEventId") or request.query.get("after")
    world(request).seen.append({"transport": transport, "method": request.method, "position": position, **more})


def problem(status: int, code: str, **headers: str) -> web.Response:
    body = {"type": "about:blank", "title": code, "status": status, "detail": f"the stub says {code}", "code": code}
    return web.json_response(body, status=status, headers=headers, content_type="application/problem+json")


def busy(request: web.Request) -> web.Response | None:
    m = world(request).manners
    if m.busy <= 0:
        return None
    m.busy -= 1
    return problem(503 if m.busy_code == "overloaded" else 429, m.busy_code, **{"Retry-After": m.retry_after})


def after(request: web.Request) -> str | None:
    return request.headers.get("Last-Event-ID") or request.query.get("lastEventId") or request.query.get("after")


def token(request: web.Request) -> str | None:
    return request.headers.get("Authorization", "").removeprefix("Bearer ") or request.query.get("access_token")


async def control(request: web.Request) -> web.Response:
    w = world(request)
    if request.method == "POST":
        for name, value in (await request.json()).items():
            if name not in asdict(w.manners):
                raise web.HTTPBadRequest(text=f"no such manner: {name}")
            setattr(w.manners, name, value)
    return web.json_response(
        {"seen": w.seen, "configs": w.configs, "turns": len(w.turns), "manners": asdict(w.manners)}
    )


async def config(request: web.Request) -> web.Response:
    world(request).configs += 1
    m = world(request).manners
    return web.json_response(
        {
            "streaming": m.streaming,
            "transports": m.transports,
            "retryMs": m.retry,
            "heartbeatSeconds": m.heartbeat,
            "maxMessageChars": 16000,
            "maxUploadBytes": 10_000_000,
            "simulated": m.simulated,
            "needsToken": bool(m.tokens) and token(request) not in m.tokens,
            "version": "0",
        }
    )


async def start(request: web.Request) -> web.StreamResponse:
    w = world(request)
    note(request, "post", path="stream", key=request.headers.get("Idempotency-Key"))
    if not w.manners.streaming:
        return problem(404, "streaming_disabled")
    if refused := busy(request):
        return refused
    if w.manners.refuse_sse:
        return web.Response(status=w.manners.refuse_sse, text="<h1>proxy</h1>")
    body = await request.json()
    if not body.get("message") and "workflow" not in request.match_info:
        return problem(422, "invalid_request")
    turn = w.start(body, request.headers.get("Idempotency-Key"))
    await asyncio.sleep(w.manners.hold_post)  # as slow as a test wants it
    if w.manners.lose_post > 0:
        w.manners.lose_post -= 1
        assert request.transport is not None
        request.transport.close()
        return web.Response()
    headers = {"X-Turn-Id": turn.id, "X-Conversation-Id": turn.conversation}
    return await stream(request, "turns", turn.id, w.begin("turns", turn.id, after(request)), headers)


async def files(request: web.Request) -> web.Response:
    w = world(request)
    if refused := busy(request):
        return refused
    part = await (await request.multipart()).next()
    assert isinstance(part, BodyPartReader)
    note(request, "file", name=part.filename, field=part.name, query=dict(request.query))
    size = 0
    while piece := await part.read_chunk(65536):
        size += len(piece)
        await asyncio.sleep(w.manners.delay)  # as slow as a test wants it
    return web.json_response({"fileId": f"{7000 + size}", "fileName": part.filename, "bytes": size, "createdAt": 1})


async def ask(request: web.Request) -> web.Response:
    w = world(request)
    note(request, "post", path="chat", key=request.headers.get("Idempotency-Key"), prefer=request.headers.get("Prefer"))
    if refused := busy(request):
        return refused
    turn = w.start(await request.json(), request.headers.get("Idempotency-Key"))
    await asyncio.sleep(w.manners.hold_post)  # as slow as a test wants it
    if request.headers.get("Prefer") == "wait=0":
        ids = {"conversationId": turn.conversation, "turnId": turn.id, "status": turn.status}
        return web.json_response(ids, status=202, headers={"Location": f"/api/coze/turns/{turn.id}"})
    async for _ in w.listen("turns", turn.id, turn.first):
        if turn.status == "action_required":
            break
    ids = {"X-Turn-Id": turn.id, "X-Conversation-Id": turn.conversation}
    if turn.status != "failed":
        return record(w, turn, **ids)
    fail = {"retryable": True, **w.manners.fail}
    status = 429 if fail["code"] == "upstream_rate_limited" else 502
    fields = {"turnId": turn.id, "conversationId": turn.conversation, **fail, "detail": fail["error"], "status": status}
    fields.pop("error")
    return web.json_response(fields, status=status, headers=ids, content_type="application/problem+json")


async def run(request: web.Request) -> web.StreamResponse:
    """A run of a workflow: its stream, or, with `Prefer`, one answer."""
    if {"message", "workflowId"} & (await request.json()).keys():
        return problem(422, "invalid_request")
    return await (ask if "Prefer" in request.headers else start)(request)


def record(w: World, turn: Turn, **headers: str) -> web.Response:
    waits: dict[str, Any] = {"toolCalls": w.manners.tools} if turn.status == "action_required" else {}
    if w.manners.asks and turn.status == "completed":
        waits["awaitingReply"] = True
    return web.json_response(
        {
            **waits,
            "conversationId": turn.conversation,
            "turnId": turn.id,
            "status": turn.status,
            "content": turn.text,
            "reasoning": w.manners.reasoning,
            "suggestions": w.manners.suggestions,
            "usage": None,
            "error": {"retryable": True, **w.manners.fail} if turn.status == "failed" else None,
            "position": w.logs[turn.conversation][-1]["id"],
        },
        headers=headers,
    )


async def events(request: web.Request) -> web.StreamResponse:
    w = world(request)
    note(request, "sse")
    scope, ident = request.match_info["scope"], request.match_info["ident"]
    if scope == "turns" and ident not in w.turns:
        return problem(404, "not_found")
    if not w.manners.streaming:
        return problem(404, "streaming_disabled")
    if w.manners.refuse_sse:
        return web.Response(status=w.manners.refuse_sse, text="<h1>proxy</h1>")
    index = w.begin(scope, ident, after(request))
    if w.manners.repeat and index:
        index -= 1
    turn = w.turns.get(ident)
    if turn and turn.over and index >= len(w.logs[turn.conversation]):
        return web.Response(status=204)
    return await stream(request, scope, ident, index, {})


async def stream(
    request: web.Request, scope: str, ident: str, index: int, headers: dict[str, str]
) -> web.StreamResponse:
    w = world(request)
    m = w.manners
    told = m.told > 0
    if told:
        m.told -= 1
    cut = m.cut_after if m.cuts > 0 else -1
    if cut >= 0:
        m.cuts -= 1
    response = web.StreamResponse(headers={"Cache-Control": "no-cache, no-transform", **headers})
    response.content_type = "text/event-stream"
    if not m.buffer_sse:
        await response.prepare(request)
        await response.write(f"retry: {m.retry}\n\n".encode())
    if m.only_retry > 0:
        m.only_retry -= 1
        return response
    held = b""
    stall = 0
    reset = m.reset and after(request) is not None
    if reset:
        m.reset = False
        turn = w.turns[ident]
        index = len(w.logs[turn.conversation])
        position = w.logs[turn.conversation][-1]["id"]
        event = {"event": "reset", "id": position, "reason": "expired", "turnId": turn.id, "content": turn.text}
        await response.write(f"id: {position}\ndata: {json.dumps(event)}\n\n".encode())
    async for batch in w.listen(scope, ident, index):
        data = b"".join(f"id: {e['id']}\ndata: {json.dumps(e)}\n\n".encode() for e in batch[: cut if cut > 0 else None])
        if m.buffer_sse:
            held += data
            continue
        await response.write(data or b":\n\n")
        if m.stall_after and (stall := stall + len(batch)) >= m.stall_after:
            m.stall_after = 0
            await asyncio.Event().wait()
        if m.hold_after and (stall := stall + len(batch)) >= m.hold_after:
            await asyncio.Event().wait()
        if cut >= 0 and (cut := cut - len(batch)) <= 0:
            assert request.transport is not None
            request.transport.close()
            return response
        if told:
            await response.write(f"retry: {m.told_retry}\n\n".encode())
            return response
    if m.buffer_sse:
        await response.prepare(request)
        await response.write(held)
    return response


async def websocket(request: web.Request) -> web.StreamResponse:
    w = world(request)
    note(request, "websocket")
    m = w.manners
    if m.refuse_ws:
        return web.Response(status=403, text="no upgrades here")
    scope, ident = request.match_info["scope"], request.match_info["ident"]
    if scope == "turns" and ident not in w.turns:
        return problem(404, "not_found")
    socket = web.WebSocketResponse(compress=False)  # Node 20 fails on what aiohttp compresses
    await socket.prepare(request)
    if m.ws_junk:
        await socket.send_str(m.ws_junk)
    cut = m.cut_after if m.cuts > 0 else -1
    if cut >= 0:
        m.cuts -= 1

    async def send() -> None:
        left = cut
        async for batch in w.listen(scope, ident, w.begin(scope, ident, after(request))):
            for event in batch:
                if not m.mute_ws:
                    await socket.send_str(json.dumps(event))
                left -= 1
                if left == 0:
                    assert request.transport is not None
                    request.transport.close()
                    return
        await socket.close(code=1000)

    sender = asyncio.get_running_loop().create_task(send())
    try:
        async for message in socket:
            if message.type == WSMsgType.TEXT and not m.mute_ws:
                await socket.send_str('{"type":"pong"}')
    finally:
        sender.cancel()
    return socket


async def poll(request: web.Request) -> web.Response:
    w = world(request)
    note(request, "longpoll")
    if w.manners.break_poll > 0:
        w.manners.break_poll -= 1
        return web.Response(status=502, text="<h1>proxy</h1>")
    scope, ident = request.match_info["scope"], request.match_info["ident"]
    if scope == "turns" and ident not in w.turns:
        return problem(404, "not_found")
    if refused := busy(request):
        return refused
    turn = w.turns.get(ident)
    log = w.logs[turn.conversation if turn else ident]
    index = w.begin(scope, ident, after(request))
    wait = float(request.query.get("wait", "25"))
    if index >= len(log) and wait and not (turn and turn.over):
        try:
            async with asyncio.timeout(wait):
                async for batch in w.listen(scope, ident, index):
                    if batch:
                        break
        except TimeoutError:
            pass
    batch = log[index:]
    turns_end = turn is not None and turn.over and index + len(batch) >= len(log)
    position = batch[-1]["id"] if batch else (log[index - 1]["id"] if index else "0")
    return web.json_response({"events": batch, "next": position, "ended": turns_end})


async def turn_record(request: web.Request) -> web.Response:
    w = world(request)
    turn = w.turns.get(request.match_info["ident"])
    return record(w, turn) if turn else problem(404, "not_found")


async def cancel(request: web.Request) -> web.Response:
    w = world(request)
    note(request, "cancel")
    if w.manners.busy_cancel > 0:
        w.manners.busy_cancel -= 1
        return problem(503, "overloaded", **{"Retry-After": w.manners.retry_after})
    turn = w.turns.get(request.match_info["ident"])
    if turn is None:
        return problem(404, "not_found")
    turn.cancelled = True
    turn.answered.set()
    async with w.news:
        w.news.notify_all()
    return web.Response(status=202)


async def outputs(request: web.Request) -> web.Response:
    w = world(request)
    w.outputs += (await request.json())["toolOutputs"]
    if (turn := w.turns.get(request.match_info["ident"])) is not None:
        turn.answered.set()
    return web.Response(status=202)


async def messages(request: web.Request) -> web.Response:
    w = world(request)
    found = []
    for turn in w.turns.values():
        if turn.conversation != request.match_info["ident"]:
            continue
        common = {"turnId": turn.id, "status": turn.status, "createdAt": "2026-01-01T00:00:00Z"}
        found.append({"id": f"{turn.id}-q", "role": "user", "content": turn.input, **common})
        if turn.over:
            given = {"feedback": w.feedback[turn.id]} if w.feedback.get(turn.id, "none") != "none" else {}
            found.append({"id": f"{turn.id}-a", "role": "assistant", "content": turn.text, **common, **given})
    return web.json_response({"messages": found, "hasMore": False})


async def conversations(request: web.Request) -> web.Response:
    w = world(request)
    found: dict[str, dict[str, Any]] = {}
    for turn in w.turns.values():
        title = w.titles.get(turn.conversation) or turn.input[:80]
        common = {"botId": "b", "shopId": None, "createdAt": 1_760_000_000.0, "updatedAt": 1_760_000_000.0}
        found.setdefault(turn.conversation, {"conversationId": turn.conversation, "title": title, **common})
    return web.json_response({"conversations": list(found.values())[::-1], "next": None})


async def rename(request: web.Request) -> web.Response:
    ident = request.match_info["ident"]
    title = world(request).titles[ident] = (await request.json())["title"]
    return web.json_response({"conversationId": ident, "title": title})


async def delete(request: web.Request) -> web.Response:
    w, ident = world(request), request.match_info["ident"]
    if ident not in [turn.conversation for turn in w.turns.values()]:
        return problem(404, "not_found")
    w.turns = {turn.id: turn for turn in w.turns.values() if turn.conversation != ident}
    return web.Response(status=204)


async def feedback(request: web.Request) -> web.Response:
    w, ident = world(request), request.match_info["ident"]
    if w.manners.busy_feedback > 0:
        w.manners.busy_feedback -= 1
        return problem(503, "storage_unavailable")
    given = w.feedback[ident] = (await request.json())["feedback"]
    return web.json_response({"turnId": ident, "feedback": given, "comment": "", "atCoze": True})


async def _kept(request: web.Request, response: web.StreamResponse) -> None:
    """A browser need not ask again for each of the page's files in every test: none of them changes."""
    if "Sec-Fetch-Dest" in request.headers and request.path.startswith(("/page/", "/client/")):
        response.headers["Cache-Control"] = "max-age=3600"


async def _secure(request: web.Request, response: web.StreamResponse) -> None:
    if request.path == PAGE_PATH:
        response.headers["Content-Security-Policy"] = CSP


@web.middleware
async def _auth(request: web.Request, handler: Any) -> web.StreamResponse:
    w = world(request)
    guarded = "/api/" in request.path and "config" not in request.path
    if guarded and w.manners.tokens and token(request) not in w.manners.tokens:
        return problem(401, "unauthorized")
    found: web.StreamResponse = await handler(request)
    return found


def make_app() -> web.Application:
    app = web.Application(middlewares=[_auth])
    app[WORLDS] = {}
    app.on_response_prepare.append(_secure)
    app.on_response_prepare.append(_kept)
    add_routes(app)
    for prefix in ("", "/w/{world}"):
        api = f"{prefix}/api/coze"
        app.router.add_route("*", f"{prefix}/stub", control)
        app.router.add_get(f"{api}/config", config)
        app.router.add_post(f"{api}/chat/stream", start)
        app.router.add_post(f"{api}/chat", ask)
        app.router.add_post(f"{api}/files", files)
        app.router.add_post(f"{api}/workflows/{{workflow}}/run", run)
        listening = f"{api}/{{scope:turns|conversations|shops}}/{{ident}}"
        app.router.add_get(f"{listening}/events", events)
        app.router.add_get(f"{listening}/ws", websocket)
        app.router.add_get(f"{listening}/poll", poll)
        app.router.add_get(f"{api}/turns/{{ident}}", turn_record)
        app.router.add_post(f"{api}/turns/{{ident}}/cancel", cancel)
        app.router.add_post(f"{api}/turns/{{ident}}/tool-outputs", outputs)
        app.router.add_put(f"{api}/turns/{{ident}}/feedback", feedback)
        app.router.add_get(f"{api}/conversations", conversations)
        app.router.add_patch(f"{api}/conversations/{{ident}}", rename)
        app.router.add_delete(f"{api}/conversations/{{ident}}", delete)
        app.router.add_get(f"{api}/conversations/{{ident}}/messages", messages)
    return app
