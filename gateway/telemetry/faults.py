"""Faults: bugs in the gateway itself, counted by part, and the loops that have ended because of them."""

import asyncio
from collections.abc import Callable
from typing import Literal, get_args

import structlog

Part = Literal["turn", "commit", "show", "fold", "deliver", "heartbeat", "keep", "store", "notify", "nodes"]
PARTS: tuple[Part, ...] = get_args(Part)
"""A closed list: `docs/metrics.md` explains each part."""

logger = structlog.get_logger()


class Faults:
    """Code that catches an exception which should be impossible reports it here, and goes on with everything else."""

    def __init__(self, count: Callable[[Part], None] = lambda _: None) -> None:
        self.count = count
        self.stopped: dict[Part, str] = {}
        """Why a loop has ended that must not end, by its part. Only a restart helps."""

    def broke(self, part: Part, error: BaseException, **fields: object) -> None:
        """Reports a bug of ours. `fields` name what it affected: ids only."""
        self.count(part)
        logger.error("gateway.fault", part=part, exc_info=error, **fields)

    def watch(self, part: Part, loop: "asyncio.Task[None]") -> None:
        """The loop must run until it is cancelled."""
        loop.add_done_callback(lambda _: self._ended(part, loop))

    def _ended(self, part: Part, loop: "asyncio.Task[None]") -> None:
        if not loop.cancelled() and (error := loop.exception()) is not None:
            self.stopped[part] = f"the part {part!r} of the gateway has ended ({type(error).__name__}): start it again"
            self.broke(part, error)

    def __repr__(self) -> str:
        return f"Faults({', '.join(self.stopped) or 'all loops run'})"
