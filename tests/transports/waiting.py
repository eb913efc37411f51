"""Waiting for what gives no signal: another process's counters."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], object | Awaitable[object]], *, within: float = 5.0) -> None:
    """Looks until `condition` holds, which may be awaitable. Raises `TimeoutError`."""
    async with asyncio.timeout(within):
        while True:
            held = condition()
            if inspect.isawaitable(held):
                held = await held
            if held:
                return
            await asyncio.sleep(0.02)
