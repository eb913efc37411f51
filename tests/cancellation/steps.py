"""Cancels a coroutine at its n-th await, for every n that there is."""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any


class Cut:
    """Where a coroutine is cancelled: at the suspension number `at`, counted from 1. `reached` once it was."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.steps = 0

    @property
    def reached(self) -> bool:
        return self.steps >= self.at

    @types.coroutine
    def run(self, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Does the work inside the present task, which is cancelled in the moment in which it comes to wait."""
        resume: Callable[[], Any] = partial(work.send, None)
        while True:
            try:
                waits_for = resume()
            except StopIteration as done:
                return done.value
            self.steps += 1
            if self.steps == self.at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield waits_for
                resume = partial(work.send, None)
            except BaseException as error:
                resume = partial(work.throw, error)


async def cut(work: Coroutine[Any, Any, Any], at: int) -> bool:
    """Whether the work had an await number `at`, at which it was cancelled."""
    here = Cut(at)

    async def whole() -> Any:
        return await here.run(work)

    await asyncio.gather(asyncio.create_task(whole()), return_exceptions=True)
    return here.reached
