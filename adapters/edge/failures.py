"""The one table of failures: a problem's code -> HTTP status, WebSocket close code, advised wait.

Before a stream has begun, a failure is `application/problem+json` (RFC 9457). Foreign exceptions are translated here:
whatever a route raises becomes one of `gateway.errors.Code`, and nothing of a traceback or a message's text gets out.
"""

import math
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import structlog
from aiohttp import web

from adapters.edge.aiohttp_parts import HttpProcessingError, has_begun
from adapters.edge.languages import language
from gateway.errors import Code, GatewayError, UpstreamError
from gateway.events import Failed
from gateway.ids import new_token
from gateway.sentences import sentence, title

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PROBLEM_TYPE: Final = "application/problem+json"
COME_BACK_CLOSE_CODE: Final = 1012
"""Closes the WebSockets that are open when the gateway starts to drain ("service restart", IANA's registry)."""

STRANGE_EXPECTATION: Final = web.RequestKey("strange_expectation", bool)
"""Set when `Expect` asked for something other than `100-continue`."""


class Refusing(Protocol):
    """Is told of refused requests, and of what a browser should not have sent. Never raises and never waits."""

    def refused(self, request: web.Request, error: GatewayError) -> None:
        """A request, or a command on the shared socket, was answered with this problem."""

    def unshared(self, origin: str) -> None:
        """The browser hides the answer from a page of this origin, because no setting names the origin."""

    def key_in_page(self, name: str) -> None:
        """A browser sent the API key with this name."""


REFUSALS: Final = web.AppKey("refusals", Refusing)

_REQUEST_ID: Final = web.RequestKey("request_id", str)
_log = structlog.get_logger("gateway.http")


class _Row(NamedTuple):
    status: int
    close_code: int
    """RFC 6455, 7.4.1, and IANA: 1008 the peer broke a rule, 1009 too big, 1011 our fault, 1013 try again later."""
    wait: int = 0
    """Seconds for Retry-After when the error itself does not give them; 0 means no such header."""


_TABLE: Final[dict[Code, _Row]] = {
    Code.INVALID_REQUEST: _Row(422, 1008),
    Code.UNAUTHORIZED: _Row(401, 1008),
    Code.NOT_FOUND: _Row(404, 1008),
    Code.FORBIDDEN_ORIGIN: _Row(403, 1008),
    Code.REQUEST_TIMEOUT: _Row(408, 1008),
    Code.METHOD_NOT_ALLOWED: _Row(405, 1008),
    Code.UNSUPPORTED_MEDIA_TYPE: _Row(415, 1008),
    Code.MISDIRECTED: _Row(421, 1008),
    Code.STREAMING_DISABLED: _Row(404, 1008),
    Code.CONVERSATION_BUSY: _Row(409, 1008),
    Code.TOO_LARGE: _Row(413, 1009),
    Code.RATE_LIMITED: _Row(429, 1013, wait=2),
    Code.TOO_MANY_CONNECTIONS: _Row(429, 1013, wait=5),
    Code.OVERLOADED: _Row(503, 1013, wait=2),
    Code.DRAINING: _Row(503, 1013, wait=2),
    Code.UPSTREAM_UNAVAILABLE: _Row(502, 1011),
    Code.UPSTREAM_REJECTED: _Row(502, 1011),
    Code.UPSTREAM_RATE_LIMITED: _Row(429, 1011, wait=5),
    Code.UPSTREAM_UNAUTHORIZED: _Row(502, 1011),
    Code.UPSTREAM_EMPTY: _Row(502, 1011),
    Code.UPSTREAM_FAILED: _Row(502, 1011),
    Code.UPSTREAM_UNCERTAIN: _Row(502, 1011),
    Code.UPSTREAM_TIMEOUT: _Row(504, 1011),
    Code.STORAGE_UNAVAILABLE: _Row(503, 1011, wait=5),
    Code.INTERNAL: _Row(500, 1011),
}

COME_BACK: Final = frozenset({Code.OVERLOADED, Code.DRAINING, Code.TOO_MANY_CONNECTIONS, Code.RATE_LIMITED})
"""Refusals after which a listener should come back. A listening SSE route answers them with `sse_farewell` and 200."""

_FROM_STATUS: Final[dict[int, Code]] = {
    401: Code.UNAUTHORIZED,
    403: Code.NOT_FOUND,  # from aiohttp's static files: a file that may not be read counts as missing
    404: Code.NOT_FOUND,
    405: Code.METHOD_NOT_ALLOWED,
    408: Code.REQUEST_TIMEOUT,
    413: Code.TOO_LARGE,
    415: Code.UNSUPPORTED_MEDIA_TYPE,
    421: Code.MISDIRECTED,
}


class Mistake(NamedTuple):
    """One thing that is wrong with a request: the field (a path such as `attachments[0].url`), and what is wrong, in
    English."""

    field: str
    message: str
    named_by_client: bool = False  # the client made up the field's name, so it must not be logged


class InvalidRequest(GatewayError):
    """A request that is wrong in itself: 400 if it can't be parsed, 422 if its values are wrong."""

    def __init__(self, errors: Sequence[Mistake], *, status: int = 422) -> None:
        super().__init__(Code.INVALID_REQUEST, "; ".join(f"{e.field}: {e.message}".removeprefix(": ") for e in errors))
        self.errors = tuple(errors)
        self.status = status


class TooLarge(GatewayError):
    """A body of more than `most` bytes."""

    def __init__(self, most: int) -> None:
        super().__init__(Code.TOO_LARGE)
        self.most = most


def status_of(code: Code) -> int:
    return _TABLE[code].status


def close_code_of(code: Code) -> int:
    return _TABLE[code].close_code


def request_id(request: web.BaseRequest) -> str:
    """This request's id, for logs and headers. We make it ourselves and never take the client's."""
    try:
        return request[_REQUEST_ID]
    except KeyError:
        known = request[_REQUEST_ID] = new_token()
        return known


def problem(error: GatewayError | Failed, request: web.BaseRequest) -> web.Response:
    """The answer that says what went wrong. `Failed` is a turn's last event, for a client that waited for the whole
    turn."""
    code = Code(error.code)
    row = _TABLE[code]
    fields: dict[str, Any] = {
        "type": f"urn:coze-gateway:problem:{code.value}",
        "title": title(code),
        "status": error.status if isinstance(error, InvalidRequest) else row.status,
        "detail": error.error if isinstance(error, Failed) else sentence(code, language(request)),
        "code": code.value,
        "requestId": request_id(request),
    }
    wait: float | None = None
    if isinstance(error, Failed):
        fields |= {"retryable": error.retryable, "conversationId": error.conversation_id, "turnId": error.turn_id}
        if error.upstream:
            fields["upstream"] = error.upstream
    else:
        wait = error.retry_after
        if isinstance(error, InvalidRequest):
            fields["detail"] += f" ({error.detail})"
            fields["errors"] = [{"field": mistake.field, "message": mistake.message} for mistake in error.errors]
        elif isinstance(error, TooLarge):
            fields["detail"] += f" (> {error.most} bytes)"
        elif code is Code.MISDIRECTED:
            fields["detail"] += " (GATEWAY_ALLOWED_HOSTS)"
        elif isinstance(error, UpstreamError):
            fields["retryable"] = error.retryable
            upstream = {"code": error.coze_code, "logId": error.log_id}
            if known := {key: value for key, value in upstream.items() if value is not None}:
                fields["upstream"] = known
    response = web.Response(
        status=fields["status"],
        body=msgspec.json.encode(fields),
        content_type=PROBLEM_TYPE,
        headers={"Vary": "Accept-Language"},
    )
    if row.wait:
        response.headers["Retry-After"] = str(max(1, math.ceil(row.wait if wait is None else wait)))
    if code is Code.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="coze-gateway"'
    if code in (Code.REQUEST_TIMEOUT, Code.TOO_LARGE):
        response.force_close()  # so that nobody waits for the rest of the body
    return response


def refusal(error: GatewayError, request: web.Request) -> web.Response:
    """The answer to a refused request. Tells `REFUSALS` of it."""
    tell(error, request)
    return problem(error, request)


def tell(error: GatewayError, request: web.Request) -> None:
    """Tells `REFUSALS` of a refusal that is answered in a transport's own way."""
    if (refusals := request.config_dict.get(REFUSALS)) is not None:
        refusals.refused(request, error)


def tell_of_key(request: web.BaseRequest, name: str) -> None:
    """Tells `REFUSALS` of an API key that a browser sent."""
    if isinstance(request, web.Request) and (refusals := request.config_dict.get(REFUSALS)) is not None:
        refusals.key_in_page(name)


def bad_framing(request: web.Request) -> web.Response:
    """The answer to a request that breaks HTTP's own rules. It repeats nothing of the request, and closes the
    connection."""
    response = refusal(InvalidRequest([Mistake("", "the request breaks HTTP's own rules")], status=400), request)
    response.force_close()
    return response


def sse_farewell(code: Code, retry_ms: float, *, chance: Callable[[], float] = random.random) -> bytes:
    """The whole body for a listener that has to come back later: a comment with the code, and the time to wait.

    A native EventSource never comes back after an error status. `retry_ms` varies by 50 % either way, so that listeners
    that were sent away together don't return together.
    """
    return f": {code.value}\nretry: {spread(retry_ms, chance=chance)}\n\n".encode()


def spread(milliseconds: float, *, chance: Callable[[], float] = random.random) -> int:
    """`milliseconds`, give or take half: evenly between 50 % and 150 %."""
    return max(1, round(milliseconds * (0.5 + chance())))


@web.middleware
async def errors_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns whatever a route raises into a problem. It is outermost, so that it sees the other middlewares' errors
    too."""
    try:
        return await handler(request)
    except GatewayError as error:
        if has_begun(request):  # a stream has begun, so the connection can only be cut
            raise ConnectionResetError("the stream had begun") from error
        return refusal(error, request)
    except web.HTTPException as answer:
        if answer.status < 400:
            raise
        return _translated(answer, request)
    except ConnectionError:
        raise  # the client left
    except (HttpProcessingError, web.RequestPayloadError):
        return bad_framing(request)  # a bad chunk, a cut length
    except Exception as error:
        log_failure(error, request)
        if has_begun(request):
            raise ConnectionResetError("the stream had begun") from error
        return refusal(GatewayError(Code.INTERNAL), request)


def _translated(answer: web.HTTPException, request: web.Request) -> web.Response:
    code = _FROM_STATUS.get(answer.status)
    if code is None:
        if answer.status >= 500:
            code = Code.INTERNAL
        else:  # only HTTP's own phrase, because aiohttp's text may repeat the client's bytes
            return refusal(InvalidRequest([Mistake("", answer.reason)], status=400), request)
    response = refusal(GatewayError(code), request)
    if allow := answer.headers.get("Allow"):
        response.headers["Allow"] = allow
    return response


def log_failure(error: Exception, request: web.Request) -> None:
    """Logs that our own code failed at a request. Names the exception and the place in the code, but not the
    exception's text, which may hold a message or a token."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        place = f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"
        trace = trace.tb_next
    route = request.match_info.route.resource
    _log.error(
        "request.failed",
        exception=type(error).__name__,
        place=place,
        method=request.method,
        route=route.canonical if route is not None else None,
        requestId=request_id(request),
    )
