"""Patience: waits while the database that nodes share is away, instead of failing at once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from gateway.errors import Code, GatewayError
from gateway.log.journal import JournalError
from gateway.turns.others import Others

T = TypeVar("T")

PATIENCE: Final = 10.0
"""Seconds for which a new message waits."""

_TRY_AGAIN = 0.2


async def patiently(others: Others, work: Callable[[], Awaitable[T]]) -> T:
    """The result of `work`, which is done again after an outage and must be safe to do twice. Without other nodes, the
    first failure is raised."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (PATIENCE if others.any else 0.0)
    while True:
        try:
            return await work()
        except (JournalError, GatewayError) as error:
            if loop.time() >= deadline or not is_outage(error):
                raise
            await asyncio.sleep(_TRY_AGAIN)


def is_outage(error: Exception) -> bool:
    return isinstance(error, JournalError) or (
        isinstance(error, GatewayError) and error.code is Code.STORAGE_UNAVAILABLE
    )
