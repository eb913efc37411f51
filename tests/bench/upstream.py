"""The upstream: Coze's v3 chat as a stream and nothing else, cheap enough to feed hundreds of turns at once.

It knows four of the simulator's words in a message, `first`, `rate`, `pieces` and `clock` (always on), and two of its
own: `slowly:N` sends the last N pieces at 50 a second, `hold:MS` waits before the end. Records are as Coze frames them,
one HTTP chunk each.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from itertools import count

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_WORD = re.compile(r"(first|rate|pieces|slowly|hold):([\d.]+)")
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
_ids = count(7_000_000_000_000_000_001)


def _chunk(event: str, data: str) -> bytes:
    record = f"event:{event}\ndata:{data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(record), record)


class Chat(asyncio.Protocol):
    """One connection. A chat is a row of timers on it; what is due at one moment goes out in one write."""

    def __init__(self) -> None:
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        length = int(match[1]) if (match := _LENGTH.search(head)) else 0
        if not found or len(rest) < length:
            return
        self._buffer = rest[length:]
        if not head.startswith(b"POST /v3/chat"):
            self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        self._begin(json.loads(rest[:length])["additional_messages"][-1]["content"])

    def _begin(self, message: str) -> None:
        asked = {name: float(value) for name, value in _WORD.findall(message)}
        self._rate, self._pieces = asked.get("rate", 50.0), int(asked.get("pieces", 200))
        self._slowly = self._pieces - int(asked.get("slowly", 0))
        self._hold = asked.get("hold", 0.0) / 1000
        self._due = time.time() + asked.get("first", 0.0) / 1000
        self._sent = 0
        self._whole: list[str] = []
        self._chat = {"id": str(next(_ids)), "conversation_id": str(next(_ids)), "bot_id": "1", "status": "created"}
        self._part = {"id": str(next(_ids)), "conversation_id": self._chat["conversation_id"], "bot_id": "1"}
        self._part |= {"role": "assistant", "type": "answer", "content": "@", "content_type": "text"}
        self._part |= {"chat_id": self._chat["id"], "section_id": self._chat["conversation_id"]}
        self._before, self._after = json.dumps(self._part, separators=(",", ":")).split("@")
        running = self._chat | {"status": "in_progress"}
        self._transport.write(
            _HEAD
            + _chunk("conversation.chat.created", json.dumps(self._chat))
            + _chunk("conversation.chat.in_progress", json.dumps(running))
        )
        self._next()

    def _next(self) -> None:
        self._timer = self._loop.call_later(max(0.0, self._due - time.time()), self._tick)

    def _tick(self) -> None:
        now = time.time()
        ready: list[bytes] = []
        while self._sent < self._pieces and self._due <= now and len(ready) < 64:
            piece = f"{self._due:.6f} "
            self._whole.append(piece)
            ready.append(_chunk("conversation.message.delta", self._before + piece + self._after))
            self._sent += 1
            # As fast as can be, the moments still differ, so that a piece that comes twice can be told.
            rate = self._rate if self._sent < self._slowly else 50.0
            self._due = self._due + 1 / rate if rate else max(time.time(), self._due + 1e-6)
        self._transport.write(b"".join(ready))
        if self._sent < self._pieces:
            self._next()
        else:
            self._timer = self._loop.call_later(self._hold, self._end)

    def _end(self) -> None:
        done = self._part | {"content": "".join(self._whole)}
        usage = {"token_count": self._pieces, "output_count": self._pieces, "input_count": 0}
        over = self._chat | {"status": "completed", "usage": usage}
        self._transport.write(
            _chunk("conversation.message.completed", json.dumps(done))
            + _chunk("conversation.chat.completed", json.dumps(over))
            + _chunk("done", '"[DONE]"')
            + b"0\r\n\r\n"
        )


async def serve(port: int) -> None:
    """Listens on loopback until it is ended; says its URL in one line on stdout."""
    server = await asyncio.get_running_loop().create_server(Chat, "127.0.0.1", port, backlog=2048)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Coze's stream at any pace, for the bench.")
    parser.add_argument("--port", type=int, default=0)
    uvloop.run(serve(parser.parse_args().port))
