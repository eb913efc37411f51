"""Asks one question and prints the answer, even if connections break. Run: .venv/bin/python examples/ask.py 你好"""

import asyncio
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

GATEWAY = os.environ.get("GATEWAY_URL", "http://127.0.0.1:3000")
HEADERS = {"Authorization": f"Bearer {token}"} if (token := os.environ.get("TOKEN")) else {}
BODY = {"userId": "u-17", "botId": "7566252531572473891", "shopId": "test-shop"}
LAST = ("completed", "cancelled", "error")


async def events(message: str) -> AsyncIterator[dict[str, Any]]:
    """Yields each event of the turn once. A POST that is repeated with its key and position continues the same turn."""
    headers = {**HEADERS, "Idempotency-Key": str(uuid.uuid4())}
    timeout = aiohttp.ClientTimeout(total=None, sock_read=40)  # heartbeats come every 15 seconds
    delay = 0.5
    async with aiohttp.ClientSession(GATEWAY, timeout=timeout, read_bufsize=2**22) as session:
        while True:
            try:
                async with session.post(
                    "/api/coze/chat/stream", json={**BODY, "message": message}, headers=headers
                ) as answer:
                    if answer.status in (429, 503):
                        delay = float(answer.headers.get("Retry-After", 1))
                    elif answer.status != 200:
                        raise SystemExit(f"{answer.status}: {await answer.text()}")
                    async for line in answer.content:
                        if line.startswith(b"data: "):
                            event = json.loads(line[6:])
                            headers["Last-Event-ID"] = event.get("id", headers.get("Last-Event-ID", "0"))
                            delay = 0.5
                            yield event
                            if event["event"] in LAST:
                                return
            except (aiohttp.ClientError, TimeoutError) as error:
                print(f"\n[{type(error).__name__}, coming back]", file=sys.stderr)
            await asyncio.sleep(delay)
            delay = min(2 * delay, 8)


async def main(message: str) -> None:
    async for event in events(message):
        if event["event"] == "message" and "contentType" not in event:
            if event.get("replace"):
                print("\n[rewritten]", file=sys.stderr)
            print(event["content"], end="", flush=True)
        elif event["event"] == "reset":
            print(f"\n[the whole text so far]\n{event['content']}", end="", flush=True)
        elif event["event"] in LAST:
            print(f"\n[{event['event']}] {event.get('error', '')}", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "你好"))
