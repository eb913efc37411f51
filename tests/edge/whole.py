"""The whole gateway in this process: real HTTP, SQLite, the simulated Coze; and tokens for its callers."""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from aiohttp import ClientSession, web

from adapters.composition import gateway, make_app
from adapters.edge.server import WebRunner
from adapters.services import Services
from gateway.config.settings import Settings
from tests.folders import prepared
from tests.waiting import until

SECRET = "a secret that is long enough for HS256, by some bytes"
BODY = {"message": "hello", "botId": "b"}


@dataclass
class Whole:
    """A running gateway and a client of it."""

    app: web.Application
    services: Services
    session: ClientSession
    url: str

    async def finished_turn(self, authorization: dict[str, str], **body: Any) -> dict[str, Any]:
        """A turn of the caller that has ended: its `conversationId` and `turnId`."""
        async with self.session.post(f"{self.url}/api/coze/chat", json=BODY | body, headers=authorization) as answer:
            assert answer.status == 200, await answer.text()
            turn: dict[str, Any] = await answer.json()
            return turn


@contextlib.asynccontextmanager
async def whole(folder: Path, **settings: Any) -> AsyncIterator[Whole]:
    """A gateway with these settings, quick answers and generous limits."""
    chosen = {"simulator_first_ms": 1, "simulator_rate": 100_000, "turns_per_minute": 1_000_000} | settings
    configured = Settings(data_dir=str(prepared(folder / "data")), **chosen)
    async with gateway(configured) as services:
        app = make_app(configured, services)
        runner = WebRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            async with ClientSession() as session:
                yield Whole(app, services, session, f"http://127.0.0.1:{runner.addresses[0][1]}")
        finally:
            await runner.cleanup()


def with_tokens(folder: Path) -> dict[str, Any]:
    """Settings that accept JWTs and the API keys `key-a`, `key-b` (one shop each) and `key-all`."""
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("key-a", "key-b", "key-all")}
    shops = {"key-a": "a", "key-b": "b", "key-all": "*"}
    (folder / "keys").write_text("".join(f"{name} {digests[name]} {shops[name]}\n" for name in digests))
    (folder / "secret").write_text(SECRET)
    return {"auth": "api-key,jwt", "api_keys_file": str(folder / "keys"), "jwt_secret_file": str(folder / "secret")}


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


def person(user: str, *, seconds: float = 86_400, **claims: Any) -> dict[str, str]:
    return key(jwt.encode({"sub": user, "exp": time.time() + seconds, **claims}, SECRET, "HS256"))


async def events_of(answer: Any) -> list[dict[str, Any]]:
    """The events of a stream that ends."""
    text = await answer.text()
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n") if line.startswith("data: ")]


async def within(seconds: float, awaitable: Any) -> Any:
    async with asyncio.timeout(seconds):
        return await awaitable


async def quiet(gateway: Whole, seconds: float = 10) -> None:
    """Waits until nobody is connected and nothing runs; fails with what is still open."""
    kinds = ("connection", "subscription", "turn", "upstream", "websocket")
    ledger = gateway.services.ledger
    try:
        await until(lambda: not any(ledger.count(kind) for kind in kinds), within=seconds)
    except TimeoutError:
        raise AssertionError(f"still open: {ledger.totals()}") from None
