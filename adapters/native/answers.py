"""JSON answers, which no cache may store."""

from typing import Any, Final

import msgspec
from aiohttp import web

NO_STORE: Final = {"Cache-Control": "no-store"}


def json_answer(fields: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(fields),
        status=status,
        content_type="application/json",
        headers={**NO_STORE, **(headers or {})},
    )
