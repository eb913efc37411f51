"""Waiting for what gives no signal: another process, a counter, a task that ends by itself.

What gives a signal is waited for by that signal. `asyncio.sleep(0)` is no sleep: it lets the other tasks run.
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
    """Looks until `condition` holds, which may be awaitable; what it gave then. Raises `TimeoutError`.

    A condition that is not met only because others have not run yet is met without any sleep.
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
