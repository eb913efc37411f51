"""Waiting for conditions without a signal: another process, a counter, a task that ends by itself.

If there is a signal, wait for the signal. `asyncio.sleep(0)` is no sleep: it lets the other tasks run.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def until(condition: Callable[[], Awaitable[T]], *, within: float = 10.0) -> T: ...
@overload
async def until(condition: Callable[[], T], *, within: float = 10.0) -> T: ...
async def until(condition: Callable[[], Any], *, within: float = 10.0) -> Any:
    """Checks `condition`, which may be awaitable, until it holds, and returns its value. Raises `TimeoutError`.

    If the condition only waits for other tasks to run, there is no sleep.
    """
    async with asyncio.timeout(within):
        pause = 0.0
        while True:
            held = condition()
            found = await held if inspect.isawaitable(held) else held
            if found:
                return found
            await asyncio.sleep(pause)
            pause = 0.005
