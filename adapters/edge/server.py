"""The server under the routes: aiohttp's, with deadlines, and with our own answer to requests that it can't parse."""

import logging
from typing import Any, Final

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from adapters.edge.aiohttp_parts import JudgingRunner, Make
from adapters.edge.failures import STRANGE_EXPECTATION, problem
from adapters.edge.guard import protect
from gateway.errors import Code, GatewayError

HEAD_SECONDS: Final = 30.0
"""For a request's head, and for the idle time of a kept connection: aiohttp has only one setting for both."""

READ_AHEAD: Final = 64 * 1024
"""When twice as many bytes of a body wait, the client is not read until the route has taken some. aiohttp's default is
256 KiB, which each upload would hold while Coze takes it slowly."""

LINGER_SECONDS: Final = 2.0
"""How long the rest of a body is read after the request was answered, so that the client can read the answer before the
connection closes."""


class WebRunner(JudgingRunner):
    """Runs an application with the deadlines and answers that the internet requires."""

    def __init__(self, app: web.Application, *, shutdown_timeout: float) -> None:
        options = runner_options()
        super().__init__(
            app, judge=_without_strange_expectation, answer=_bare, shutdown_timeout=shutdown_timeout, **options
        )


def runner_options() -> dict[str, Any]:
    """The options that we give to aiohttp's runner, beside its defaults."""
    return {
        "handler_cancellation": True,
        "tcp_keepalive": False,  # connections inherit it from the listening socket, without a system call each
        "auto_decompress": False,  # a compressed body is refused, but read to its end, and must not be unpacked
        "keepalive_timeout": HEAD_SECONDS,  # aiohttp's default is over an hour
        "lingering_time": LINGER_SECONDS,  # aiohttp's default would add ten seconds to a dripping body's thirty
        "read_bufsize": READ_AHEAD,
        "access_log": None,
        "logger": _WithoutTrace(logging.getLogger("gateway.http")),
    }


def _without_strange_expectation(headers: CIMultiDictProxy[str], make: Make) -> web.BaseRequest:
    """Hides a strange `Expect` from aiohttp, which would repeat its bytes to the client before any check of ours."""
    if "Expect" not in headers:
        return make(headers)
    if all(expectation.lower() in ("100-continue", "") for expectation in headers.getall("Expect")):
        return make(headers)
    kept = CIMultiDict(headers)
    del kept["Expect"]
    request = make(CIMultiDictProxy(kept))
    request[STRANGE_EXPECTATION] = True
    return request


def _bare(request: web.BaseRequest, status: int) -> web.StreamResponse:
    """Our answer to a request that could not be parsed (400), or to a failure below the routes.

    aiohttp's own answer repeats the client's bytes, and skips the signals that add our headers. Ours to a request that
    could not be parsed has no body, because nothing is known that a problem could report.
    """
    answer = web.Response(status=400) if status == 400 else problem(GatewayError(Code.INTERNAL), request)
    protect(answer.headers, request)
    return answer


class _WithoutTrace(logging.LoggerAdapter[logging.Logger]):
    """Logs a request that can't be parsed in one line, for debugging. aiohttp would log an error with a trace and the
    client's bytes, with which anyone could flood the log."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger)

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        return msg, kwargs

    def exception(self, msg: object, *args: object, exc_info: Any = True, **kwargs: Any) -> None:
        self.debug("request refused: %s", type(exc_info).__name__)

    def debug(self, msg: object, *args: object, exc_info: Any = None, **kwargs: Any) -> None:
        super().debug(msg, *args, **kwargs)
