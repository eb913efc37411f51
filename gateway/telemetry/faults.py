"""Faults: bugs in the gateway itself, counted by part, and the loops that have ended because of them."""

import asyncio

import structlog

from gateway.telemetry.observer import UNHEARD, Observer
from gateway.telemetry.words import Part

logger = structlog.get_logger()


class Faults:
    """Code that catches an exception which should be impossible reports it here, and goes on with everything else.

    This is not an observer: observers are only told, and nothing depends on them. Readiness asks `Faults` what has
    stopped, a part removes its own entry when it works again, and the log line with the trace is always written.
    """

    def __init__(self, observer: Observer = UNHEARD) -> None:
        self._observer = observer
        self.stopped: dict[Part, str] = {}
        """Why a loop has ended that must not end, by its part. Only a restart helps."""

    def broke(self, part: Part, error: BaseException, **fields: object) -> None:
        """Reports a bug of ours. `fields` name what it affected: ids only."""
        self._observer.fault_met(part)
        logger.error("gateway.fault", part=part, exc_info=error, **fields)

    def count(self, part: Part) -> None:
        """Counts a fault that has a log line of its own."""
        self._observer.fault_met(part)

    def watch(self, part: Part, loop: "asyncio.Task[None]") -> None:
        """Watches a loop that must run until it is cancelled, and reports it if it fails."""
        loop.add_done_callback(lambda _: self._ended(part, loop))

    def _ended(self, part: Part, loop: "asyncio.Task[None]") -> None:
        if not loop.cancelled() and (error := loop.exception()) is not None:
            self.stopped[part] = f"the part {part!r} of the gateway has ended ({type(error).__name__}): start it again"
            self.broke(part, error)

    def __repr__(self) -> str:
        return f"Faults({', '.join(self.stopped) or 'all loops run'})"
