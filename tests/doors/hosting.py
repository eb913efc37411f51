"""A server of the test's own, in the place of Coze or of a gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


@asynccontextmanager
async def hosted(app: web.Application, **runner: Any) -> AsyncIterator[str]:
    """Serves an application on a free port; its URL."""
    serving = web.AppRunner(app, access_log=None, **runner)
    await serving.setup()
    try:
        await web.TCPSite(serving, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{serving.addresses[0][1]}"
    finally:
        await serving.cleanup()
