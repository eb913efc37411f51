"""The guard, which every request passes. It checks Host and Origin, and sets the headers that every answer carries.

It is one middleware and one `on_response_prepare` signal, so that streams get the headers too. It decides by headers
alone, before any route runs: a page on another site can make a browser send a request, but can't choose its Origin.
"""

import ipaddress
import re
from collections.abc import Iterable, MutableMapping
from functools import lru_cache
from typing import Any, Final

from aiohttp import HttpVersion11, hdrs, web

from adapters.edge.aiohttp_parts import name_server
from adapters.edge.failures import (
    REFUSALS,
    STRANGE_EXPECTATION,
    Handler,
    InvalidRequest,
    Mistake,
    bad_framing,
    errors_middleware,
    request_id,
)
from gateway.config.settings import Settings, is_loopback
from gateway.errors import Code, GatewayError

PAGE: Final = "/sse-stream-test.html"
PAGE_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        # Any host is allowed, because a person may click to load a picture. Before the click the page sets no `src`.
        "img-src 'self' data: blob: https: http:",
        "media-src 'self' data: blob: https: http:",
        "font-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",  # the page's sanitizer
    )
)
"""The page's Content-Security-Policy: no inline code, no foreign code, no call to another host."""

_CHANGING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_OPERATORS: Final = ("/metrics", "/debug/")
_CONFIG: Final = "/api/coze/config"
_ALLOWED_HEADERS: Final = (
    "Accept-Language, Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Prefer"
    ", traceparent, tracestate, baggage"  # W3C Trace Context and Baggage, which pages with tracing send
    ", X-Gateway-Turn, X-Gateway-After, X-Coze-Client-User-Agent, Agw-Js-Conv"  # for the door that speaks Coze's API
)
_EXPOSED_HEADERS: Final = (
    "X-Turn-Id, X-Conversation-Id, X-Request-Id, Retry-After, Location, X-Tt-Logid, X-Gateway-Turn"
)
_PREFLIGHT_SECONDS: Final = "7200"
_ORIGIN = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{1,5}))?", re.ASCII)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{1,5}))?", re.ASCII)
_AUTHORITY_END = re.compile(r"[/?#]")
_DEFAULT_PORT: Final = {"http": "80", "https": "443"}
_NOTHING_LOADS: Final = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class Guard:
    """The gate of one listener. `operators` marks the listener for `/metrics` and `/debug/…`."""

    def __init__(self, settings: Settings, *, host: str | None = None, operators: bool = False) -> None:
        self._on_loopback = settings.on_loopback if host is None else is_loopback(host)
        self._operators = operators
        self._hosts = frozenset(settings.allowed_hosts)
        self._any_host = not self._hosts and not self._on_loopback
        self._origins = frozenset(settings.allowed_origins)

    def install(self, app: web.Application) -> None:
        """Puts the error table, this gate and the headers around every route of `app`."""
        app.middlewares.append(errors_middleware)
        app.middlewares.append(self.middleware)
        app.on_response_prepare.append(self.add_headers)
        name_server("coze-gateway")

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = request.headers
        if "Transfer-Encoding" in headers and not _plainly_chunked(request):
            return bad_framing(request)
        if not self._any_host and not self.knows_host(_asked_host(request)):
            raise GatewayError(Code.MISDIRECTED, "the Host is not in GATEWAY_ALLOWED_HOSTS")
        origin = headers.get("Origin")
        if origin is not None:
            if not (trusted := self.trusts(request, origin)):
                self._tell_of(origin, request)
            method = request.method
            preflight = method == "OPTIONS" and "Access-Control-Request-Method" in headers
            refusable = preflight or method in _CHANGING or "Upgrade" in headers or request.path == _CONFIG
            if refusable and not trusted:
                raise GatewayError(Code.FORBIDDEN_ORIGIN, "the Origin is not in GATEWAY_ALLOWED_ORIGINS")
            if preflight:
                return web.Response(status=204)
        if STRANGE_EXPECTATION in request:
            raise InvalidRequest([Mistake("Expect", "is not 100-continue")], status=400)
        if request.path.startswith(_OPERATORS) and not self._for_operators(headers):
            raise GatewayError(Code.NOT_FOUND)
        return await handler(request)

    def _tell_of(self, origin: str, request: web.Request) -> None:
        origin = origin.lower()
        if (refusals := request.app.get(REFUSALS)) is not None and (origin == "null" or _ORIGIN.fullmatch(origin)):
            refusals.unshared(origin)

    def knows_host(self, host: str | None) -> bool:
        """Whether `Host` names this server. HTTP/1.0 may come without one; a browser never does."""
        if host is None:
            return True
        if (match := _HOST.fullmatch(host.lower())) is None:
            return False
        name = match[1].strip("[]").removesuffix(".")  # a name with a final dot is the same name
        if self._operators and _is_address(name):  # probes and Prometheus come to an address; DNS can't rebind one
            return True
        return name in self._hosts if self._hosts else _is_loopback_name(name)

    def trusts(self, request: web.BaseRequest, origin: str) -> bool:
        """Whether a page of this origin may change something: the origin is ours, or the operator lists it."""
        if len(request.headers.getall("Origin")) > 1:
            return False
        origin = origin.lower()  # scheme and host have no case (RFC 6454, section 4)
        return origin in self._origins or is_same_origin(origin, _asked_host(request) or "")

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Runs before the head of any answer is sent, including streams and files."""
        headers = response.headers
        protect(headers, request)
        if request.path == PAGE:
            headers["Content-Security-Policy"] = PAGE_POLICY
            headers["Cross-Origin-Opener-Policy"] = "same-origin"
        if "Access-Control-Allow-Origin" in headers:  # public code is the same for every origin
            return
        if request.path == _CONFIG and response.status == web.HTTPForbidden.status_code:
            # Without this header, a refused page could not tell the refusal from a gateway that is down.
            headers["Access-Control-Allow-Origin"] = "*"
        vary = headers.get("Vary")
        headers["Vary"] = "Origin" if vary is None else f"Origin, {vary}"
        if self._origins and "Origin" in request.headers:
            origin, *more = request.headers.getall("Origin")
            if not more and origin.lower() in self._origins:
                self._share_with(origin, request, headers)

    def _share_with(self, origin: str, request: web.Request, headers: Any) -> None:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Allow-Credentials"] = "true"  # the cookie `gateway_token`, to listed origins only
        headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS
        if request.method == hdrs.METH_OPTIONS:
            headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, PATCH, DELETE"
            headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
            headers["Access-Control-Max-Age"] = _PREFLIGHT_SECONDS

    def _for_operators(self, headers: Iterable[str]) -> bool:
        """On the main listener, only for clients on this machine whose request came through no proxy."""
        return self._operators or (self._on_loopback and not came_through_proxy(headers))


def protect(headers: MutableMapping[str, str], request: web.BaseRequest) -> None:
    """The headers that every answer carries."""
    headers["X-Request-Id"] = request_id(request)
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "no-referrer"
    headers["Content-Security-Policy"] = _NOTHING_LOADS
    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    headers.setdefault("Cache-Control", "no-store")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_same_origin(origin: str, host: str) -> bool:
    """Whether host and port of `origin` (lower case) are those of the `Host` header. The scheme may differ behind a
    proxy."""
    if (of_page := _ORIGIN.fullmatch(origin)) is None or (of_server := _HOST.fullmatch(host.lower())) is None:
        return False  # "null" too: sandboxed frames and local files have no origin
    default = _DEFAULT_PORT[of_page[1]]
    return of_page[2].removesuffix(".") == of_server[1].removesuffix(".") and (of_page[3] or default) == (
        of_server[2] or default
    )


def came_through_proxy(headers: Iterable[str]) -> bool:
    return any(name.lower().startswith(("forwarded", "x-forwarded-", "x-real-ip", "via")) for name in headers)


def _asked_host(request: web.BaseRequest) -> str | None:
    """`Host`, or the host of a target in absolute form, which takes precedence (RFC 9112, section 3.2.2)."""
    target = request.raw_path
    if target.startswith("/") or "://" not in target:
        return request.headers.get("Host")
    return _AUTHORITY_END.split(target.split("://", 1)[1], maxsplit=1)[0]


def _plainly_chunked(request: web.BaseRequest) -> bool:
    """Whether every server and proxy on the way agrees on where this body ends (RFC 9112, section 6.1).

    HTTP/1.0 has no chunks, and of `gzip, chunked` some readers unpack the body and others don't.
    """
    return request.version >= HttpVersion11 and request.headers["Transfer-Encoding"].strip().lower() == "chunked"


@lru_cache(maxsize=64)
def _is_loopback_name(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
