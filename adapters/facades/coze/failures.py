"""Failures in Coze's own form: a JSON body with Coze's code, mostly under 200, as the real service answers."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from adapters.edge.aiohttp_parts import HttpProcessingError, has_begun
from adapters.edge.failures import InvalidRequest, log_failure, problem, request_id, status_of, tell
from gateway.errors import Code, GatewayError, UpstreamError
from gateway.events import Failed
from gateway.sentences import sentence

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOG_ID: Final = "X-Tt-Logid"
"""The header with Coze's log id, in exactly this spelling."""

_CODES: Final[dict[Code, int]] = {
    Code.INVALID_REQUEST: 4000,
    Code.UNSUPPORTED_MEDIA_TYPE: 4000,
    Code.METHOD_NOT_ALLOWED: 4000,
    Code.TOO_LARGE: 4000,
    Code.UNAUTHORIZED: 4100,
    Code.NOT_FOUND: 4200,
    Code.CONVERSATION_BUSY: 4016,
    Code.RATE_LIMITED: 4020,
    Code.TOO_MANY_CONNECTIONS: 4020,
    Code.OVERLOADED: 4009,
    Code.DRAINING: 4009,
    Code.UPSTREAM_RATE_LIMITED: 4013,
    Code.UPSTREAM_UNAUTHORIZED: 4101,
}
TOO_LATE: Final = 4104
"""Coze's code for a chat that is over."""
INTERNAL: Final = 5000
"""Coze's code for a failure of the service."""
_OWN_STATUS: Final = frozenset(
    {
        Code.UNAUTHORIZED,
        Code.TOO_LARGE,
        Code.UNSUPPORTED_MEDIA_TYPE,
        Code.METHOD_NOT_ALLOWED,
        Code.REQUEST_TIMEOUT,
        Code.RATE_LIMITED,
        Code.TOO_MANY_CONNECTIONS,
        Code.OVERLOADED,
        Code.DRAINING,
        Code.STORAGE_UNAVAILABLE,
        Code.INTERNAL,
    }
)
"""The failures that Coze's API would not tell under 200, because they are not its own."""


class Refusal(GatewayError):
    """A refusal for which Coze has a code of its own."""

    def __init__(self, coze_code: int, detail: str, code: Code = Code.INVALID_REQUEST) -> None:
        super().__init__(code, detail)
        self.coze_code = coze_code


def code_of(error: GatewayError | Failed) -> int:
    """Coze's code for a failure: the one that Coze gave, else the nearest."""
    if isinstance(error, Failed):
        upstream = {} if error.upstream is msgspec.UNSET else error.upstream
        given = upstream.get("code")
    else:
        given = error.coze_code if isinstance(error, UpstreamError | Refusal) else None
    return given if isinstance(given, int) else _CODES.get(Code(error.code), INTERNAL)


def failure(error: GatewayError | Failed, request: web.Request) -> web.Response:
    """The answer that tells of a failure, and Coze's log id where Coze gave one."""
    code = Code(error.code)
    if isinstance(error, Failed):
        said, upstream = error.error, {} if error.upstream is msgspec.UNSET else error.upstream
        log_id = upstream.get("logId")
    else:
        log_id = error.log_id if isinstance(error, UpstreamError) else None
        said = error.detail if isinstance(error, InvalidRequest | Refusal) else sentence(code, "en")
    headers = {} if isinstance(error, Failed) or code not in _OWN_STATUS else _advice(error, request)
    status = status_of(code) if code in _OWN_STATUS else 200
    return answer({"code": code_of(error), "msg": said}, request, log_id=log_id, status=status, headers=headers)


def answer(
    fields: dict[str, Any],
    request: web.Request,
    *,
    log_id: str | None = None,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> web.Response:
    """A JSON answer in Coze's frame. Without a log id of Coze's, the request's own id stands in its place."""
    log_id = log_id or request_id(request)
    body = msgspec.json.encode({**fields, "detail": {"logid": log_id}})
    named = {LOG_ID: log_id, **(headers or {})}
    return web.Response(body=body, status=status, headers=named, content_type="application/json")


def success(data: Any, request: web.Request, *, log_id: str | None = None) -> web.Response:
    return answer({"data": data, "code": 0, "msg": ""}, request, log_id=log_id)


def in_coze_s_form(handler: Handler) -> Handler:
    """A route whose refusals are told in Coze's form."""

    async def answered(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except GatewayError as error:
            if has_begun(request):
                raise
            tell(error, request)
            return failure(error, request)
        except (web.HTTPException, ConnectionError, HttpProcessingError, web.RequestPayloadError):
            raise  # not failures of our own code
        except Exception as error:
            if has_begun(request):
                raise
            log_failure(error, request)
            return failure(GatewayError(Code.INTERNAL), request)

    return answered


def _advice(error: GatewayError, request: web.Request) -> dict[str, str]:
    """The headers that say when to come back, or how to authenticate."""
    headers = problem(error, request).headers
    return {name: headers[name] for name in ("Retry-After", "WWW-Authenticate") if name in headers}
