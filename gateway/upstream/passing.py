"""Passing on: a request of Coze's API that is handed to Coze as it came, and the answer that is handed back.

Each is sent once. Bodies flow both ways as they come, so that no whole body is ever in memory.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping

import aiohttp

from gateway.errors import Code, GatewayError, UpstreamError
from gateway.telemetry.ledger import Held
from gateway.upstream.calls import Calls
from gateway.upstream.passed import PassedRequest
from gateway.upstream.refusal import log_id_of

_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers about one connection alone (RFC 9110, 7.6.1)."""

_OURS = frozenset(
    {"host", "authorization", "cookie", "content-length", "expect", "origin", "referer", "forwarded", "via"}
)
"""Headers of a request that are meant for the gateway, or that we set."""

_THEIRS = frozenset({"set-cookie", "server", "date", "content-length", "x-tt-logid", "alt-svc"})
"""Headers of an answer that are not the gateway's to give, or that it sets."""


class Passed:
    """Implements `PassedAnswer`. Until it is closed it counts as a call that is under way."""

    def __init__(self, response: aiohttp.ClientResponse, held: Held, calls: Calls) -> None:
        calls.under_way += 1
        self._calls: Calls | None = calls
        self._response = response
        self._held = held
        self.status = response.status
        listed = of_connection(response.headers.getall("Connection", ()))
        self.headers = [
            (name, value) for name, value in response.headers.items() if _returns(name) and name.lower() not in listed
        ]
        self.length = response.content_length
        self.log_id = log_id_of(response.headers)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        try:
            while piece := await self._response.content.readany():
                yield piece
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            detail = f"Coze's answer broke off: {type(error).__name__}"
            raise UpstreamError(Code.UPSTREAM_UNAVAILABLE, detail, retryable=True, log_id=self.log_id) from None

    def close(self) -> None:
        self._response.close()
        self._held.close()
        if (calls := self._calls) is not None:
            self._calls = None
            calls.under_way -= 1


def of_connection(values: Iterable[str]) -> frozenset[str]:
    """The headers that a message's `Connection` says are about the connection, too."""
    return frozenset(name.strip().lower() for value in values for name in value.split(","))


def passes(name: str) -> bool:
    """Whether a request's header goes to Coze."""
    name = name.lower()
    return name not in _HOP and name not in _OURS and not name.startswith(("x-forwarded-", "x-real-ip", "x-gateway-"))


def _returns(name: str) -> bool:
    name = name.lower()
    return name not in _HOP and name not in _THEIRS and not name.startswith("access-control-")


class Bounded:
    """The pieces of a body, of which `too_large` is raised once they are more than `most` bytes. `failure` is why there
    are no more: what sends a body does not tell."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], most: int) -> None:
        self._pieces = pieces
        self._left = most
        self.failure: GatewayError | None = None

    def __aiter__(self) -> "Bounded":
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self._pieces)
            self._left -= len(piece)
            if self._left < 0:
                raise GatewayError(Code.TOO_LARGE)
        except GatewayError as error:
            self.failure = error
            raise
        return piece


def headers_for(request: PassedRequest, token: str) -> Mapping[str, str]:
    """The headers that are sent. Of one that comes twice, the values are joined (RFC 9110, 5.3)."""
    joined: dict[str, str] = {}
    for name, value in request.headers:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    joined["Authorization"] = f"Bearer {token}"
    if request.length is not None:
        joined["Content-Length"] = str(request.length)
    return joined
