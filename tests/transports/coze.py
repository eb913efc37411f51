"""A Coze that answers when the test tells it to, and remembers to which of its conversations each message came."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.upstream.servers import LAST_CHUNK, STREAM_HEAD, Peer, chunk, json_answer, serving


@dataclass
class Chat:
    """A message that came. With `silent` in it, `created` waits for `tell`; with `slow`, the answer for `finish`; with
    `cut`, the stream breaks after `finish`, and `status` is what Coze's record says."""

    id: str
    message: str
    asked: str
    """The `conversation_id` that it came with, "" for none."""
    name: str
    """Coze's own id of the conversation that it is in."""
    tell: asyncio.Event = field(default_factory=asyncio.Event)
    finish: asyncio.Event = field(default_factory=asyncio.Event)
    status: str = "in_progress"


class Coze:
    """`gone` holds conversations that do not exist any more. With `refuses_in_stream` the stream says so."""

    def __init__(self) -> None:
        self.url = ""
        self.chats: list[Chat] = []
        self.refused: list[str] = []
        self.gone: set[str] = set()
        self.refuses_in_stream = False
        self.cancelled: list[str] = []
        self.tokens: list[str] = []
        """The token of each request, of every kind."""
        self._news = asyncio.Condition()

    async def came(self, count: int, *, within: float = 10.0) -> Chat:
        """The nth message, counted from 1. Waits until it has come."""
        async with asyncio.timeout(within), self._news:
            await self._news.wait_for(lambda: len(self.chats) >= count)
        return self.chats[count - 1]

    @property
    def asked(self) -> list[str]:
        """The conversation that each message came with."""
        return [chat.asked for chat in self.chats]

    async def play(self, peer: Peer) -> None:
        assert peer.request is not None
        self.tokens.append(peer.request.headers["authorization"].removeprefix("Bearer "))
        target = urlsplit(peer.request.target)
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        body = json.loads(peer.request.body) if peer.request.body else {}
        match target.path:
            case "/v3/chat":
                await self._chat(peer, query.get("conversation_id", ""), body)
            case "/v3/chat/cancel":
                self.cancelled.append(body["chat_id"])
                await peer.send(json_answer(b'{"code":0,"data":{}}'))
            case "/v3/chat/retrieve":
                chat = next(chat for chat in self.chats if chat.id == query["chat_id"])
                await peer.send(json_answer(_data(self._object(chat))))
            case "/v3/chat/message/list":
                chat = next(chat for chat in self.chats if chat.id == query["chat_id"])
                await peer.send(json_answer(_data([self._answer(chat)])))

    async def _chat(self, peer: Peer, asked: str, body: Any) -> None:
        if asked in self.gone:
            self.refused.append(asked)
            if self.refuses_in_stream:
                await peer.send(STREAM_HEAD + _record("error", {"code": 4002, "msg": "gone"}) + LAST_CHUNK)
            else:
                await peer.send(json_answer(b'{"code":4002,"msg":"gone"}'))
            return
        number = len(self.chats) + 1
        message = body["additional_messages"][-1]["content"]
        chat = Chat(f"{7000 + number}", message, asked, asked or f"{9000 + number}")
        async with self._news:
            self.chats.append(chat)
            self._news.notify_all()
        await peer.send(STREAM_HEAD)
        if "silent" in message:
            await chat.tell.wait()
        await peer.send(_record("conversation.chat.created", self._object(chat)))
        if "slow" in message or "cut" in message:
            await chat.finish.wait()
        if "cut" in message:
            peer.reset()
            return
        chat.status = "completed"
        await peer.send(_record("conversation.message.completed", self._answer(chat)))
        await peer.send(_record("conversation.chat.completed", self._object(chat)))
        await peer.send(_record("done", "[DONE]") + LAST_CHUNK)

    def _object(self, chat: Chat) -> dict[str, Any]:
        return {"id": chat.id, "conversation_id": chat.name, "status": chat.status}

    def _answer(self, chat: Chat) -> dict[str, Any]:
        return {
            "id": f"6{chat.id}",
            "chat_id": chat.id,
            "conversation_id": chat.name,
            "role": "assistant",
            "type": "answer",
            "content": f"to {chat.message}",
            "content_type": "text",
        }


def _data(value: Any) -> bytes:
    return json.dumps({"code": 0, "msg": "", "data": value}).encode()


def _record(event: str, data: Any) -> bytes:
    return chunk(f"event:{event}\ndata:{json.dumps(data)}\n\n".encode())


@contextlib.asynccontextmanager
async def told_coze() -> AsyncIterator[Coze]:
    coze = Coze()
    async with serving(coze.play) as server:
        coze.url = server.url
        yield coze
