"""Calls: the requests to one Coze that are under way, and what observers are told of each."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from gateway.errors import Code, UpstreamError
from gateway.telemetry.observer import Observer
from gateway.telemetry.words import Operation
from gateway.upstream.uploads import FormBroke


class Calls:
    """Counts them."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.under_way = 0

    @contextmanager
    def counted(self, operation: Operation) -> Iterator[None]:
        outcome: Code | Literal["ok"] | None = "ok"
        began = asyncio.get_running_loop().time()
        self.under_way += 1
        try:
            yield
        except UpstreamError as error:
            outcome = error.code
            raise
        except (asyncio.CancelledError, FormBroke):
            outcome = None
            raise
        except BaseException:
            outcome = Code.INTERNAL
            raise
        finally:
            self.under_way -= 1
            if outcome is not None:
                self._observer.upstream_requested(operation, outcome, asyncio.get_running_loop().time() - began)
