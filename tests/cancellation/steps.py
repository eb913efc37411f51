"""Cancels a coroutine at its nth await, for every n."""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any


class Cut:
    """The suspension at which a coroutine is cancelled: number `at`, counted from 1. `reached` says that it was."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.steps = 0

    @property
    def reached(self) -> bool:
        return self.steps >= self.at

    @types.coroutine
    def run(self, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Does the work in the present task, and cancels it at the moment when it comes to wait."""
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
    """Cancels the work at its await number `at`. False if it has fewer."""
    here = Cut(at)

    async def whole() -> Any:
        return await here.run(work)

    await asyncio.gather(asyncio.create_task(whole()), return_exceptions=True)
    return here.reached
