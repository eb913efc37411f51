"""A gateway that stops answers every request that has reached it: a balancer must not send a question twice."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.processes import GatewayProcess
from tests.waiting import until

_REQUEST = (
    b"POST /api/coze/turns/turn_00000000-0000-4000-8000-000000000000/cancel HTTP/1.1\r\n"
    b"Host: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"
)


@dataclass
class Crowd:
    """Clients who ask one thing after the other, each over a new connection or over the one that was kept."""

    port: int
    kept: bool
    answered: int = 0
    refused: int = 0
    unanswered: list[str] = field(default_factory=list)

    async def ask(self) -> None:
        while not self.refused:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except ConnectionError:  # nothing was sent
                self.refused += 1
                return
            try:
                while await self._ask(reader, writer) and self.kept:
                    pass
            finally:
                writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection may be used again."""
        writer.write(_REQUEST)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.partition(b":")[2]))
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self.unanswered.append(repr(error))
            return False
        self.answered += 1
        return b"connection: close" not in head.lower()


@pytest.mark.parametrize("kept", [False, True])
async def test_whoever_reaches_a_gateway_that_stops_is_answered(tmp_path: Path, kept: bool) -> None:
    environment = {"GATEWAY_DATA_DIR": str(tmp_path), "GATEWAY_DRAIN_PAUSE_SECONDS": "0.5"}
    gateway = await GatewayProcess.hatch("serve", "--port", "0", environment=environment)
    try:
        crowd = Crowd(urlsplit(await gateway.ready()).port or 0, kept)
        asking = [asyncio.create_task(crowd.ask()) for _ in range(30)]
        async with asyncio.timeout(20):
            await until(lambda: crowd.answered > 300)
            assert await gateway.terminate() == 0
            await asyncio.gather(*asking)
    finally:
        await gateway.kill()
    assert crowd.unanswered == []
