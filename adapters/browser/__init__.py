"""The page and the client module, read once and served from memory.

Every file has a route of its own, so no path from outside is ever joined to a folder: a path without a route is 404.
"""

import gzip
import hashlib
import html
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aiohttp import hdrs, web

from adapters.services import SERVICES
from gateway.config.settings import Settings

PAGE_PATH = "/sse-stream-test.html"

_HERE = Path(__file__).parent
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".ts": "text/plain; charset=utf-8",  # a table of MIME types would say video/mp2t
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".md": "text/markdown; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
# Browsers ask again each time (mostly answered by 304), so that page, module and gateway are always of one version.
_CACHE_CONTROL = "no-cache"


@dataclass(frozen=True, slots=True)
class _Asset:
    """One file's body, plain and packed. `headers` go with 200 and 304 alike."""

    body: bytes
    packed: bytes
    etag: str
    headers: dict[str, str]

    def response(self, request: web.Request) -> web.Response:
        packs = "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, "").lower() and len(self.packed) < len(self.body)
        etag = f"{self.etag}-gz" if packs else self.etag
        headers = {**self.headers, hdrs.ETAG: f'"{etag}"'}
        known = request.if_none_match or ()
        if any(tag.value in (etag, "*") for tag in known):
            return web.Response(status=304, headers=headers)
        if packs:
            headers[hdrs.CONTENT_ENCODING] = "gzip"
        return web.Response(body=self.packed if packs else self.body, headers=headers)


def add_routes(app: web.Application) -> None:
    """Serves the page, what it loads, and `/client/`."""
    told = _told(app[SERVICES].settings) if SERVICES in app else {}
    for path, file in _files():
        body = file.read_bytes()
        if path == PAGE_PATH:
            for name, content in told.items():
                place = f'<meta name="{name}" content="">'.encode()
                if place not in body:
                    raise RuntimeError(f"{file.name} has lost its place for {name}")
                body = body.replace(place, f'<meta name="{name}" content="{html.escape(content)}">'.encode())
        app.router.add_get(path, _handler(_asset(path, body, _TYPES.get(file.suffix, _TYPES[".txt"]))))


def _told(settings: Settings) -> dict[str, str]:
    """The page's settings: hosts whose media it may load without asking, and whether the simulator's faults can be
    used."""
    return {
        "gateway-media-hosts": " ".join(settings.media_hosts),
        "gateway-upstream": "coze" if settings.asks_coze else "",
    }


def _files() -> Iterator[tuple[str, Path]]:
    """Each served file with its path outside: the page, `/page/…` (with `vendor/`) and `/client/…` (with `legs/`)."""
    yield PAGE_PATH, _HERE / "page" / "index.html"
    folders = {"page": "/page", "vendor": "/page/vendor", "client": "/client", "client/legs": "/client/legs"}
    for folder, prefix in folders.items():
        for file in sorted((_HERE / folder).iterdir()):
            if file.is_file() and file.name != "index.html":
                yield f"{prefix}/{file.name}", file


@cache  # packing all of them takes some 40 ms, and a process may serve several apps
def _asset(path: str, body: bytes, content_type: str) -> _Asset:
    headers: dict[str, str] = {
        hdrs.CONTENT_TYPE: content_type,
        hdrs.CACHE_CONTROL: _CACHE_CONTROL,
        hdrs.VARY: hdrs.ACCEPT_ENCODING,
    }
    if path.startswith("/client/"):  # public code, for pages of any origin; it carries no credentials
        headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = "*"
        headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return _Asset(body, gzip.compress(body, 9, mtime=0), hashlib.sha256(body).hexdigest()[:32], headers)


def _handler(asset: _Asset) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def serve(request: web.Request) -> web.Response:
        return asset.response(request)

    return serve
