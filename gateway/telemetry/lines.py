"""Lines: the observer that writes log lines about turns. Each names the turn, its conversation and its request."""

from typing import Final

import structlog

from gateway.errors import GatewayError
from gateway.telemetry.observer import Observer, Story, TurnIds
from gateway.telemetry.words import Trouble

logger = structlog.get_logger()

_HARMLESS: Final = {"record_not_readable"}
"""Troubles that Coze's next answer may end: no warning."""


class Lines(Observer):
    """A line that concerns no turn is logged by the part that knows of it."""

    def turn_taken_over(self, turn: TurnIds, stage: str, phase: str) -> None:
        logger.info("turn.taken_over", **turn.fields(), stage=stage, phase=phase)

    def turn_troubled(self, turn: TurnIds, trouble: Trouble, error: Exception) -> None:
        write = logger.info if trouble in _HARMLESS else logger.warning
        code = error.code.value if isinstance(error, GatewayError) else None
        write(f"turn.{trouble}", **turn.fields(), code=code, reason=str(error))

    def turn_left(self, turn: TurnIds, story: Story) -> None:
        getattr(logger, story.level)(
            "SSE stream ended" if story.streamed else "Chat ended",
            **turn.fields(),
            outcome=story.outcome,
            fullResponseLength=story.length,
            seconds=round(story.seconds, 3),
            **story.details,
        )
