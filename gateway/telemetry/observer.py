"""The observer: it is told what happens in the gateway. Metrics and log lines are observers; a tracer would be another.

Each method is called at the moment that it tells of; durations are arguments, in seconds. All calls come from the event
loop's thread. An observer never waits and never raises.
"""

from typing import Any, Final, Literal

from msgspec import Struct

from gateway.errors import Code
from gateway.events import Outcome
from gateway.telemetry.words import Operation, Part, Recovery, Trouble, Unusable

Level = Literal["info", "warning", "error"]


class TurnIds(Struct, frozen=True):
    """The ids of a turn. `request_id` names the HTTP request that started the turn; the turn's note keeps it, so
    that it is the same after a restart."""

    turn_id: str
    conversation_id: str
    request_id: str

    def fields(self) -> dict[str, str]:
        """As a log line has them."""
        return {"conversationId": self.conversation_id, "turnId": self.turn_id, "requestId": self.request_id}


class Story(Struct, frozen=True):
    """How a turn went, for its last log line. `outcome` is None if the process stops before the turn has ended."""

    streamed: bool
    outcome: Outcome | None
    length: int
    seconds: float
    level: Level
    details: dict[str, Any]
    """Fields of the line beyond those of every turn. Sentences of our own, numbers and ids."""


class Observer:
    """A base class instead of a `Protocol`, so that an observer defines only the methods that it needs."""

    # -- the path of a piece of text: called per commit and per group of readers, never per reader ------------------

    def events_shown(self, event: str, times: int) -> None:
        """`times` events with this name became visible. Each piece of text counts."""

    def events_delivered(self, transport: str, times: int) -> None:
        """`times` events were handed to sockets."""

    def events_late(self, transport: str, seconds: float, times: int) -> None:
        """`times` readers were given news `seconds` after it became visible."""

    # -- turns ------------------------------------------------------------------------------------------------------

    def turn_began(self, turn: TurnIds) -> None:
        """The turn's task has started: the turn is durable, and no other turn of its conversation runs."""

    def turn_taken_over(self, turn: TurnIds, stage: str, phase: str) -> None:
        """This process continues a turn that a former process left."""

    def first_content(self, turn: TurnIds, seconds: float) -> None:
        """The turn has its first piece of text, `seconds` after its start."""

    def record_skipped(self, turn: TurnIds, reason: Unusable) -> None:
        """A record of Coze's could not be used."""

    def upstream_retried(self, turn: TurnIds, reason: Code, attempt: int, wait: float) -> None:
        """A request to Coze failed and will be sent again in `wait` seconds. `reason` is one of `RETRY_REASONS`."""

    def upstream_recovered(self, turn: TurnIds, outcome: Recovery) -> None:
        """The work on the turn's broken answer is over."""

    def turn_troubled(self, turn: TurnIds, trouble: Trouble, error: Exception) -> None:
        """Something failed that does not end the turn, or the turn was over already."""

    def turn_ended(self, turn: TurnIds, outcome: Outcome, seconds: float) -> None:
        """The turn's last event was written, or can't be written."""

    def turn_left(self, turn: TurnIds, story: Story) -> None:
        """The turn's task is over."""

    # -- the rest ---------------------------------------------------------------------------------------------------

    def upstream_requested(self, operation: Operation, outcome: Code | Literal["ok"], seconds: float) -> None:
        """A request to Coze is over; a request for a stream, once the stream is open. Cancelled ones are left out."""

    def reader_resumed(self, transport: str, outcome: Literal["exact", "reset"]) -> None:
        """A reader came with a position."""

    def request_refused(self, code: Code) -> None:
        """A request, or a command on the shared socket, was answered with a problem."""

    def fault_met(self, part: Part) -> None:
        """Our own code failed. `Faults` writes the log line, and knows which loops have stopped."""


_CALLS: Final = tuple(name for name in vars(Observer) if not name.startswith("_"))


class Observers(Observer):
    """Several observers as one.

    A method that only one of them defines is that observer's own method, so the call costs nothing more. A method that
    none of them defines does nothing.
    """

    def __init__(self, *observers: Observer) -> None:
        for name in _CALLS:
            calls = [getattr(one, name) for one in observers]
            heard = [call for call in calls if getattr(call, "__func__", None) is not getattr(Observer, name)]
            if len(heard) == 1:
                setattr(self, name, heard[0])
            elif heard:
                setattr(self, name, _each(heard))


def _each(heard: list[Any]) -> Any:
    def tell(*happened: Any) -> None:
        for one in heard:
            one(*happened)

    return tell


UNHEARD: Final = Observers()
"""For parts that nobody observes."""
