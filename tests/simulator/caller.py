"""A caller of the simulated Coze that looks at bytes, not events, and forgives nothing that an SDK would forgive."""

import asyncio
import json
import re
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from gateway.simulator import Simulator

_RECORD = re.compile(rb"event:([a-z_.]+)\ndata:([^\n\r]*)\n\n")

Record = tuple[str, Any]
"""An event's name and its data, decoded from JSON."""


def chat_body(message: str, **fields: Any) -> dict[str, Any]:
    question = {"role": "user", "type": "question", "content": message, "content_type": "text"}
    return {"bot_id": "75", "user_id": "u", "stream": True, "additional_messages": [question]} | fields


def exact_records(stream: bytes) -> list[Record]:
    """The stream's records. Fails at any byte that does not fit Coze's own framing."""
    records, at = [], 0
    while at < len(stream):
        match = _RECORD.match(stream, at)
        assert match is not None, f"not Coze's framing at byte {at}: {stream[at : at + 120]!r}"
        records.append((match[1].decode(), json.loads(match[2])))
        at = match.end()
    return records


def deltas(records: list[Record]) -> str:
    return "".join(data["content"] for event, data in records if event == "conversation.message.delta")


class Caller:
    """One client of one simulator."""

    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self._session = session

    def post(self, message: str, *, conversation_id: str = "", token: str = "t", **fields: Any) -> Any:
        """`POST /v3/chat`, as a context that holds the response."""
        return self._session.post(
            f"{self.simulator.url}/v3/chat",
            params={"conversation_id": conversation_id},
            json=chat_body(message, **fields),
            headers={"Authorization": f"Bearer {token}"},
            allow_redirects=False,
        )

    async def stream(self, message: str, **fields: Any) -> bytes:
        async with self.post(message, **fields) as response:
            answer: bytes = await response.read()
            return answer

    async def records(self, message: str, **fields: Any) -> list[Record]:
        return exact_records(await self.stream(message, **fields))

    async def start(self, message: str, **fields: Any) -> dict[str, Any]:
        """Starts a chat that is not streamed; the Chat."""
        async with self.post(message, stream=False, **fields) as response:
            chat: dict[str, Any] = (await response.json())["data"]
            return chat

    async def ask(self, method: str, path: str, *, token: str = "t", **arguments: Any) -> tuple[int, Any]:
        """The status of the answer and its JSON, or its text when it is none."""
        headers = {"Authorization": f"Bearer {token}"}
        url = self.simulator.url + path
        async with self._session.request(method, url, headers=headers, **arguments) as response:
            if response.content_type == "application/json":
                return response.status, await response.json()
            return response.status, await response.text()

    async def retrieve(self, chat: dict[str, Any]) -> dict[str, Any]:
        _, answer = await self.ask("GET", "/v3/chat/retrieve", params=_ids(chat))
        state: dict[str, Any] = answer["data"]
        return state

    async def messages(self, chat: dict[str, Any]) -> list[dict[str, Any]]:
        _, answer = await self.ask("GET", "/v3/chat/message/list", params=_ids(chat))
        messages: list[dict[str, Any]] = answer["data"]
        return messages

    async def cancel(self, chat: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = (await self.ask("POST", "/v3/chat/cancel", json=_ids(chat)))[1]
        return answer

    async def finished(self, chat: dict[str, Any]) -> dict[str, Any]:
        """Retrieves until the chat is over."""
        async with asyncio.timeout(10):
            while (state := await self.retrieve(chat))["status"] == "in_progress":
                pass
            return state


def _ids(chat: dict[str, Any]) -> dict[str, str]:
    return {"conversation_id": chat["conversation_id"], "chat_id": chat["id"]}


async def raw_exchange(
    url: str, message: str, *, limit: int = 1 << 20, within: float = 1.0, total: float = 10.0
) -> tuple[bytes, str]:
    """Posts a message over a bare socket. Returns the head and body that came, and how the connection ended.

    The end is `eof`, `reset`, `silence` when `within` seconds brought nothing, or `limit` when `limit` bytes came or
    `total` seconds went by.
    """
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    body = json.dumps(chat_body(message)).encode()
    head = f"POST /v3/chat HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: Bearer t\r\nConnection: close\r\n"
    writer.write(head.encode() + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    got = b""
    until = asyncio.get_running_loop().time() + total
    try:
        while len(got) < limit and asyncio.get_running_loop().time() < until:
            async with asyncio.timeout(within):
                block = await reader.read(65536)
            if not block:
                return got, "eof"
            got += block
        return got, "limit"
    except ConnectionResetError:
        return got, "reset"
    except TimeoutError:
        return got, "silence"
    finally:
        writer.close()
