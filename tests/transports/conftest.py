"""A gateway in the test's own process, over real HTTP, whose ledger must be back at its baseline afterwards."""

import asyncio
import contextlib
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from adapters.composition import gateway
from adapters.services import Services
from adapters.serving import listening
from gateway.config.settings import Settings
from tests.folders import prepared
from tests.transports.readers import Door, Event, sse_events
from tests.waiting import until


@dataclass
class Served:
    """A gateway that listens, and a client."""

    url: str
    services: Services
    session: aiohttp.ClientSession
    baseline: dict[str, int]
    """How many of each kind the ledger holds when nothing goes on."""

    def door(self, topic: str, **fields: Any) -> Door:
        return Door(self.session, self.url, topic, **fields)

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        """Status, headers and JSON of a POST's answer."""
        async with self.session.post(f"{self.url}{path}", json=body, headers=headers) as response:
            return response.status, response.headers, await response.json(content_type=None)

    async def get(self, path: str, **headers: str) -> tuple[int, Any, Any]:
        async with self.session.get(f"{self.url}{path}", headers=headers) as response:
            text = await response.text()
            return response.status, response.headers, await response.json(content_type=None) if text else None

    async def start(self, message: str, *, key: str | None = None, **fields: Any) -> Door:
        """Starts a turn without listening. Returns the door to it."""
        key = key or uuid.uuid4().hex
        sent = {"userId": "u", "botId": "b", "message": message, **fields}
        status, headers, answer = await self.post(
            "/api/coze/chat", sent, **{"Idempotency-Key": key, "Prefer": "wait=0"}
        )
        assert status == 202, answer
        assert headers["Location"] == f"/api/coze/turns/{answer['turnId']}"
        return self.door(f"turns/{answer['turnId']}", body=sent, key=key)

    @contextlib.asynccontextmanager
    async def stream(self, message: str, headers: dict[str, str] | None = None, **fields: Any) -> AsyncIterator[Any]:
        """`(response, events)` of a turn started as the contract's first route does."""
        body = {"userId": "u", "botId": "b", "message": message, **fields}
        async with self.session.post(f"{self.url}/api/coze/chat/stream", json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            async with contextlib.aclosing(sse_events(response)) as events:
                yield response, events

    async def ask(self, message: str, **fields: Any) -> list[Event]:
        """A whole turn's events."""
        async with asyncio.timeout(15), self.stream(message, **fields) as (_, events):
            return [event async for event in events]

    async def state(self, turn_id: str) -> Any:
        status, _, answer = await self.get(f"/api/coze/turns/{turn_id}")
        assert status == 200, answer
        return answer

    async def ended(self, turn_id: str, *, within: float = 10.0) -> Any:
        """Waits until a turn is over. Returns its state then."""

        async def end() -> Any:
            state = await self.state(turn_id)
            return state if state["status"] in ("completed", "failed", "cancelled") else None

        return await until(end, within=within)

    async def forgot(self, turn_id: str) -> bool:
        """Whether retention has removed a turn."""
        return await self.services.log.shelf.find(turn_id) is None

    async def quiet(self) -> None:
        """Cancels turns that still run, then waits until nothing is held."""
        running = list(self.services.turns._runner.turns.values())
        for live in running:
            self.services.turns._runner.cancel(live)
        await self.balanced()

    async def balanced(self, *, within: float = 5.0) -> None:
        """Waits until nothing is held any more. Fails with the resources that still are."""
        try:
            await until(lambda: not (self.held() or self.services.connections.open), within=within)
        except TimeoutError:
            held = {kind: self.services.ledger.list(kind) for kind in self.held()}
            raise AssertionError(f"still held: {held}, seats: {self.services.connections}") from None

    def held(self) -> dict[str, int]:
        """The resources that the ledger holds beyond its baseline."""
        return {
            kind: open - self.baseline.get(kind, 0)
            for kind, open in opened(self.services).items()
            if open > self.baseline.get(kind, 0)
        }


def opened(services: Services) -> dict[str, int]:
    return {kind: int(account["open"]) for kind, account in services.ledger.totals().items()}


Serve = Callable[..., Awaitable[Served]]


@contextlib.asynccontextmanager
async def serving(folder: Path, **settings: Any) -> AsyncIterator[Served]:
    """A gateway with the embedded simulated Coze, quick, and its client."""
    swift: dict[str, Any] = {
        "data_dir": prepared(folder / "data"),
        "port": 0,
        "simulator_first_ms": 10,
        "simulator_rate": 200,
        "turns_per_minute": 1_000_000,
        "max_connections_per_user": 100_000,
        "drain_seconds": 1,
    }
    chosen = Settings(**(swift | settings))
    async with (
        gateway(chosen) as services,
        listening(chosen, services) as (url, *_),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        yield Served(url, services, session, opened(services))
    assert not any(opened(services).values()), services.ledger


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installs the example of a transport from another package. Gives the folder into which it was installed."""
    source = shutil.copytree(Path(__file__).parent / "ndjson_example", tmp_path_factory.mktemp("ndjson") / "source")
    target = source.parent / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--disable-pip-version-check", "--target", str(target), str(source)]
    subprocess.run(command, check=True, timeout=60, stdin=subprocess.DEVNULL)
    return target


@pytest.fixture
def plugin(package: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example of a transport from another package, which this test's gateways find."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(package)])
    return package


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    """The lines that the gateway of this test has logged."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture
async def serve(tmp_path: Path, logs: list[EventDict]) -> AsyncIterator[Serve]:
    """`await serve(heartbeat_interval=1)`: a gateway. After the test its ledger must come back to its baseline."""
    async with contextlib.AsyncExitStack() as stack:
        count = 0

        async def start(**settings: Any) -> Served:
            nonlocal count
            count += 1
            served = await stack.enter_async_context(serving(tmp_path / str(count), **settings))
            stack.push_async_callback(served.quiet)
            return served

        yield start


@pytest.fixture
async def served(serve: Serve) -> Served:
    """A gateway with the defaults of these tests."""
    return await serve()
