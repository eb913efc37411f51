"""Patience: waits while the database that nodes share is away, instead of failing at once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.errors import Code, GatewayError
from gateway.log.journal import JournalError
from gateway.turns.others import Others
from gateway.waiting import PATIENCE

T = TypeVar("T")

_TRY_AGAIN = 0.2


AT_LEAST = 1.0
"""Seconds that each step gets, however long the ones before it took."""


async def patiently(others: Others, work: Callable[[], Awaitable[T]], *, until: float) -> T:
    """The result of `work`, which is done again after an outage and must be safe to do twice, and to cancel. Without
    other nodes, the first failure is raised."""
    if not others.any:
        return await work()
    loop = asyncio.get_running_loop()
    deadline = within(until)
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                return await work()
        except TimeoutError:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, "the database does not answer", retry_after=1) from None
        except (JournalError, GatewayError) as error:
            if loop.time() >= deadline or not is_outage(error):
                raise
            await asyncio.sleep(_TRY_AGAIN)


def patience() -> float:
    """Until when something that begins now may wait for the database, in all its steps."""
    return asyncio.get_running_loop().time() + PATIENCE


def within(until: float) -> float:
    """Until when the next step may wait."""
    return max(until, asyncio.get_running_loop().time() + AT_LEAST)


def is_outage(error: Exception) -> bool:
    return isinstance(error, JournalError) or (
        isinstance(error, GatewayError) and error.code is Code.STORAGE_UNAVAILABLE
    )
