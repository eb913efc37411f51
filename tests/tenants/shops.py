"""A gateway whose shops have credentials of their own, and the file that names them."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from adapters.tenants import TenantsFile
from tests.edge.whole import Whole, whole
from tests.transports.coze import Coze, told_coze

TWO = """
[a]
coze_api_token = "token-of-a"
bots = ["bot-a"]
[b]
coze_api_token = "token-of-b"
"""
"""Two shops, of which the first may ask one bot."""


class Shops:
    """The gateway, the Coze that it asks, and the tenants file."""

    def __init__(self, gateway: Whole, coze: Coze, file: Path) -> None:
        self.gateway = gateway
        self.coze = coze
        self._file = file

    @property
    def file(self) -> TenantsFile:
        assert self.gateway.services.shops is not None
        return self.gateway.services.shops

    async def write(self, text: str) -> None:
        """Writes the file, and has it read as the gateway does when it is asked to."""
        self._file.write_text(text)
        await self.file.look(asked=True)

    async def ask(self, shop: str | None, message: str = "hello", bot: str = "bot-a", **more: Any) -> tuple[int, Any]:
        """Starts a turn. Returns the status and the answer, once the turn has ended or with `wait` before that."""
        headers = more.pop("headers", {})
        body = {"userId": "u", "botId": bot, "message": message, **more} | ({"shopId": shop} if shop else {})
        url = f"{self.gateway.url}/api/coze/chat"
        async with self.gateway.session.post(url, json=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def begin(self, shop: str, message: str) -> str:
        """Starts a turn without waiting for its end. Returns its id."""
        status, answer = await self.ask(shop, message, headers={"Prefer": "wait=0"})
        assert status == 202, answer
        return str(answer["turnId"])

    async def state(self, turn: str) -> Any:
        async with self.gateway.session.get(f"{self.gateway.url}/api/coze/turns/{turn}") as answer:
            return await answer.json()


@contextlib.asynccontextmanager
async def shops(folder: Path, text: str = TWO, **settings: Any) -> AsyncIterator[Shops]:
    """The tests say when the file is looked at, not the clock."""
    file = folder / "tenants.toml"
    with patch("adapters.tenants.LOOK_EVERY", 3600.0):
        async with told_coze() as coze:
            file.write_text(text)
            asked = {"tenants_file": file, "coze_api_base": coze.url} | settings
            async with whole(folder, **asked) as gateway:
                yield Shops(gateway, coze, file)
