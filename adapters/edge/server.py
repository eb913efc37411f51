"""The server under the routes: aiohttp's, with deadlines, and with our own answer to what its parser refuses."""

import logging
from typing import Any, Final

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from adapters.edge.aiohttp_parts import Make, Runner
from adapters.edge.failures import STRANGE_EXPECTATION, problem
from adapters.edge.guard import protect
from gateway.errors import Code, GatewayError

HEAD_SECONDS: Final = 30.0
"""For a request's head; also how long a kept connection may be idle, which aiohttp does not tell apart."""

LINGER_SECONDS: Final = 2.0
"""How long an answered request's unread body is read on, so that its sender can read the answer before the end."""


class WebRunner(Runner):
    """Runs an application as it has to be to stand on the internet."""

    def __init__(self, app: web.Application, *, shutdown_timeout: float) -> None:
        options = runner_options()
        super().__init__(
            app, judge=_without_strange_expectation, answer=_bare, shutdown_timeout=shutdown_timeout, **options
        )


def runner_options() -> dict[str, Any]:
    """What aiohttp's runner is told, beyond its defaults."""
    return {
        "handler_cancellation": True,
        "tcp_keepalive": False,  # the listening socket has it, and hands it on: no system call a connection
        "auto_decompress": False,  # a refused body is still read to its end: never unpacked
        "keepalive_timeout": HEAD_SECONDS,  # aiohttp's own is over an hour
        "lingering_time": LINGER_SECONDS,  # aiohttp's own would add ten seconds to a dripping body's thirty
        "access_log": None,
        "logger": _WithoutTrace(logging.getLogger("gateway.http")),
    }


def _without_strange_expectation(headers: CIMultiDictProxy[str], make: Make) -> web.BaseRequest:
    """Keeps a strange `Expect` from aiohttp, which repeats its bytes to the client before any other check."""
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
    """aiohttp's own answer repeats the bytes that it could not read, and passes none of the signals for headers.

    Ours is a bare 400: of what could not be read nothing is known that a problem could say.
    """
    answer = web.Response(status=400) if status == 400 else problem(GatewayError(Code.INTERNAL), request)
    protect(answer.headers, request)
    return answer


class _WithoutTrace(logging.LoggerAdapter[logging.Logger]):
    """aiohttp logs what its parser refuses as an error with a trace and the client's bytes: a flood by anyone."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger)

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        return msg, kwargs

    def exception(self, msg: object, *args: object, exc_info: Any = True, **kwargs: Any) -> None:
        self.debug("request refused: %s", type(exc_info).__name__)

    def debug(self, msg: object, *args: object, exc_info: Any = None, **kwargs: Any) -> None:
        super().debug(msg, *args, **kwargs)
