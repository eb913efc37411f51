"""Refusals: which requests were turned away and why, told to the log and to a metric."""

import re
import time
from collections.abc import Callable
from typing import Final

import structlog
from aiohttp import web

from adapters.edge.failures import InvalidRequest, request_id, status_of
from gateway.errors import Code, GatewayError
from gateway.telemetry.observer import Observer

_LINES: Final = 10
"""Lines a second for each code; what is beyond is counted and told with the next one."""

_HOUR: Final = 3600.0
_ORIGINS: Final = 100
"""Origins that are told of in an hour. Anyone can name any number of them."""

_LONGEST_ORIGIN: Final = 300

logger = structlog.get_logger()


class Refusals:
    """Hears of every request that is refused. Nothing that a client sent is in a line but a well-formed origin."""

    def __init__(self, observer: Observer, clock: Callable[[], float] = time.monotonic) -> None:
        self._observer = observer
        self._clock = clock
        self._said: dict[Code, tuple[float, int]] = {}  # since when, and how often since
        self._origins: dict[str, float] = {}  # told of at; the oldest first
        self._many = -_HOUR
        self._keys: dict[str, float] = {}  # told of at, by the names in the operator's file

    def refused(self, request: web.Request, error: GatewayError) -> None:
        code = error.code
        self._observer.request_refused(code)
        if code is Code.INTERNAL or (left_out := self._left_out(code)) is None:  # what is internal has its own line
            return
        resource = request.match_info.route.resource
        logger.info(
            "request.refused",
            code=code.value,
            reason=_fields(error) if isinstance(error, InvalidRequest) else error.detail,
            status=error.status if isinstance(error, InvalidRequest) else status_of(code),
            method=request.method,
            route=resource.canonical if resource is not None else None,
            requestId=request_id(request),
            leftOut=left_out,
        )

    def unshared(self, origin: str) -> None:
        """A page of this origin gets nothing, because the settings don't name it: the operator is told once an hour."""
        now = self._clock()
        if now - self._origins.get(origin, -_HOUR) < _HOUR or len(origin) > _LONGEST_ORIGIN:
            return
        while self._origins and now - next(iter(self._origins.values())) >= _HOUR:
            del self._origins[next(iter(self._origins))]
        if len(self._origins) >= _ORIGINS:
            if now - self._many >= _HOUR:
                self._many = now
                logger.warning("origins.refused", why=f"more than {_ORIGINS} in an hour: no more are named")
            return
        self._origins[origin] = now
        if origin == "null":
            why = "a page from a file, or in a sandboxed frame, has no origin that can be allowed: serve it over HTTP"
            logger.warning("origin.refused", origin=origin, why=why)
        else:
            why = "its pages can read nothing, unless GATEWAY_ALLOWED_ORIGINS names it"
            logger.warning("origin.refused", origin=origin, why=why, setting="GATEWAY_ALLOWED_ORIGINS", add=origin)

    def key_in_page(self, name: str) -> None:
        """Whoever opens a page can read what is in it: the operator is told once an hour of each key."""
        now = self._clock()
        if now - self._keys.get(name, -_HOUR) >= _HOUR:
            self._keys[name] = now
            why = "it came with a page's Origin: whoever opens a page that holds it speaks for every user of its shops"
            logger.warning("auth.key_in_page", keyName=name, why=why)

    def _left_out(self, code: Code) -> int | None:
        """How many lines of this code were left out before this one; None: this one is left out too."""
        now = self._clock()
        since, said = self._said.get(code, (-1.0, 0))
        if now - since < 1.0:
            self._said[code] = since, said + 1
            return 0 if said < _LINES else None
        self._said[code] = now, 1
        return max(0, said - _LINES)


def _fields(error: InvalidRequest) -> str:
    """The fields that are wrong, without a word of the client's."""
    names = {re.split(r"[.\[]", mistake.field)[0] for mistake in error.errors if not mistake.named_by_client}
    said = [", ".join(sorted(names - {""}))] if names - {""} else []
    if unknown := sum(mistake.named_by_client for mistake in error.errors):
        said.append(f"{unknown} unknown")
    return f"fields: {' and '.join(said)}" if said else "not in the expected form"
