"""The server under the routes: aiohttp's, with deadlines, and with our own answer to what its parser refuses."""

import logging
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from adapters.edge.failures import STRANGE_EXPECTATION, problem
from adapters.edge.guard import protect
from gateway.errors import Code, GatewayError

HEAD_SECONDS: Final = 30.0
"""For a request's head; also how long a kept connection may be idle, which aiohttp does not tell apart."""

LINGER_SECONDS: Final = 2.0
"""How long an answered request's unread body is read on, so that its sender can read the answer before the end."""


class WebRunner(web.AppRunner):
    """Runs an application as it has to be to stand on the internet."""

    def __init__(self, app: web.Application, *, shutdown_timeout: float) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout, **runner_options())

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler,
            request_factory=_judging_expectations(made.request_factory),
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,
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


def _judging_expectations(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """Keeps a strange `Expect` from aiohttp, which repeats its bytes to the client before any other check."""

    def make_request(message: Any, *rest: Any) -> web.BaseRequest:
        if "Expect" not in message.headers:
            return make(message, *rest)
        asked = message.headers.getall("Expect")
        if all(expectation.lower() in ("100-continue", "") for expectation in asked):
            return make(message, *rest)
        headers = CIMultiDict(message.headers)
        del headers["Expect"]
        request = make(message._replace(headers=CIMultiDictProxy(headers)), *rest)
        request[STRANGE_EXPECTATION] = True
        return request

    return make_request


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class _Protocol(web.RequestHandler):
    """aiohttp's own answer repeats the bytes that it could not read, and passes none of the signals for headers.

    Ours is a bare 400: of what could not be read nothing is known that a problem could say.
    """

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        self.log_exception("refused", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        answer = web.Response(status=400) if status == 400 else problem(GatewayError(Code.INTERNAL), request)
        answer.force_close()
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
