"""The same app on starlette, sse-starlette, httpx and uvicorn, each used as its docs have it."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from itertools import count

import httpx
import uvicorn
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

BASE = os.environ["COZE_API_BASE"]
ids = count(1)
tasks: set[asyncio.Task[None]] = set()


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

    async def listen(self) -> AsyncIterator[dict[str, str]]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        for text in self.said:
            queue.put_nowait(text)
        self.queues.add(queue)
        try:
            told = 0
            while not (self.over and told == len(self.said)):
                text = await queue.get()
                told += 1
                yield {"id": str(told), "data": text}
        finally:
            self.queues.discard(queue)


turns: dict[str, Turn] = {}


async def ask(client: httpx.AsyncClient, turn: Turn, message: str) -> None:
    body = {
        "bot_id": "1",
        "user_id": "1",
        "stream": True,
        "additional_messages": [{"role": "user", "content": message, "content_type": "text"}],
    }
    whole, event = [], ""
    async with client.stream("POST", f"{BASE}/v3/chat", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("event:"):
                event = line[6:]
            elif line.startswith("data:") and event == "conversation.message.delta":
                piece = json.loads(line[5:])["content"]
                whole.append(piece)
                turn.say(event="message", content=piece)
    turn.say(event="completed", content="".join(whole))


async def chat(request: Request) -> Response:
    message = (await request.json())["message"]
    name, turn = f"turn_{next(ids)}", Turn()
    turns[name] = turn
    turn.say(event="started", turnId=name, conversationId=name, input=message)
    task = asyncio.create_task(ask(request.app.state.client, turn, message))
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return EventSourceResponse(turn.listen(), headers={"X-Turn-Id": name, "X-Conversation-Id": name}, sep="\n")


async def events(request: Request) -> Response:
    return EventSourceResponse(turns[request.path_params["id"]].listen(), sep="\n")


async def quiet(request: Request) -> Response:
    return EventSourceResponse(Turn().listen(), sep="\n")


async def well(request: Request) -> Response:
    return PlainTextResponse("ok")


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=None) as app.state.client:
        yield


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/healthz", well),
        Route("/api/coze/chat/stream", chat, methods=["POST"]),
        Route("/api/coze/turns/{id}/events", events),
        Route("/api/coze/conversations/{id}/events", quiet),
    ],
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="critical", access_log=False)
