"""Replies: the bodies of Coze's answers that are not streams."""

from typing import Any, Final

import msgspec
from aiohttp import web

from gateway.simulator.framing import with_half_pairs
from gateway.simulator.objects import Json

LOG_ID: Final = web.RequestKey("log_id", str)
"""Coze's name for the request."""

_PAGE = "<!DOCTYPE html><html><head><title>Error</title></head><body><h1>{status}</h1><p>gateway</p></body></html>"


def success(log_id: str, data: Any, *, ordered: bool = True, halved: bool = False) -> web.Response:
    """`data` in Coze's envelope; None leaves it out. `ordered`: keys in alphabetical order, as in calls that read.

    `halved`: the text contains `SURROGATE_MARK`s, which stand for half surrogate pairs.
    """
    body: Json = {"data": data, "code": 0, "msg": "", "detail": {"logid": log_id}}
    if data is None:
        del body["data"]
    encoded = msgspec.json.encode(body, order="sorted" if ordered else None)
    return _json(log_id, with_half_pairs(encoded) if halved else encoded, 200, {})


def problem(
    log_id: str, code: int, msg: str, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    body = {"code": code, "msg": msg, "detail": {"logid": log_id}}
    return _json(log_id, msgspec.json.encode(body), status, headers or {})


def page(status: int, headers: dict[str, str] | None = None) -> web.Response:
    """The page with which a proxy in front of Coze answers by itself."""
    return web.Response(status=status, text=_PAGE.format(status=status), content_type="text/html", headers=headers)


def _json(log_id: str, body: bytes, status: int, headers: dict[str, str]) -> web.Response:
    named = {"X-Tt-Logid": log_id, **headers}
    return web.Response(body=body, status=status, headers=named, content_type="application/json")
