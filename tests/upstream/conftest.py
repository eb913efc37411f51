"""The client of Coze under test, and a record of what it reports."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal

import pytest

from gateway.errors import Code
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.observer import Observer
from gateway.telemetry.words import Operation
from gateway.upstream.coze import CozeUpstream
from gateway.upstream.tokens import FixedToken, TokenSource

Connect = Callable[..., AbstractAsyncContextManager[CozeUpstream]]


class Outcomes(list[tuple[str, str]]):
    """Each call's operation and outcome."""


class Heard(Observer):
    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes

    def upstream_requested(self, operation: Operation, outcome: Code | Literal["ok"], seconds: float) -> None:
        assert 0 <= seconds < 60
        self._outcomes.append((operation, outcome))


@pytest.fixture
def outcomes() -> Outcomes:
    return Outcomes()


@pytest.fixture
def connect(ledger: Ledger, outcomes: Outcomes) -> Connect:
    """`async with connect(url) as coze`. The ledger must be balanced in the end."""

    @asynccontextmanager
    async def connected(url: str, *, token: TokenSource | None = None, **options: Any) -> AsyncIterator[CozeUpstream]:
        coze = CozeUpstream(
            url,
            token or FixedToken("pat_secret"),
            ledger=ledger,
            observer=Heard(outcomes),
            **({"connect_timeout": 5.0, "idle_timeout": 5.0} | options),
        )
        try:
            yield coze
        finally:
            await coze.close()

    return connected
