"""Waiting: for storage that is away, and for a task that goes on even if its waiter is cancelled."""

import asyncio
from typing import Final, TypeVar

import structlog

from gateway.errors import GatewayError

logger = structlog.get_logger()

T = TypeVar("T")

PATIENCE: Final = 10.0
"""Seconds for which storage may be away, or leave it open whether it has something, before callers see an error."""


async def outlived(task: "asyncio.Future[T]", *, expected: type[Exception] = GatewayError) -> T:
    """The task's result. If the waiter is cancelled, the task goes on, and nobody gets its result.

    An `expected` failure is then ignored; any other one is a bug, and is logged.
    """
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda done: _say(done, expected))
        raise


def _say(done: "asyncio.Future[T]", expected: type[Exception]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None and not isinstance(error, expected):
        logger.error("task.broken", exc_info=error)
