"""A hand-written app on aiohttp and aiohttp-sse, as one would write it in an afternoon: a queue per listener."""

import asyncio
import json
import os
from itertools import count

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from aiohttp_sse import sse_response

BASE = os.environ["COZE_API_BASE"]
ids = count(1)


class Turn:
    """What was said so far, and whom to tell what comes."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.queues: set[asyncio.Queue[str]] = set()
        self.over = False

    def say(self, **event: object) -> None:
        text = json.dumps(event | {"id": str(len(self.said) + 1)}, ensure_ascii=False)
        self.said.append(text)
        self.over = event["event"] == "completed"
        for queue in self.queues:
            queue.put_nowait(text)


async def ask(session: ClientSession, turn: Turn, message: str) -> None:
    body = {
        "bot_id": "1",
        "user_id": "1",
        "stream": True,
        "additional_messages": [{"role": "user", "content": message, "content_type": "text"}],
    }
    whole, event = [], ""
    async with session.post(f"{BASE}/v3/chat", json=body) as response:
        async for line in response.content:
            if line.startswith(b"event:"):
                event = line[6:].strip().decode()
            elif line.startswith(b"data:") and event == "conversation.message.delta":
                piece = json.loads(line[5:])["content"]
                whole.append(piece)
                turn.say(event="message", content=piece)
    turn.say(event="completed", content="".join(whole))


async def tell(request: web.Request, turn: Turn, headers: dict[str, str]) -> web.StreamResponse:
    queue: asyncio.Queue[str] = asyncio.Queue()
    for text in turn.said:
        queue.put_nowait(text)
    turn.queues.add(queue)
    try:
        async with sse_response(request, headers=headers, sep="\n", allow_all_methods=True) as response:
            told = 0
            while not (turn.over and told == len(turn.said)):
                await response.send(await queue.get(), id=str(told + 1))
                told += 1
            return response
    finally:
        turn.queues.discard(queue)


async def chat(request: web.Request) -> web.StreamResponse:
    message = (await request.json())["message"]
    name, turn = f"turn_{next(ids)}", Turn()
    request.app["turns"][name] = turn
    turn.say(event="started", turnId=name, conversationId=name, input=message)
    task = asyncio.create_task(ask(request.app["session"], turn, message))
    request.app["tasks"].add(task)
    task.add_done_callback(request.app["tasks"].discard)
    return await tell(request, turn, {"X-Turn-Id": name, "X-Conversation-Id": name})


async def events(request: web.Request) -> web.StreamResponse:
    return await tell(request, request.app["turns"][request.match_info["id"]], {})


async def quiet(request: web.Request) -> web.StreamResponse:
    return await tell(request, Turn(), {})


async def context(app: web.Application):  # type: ignore[no-untyped-def]
    app["turns"], app["tasks"] = {}, set()
    connector, timeout = TCPConnector(limit=0), ClientTimeout(total=None)
    async with ClientSession(connector=connector, timeout=timeout) as app["session"]:
        yield


async def well(request: web.Request) -> web.Response:
    return web.Response(text="ok")


app = web.Application()
app.cleanup_ctx.append(context)
app.router.add_get("/healthz", well)
app.router.add_post("/api/coze/chat/stream", chat)
app.router.add_get("/api/coze/turns/{id}/events", events)
app.router.add_get("/api/coze/conversations/{id}/events", quiet)

if __name__ == "__main__":
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=None, print=None, backlog=2048)
