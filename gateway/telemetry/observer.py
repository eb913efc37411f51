"""The observer: whoever is told of what happens in the gateway. Metrics and log lines are observers, a tracer would be.

Each call is made when the thing happens, so its time is now; what lasted has its seconds as an argument. All calls
come from the event loop's thread. An observer never waits and never raises.
"""

from typing import Any, Final, Literal

from msgspec import Struct

from gateway.errors import Code
from gateway.events import Outcome
from gateway.telemetry.words import Operation, Part, Recovery, Trouble
from gateway.upstream.protocol import Skipped

Level = Literal["info", "warning", "error"]


class TurnIds(Struct, frozen=True):
    """The ids by which a turn is told of. `request_id` is the id of the HTTP request that started it; it is kept with
    the turn, so that it is the same after a restart."""

    turn_id: str
    conversation_id: str
    request_id: str

    def fields(self) -> dict[str, str]:
        """As a log line has them."""
        return {"conversationId": self.conversation_id, "turnId": self.turn_id, "requestId": self.request_id}


class Story(Struct, frozen=True):
    """How a turn went: what its last log line says. Without `outcome` it has not ended, and the process lets it go."""

    streamed: bool
    outcome: Outcome | None
    length: int
    seconds: float
    level: Level
    details: dict[str, Any]
    """Fields of the line beyond those of every turn. Sentences of our own, numbers and ids."""


class Observer:
    """A base class and no `Protocol`, so that an observer defines only what it wants to hear of."""

    # -- the way of a piece of text: called for each commit and each group of readers, never for each reader --------

    def events_shown(self, event: str, times: int) -> None:
        """So many events of this name became visible; of text, pieces."""

    def events_delivered(self, transport: str, times: int) -> None:
        """So many events were handed to sockets."""

    def events_late(self, transport: str, seconds: float, times: int) -> None:
        """So many readers were given news so long after it became visible."""

    # -- turns ------------------------------------------------------------------------------------------------------

    def turn_began(self, turn: TurnIds) -> None:
        """Its task runs: the turn is durable, and no other turn of its conversation runs."""

    def turn_taken_over(self, turn: TurnIds, stage: str, phase: str) -> None:
        """This process goes on with a turn that a former one left."""

    def first_content(self, turn: TurnIds, seconds: float) -> None:
        """The first piece of its answer is there."""

    def record_skipped(self, turn: TurnIds, record: Skipped) -> None:
        """A record of Coze's could not be used."""

    def upstream_retried(self, turn: TurnIds, reason: Code, attempt: int, wait: float) -> None:
        """A request to Coze failed and will be sent again in `wait` seconds. `reason` is one of `RETRY_REASONS`."""

    def upstream_recovered(self, turn: TurnIds, outcome: Recovery) -> None:
        """The work on its broken answer is over."""

    def turn_troubled(self, turn: TurnIds, trouble: Trouble, error: Exception) -> None:
        """Something failed on the way, and the turn goes on, or was over already."""

    def turn_ended(self, turn: TurnIds, outcome: Outcome, seconds: float) -> None:
        """Its last event is written, or can't be."""

    def turn_left(self, turn: TurnIds, story: Story) -> None:
        """Its task is over."""

    # -- the rest ---------------------------------------------------------------------------------------------------

    def upstream_requested(self, operation: Operation, outcome: Code | Literal["ok"], seconds: float) -> None:
        """A request to Coze is over; a stream's, once it is open. One that was cancelled is not told of."""

    def reader_resumed(self, transport: str, outcome: Literal["exact", "reset"]) -> None:
        """A reader came with a position."""

    def request_refused(self, code: Code) -> None:
        """A request, or a command on the shared socket, was answered with a problem."""

    def fault_met(self, part: Part) -> None:
        """Our own code failed. `Faults` has the line about it, and knows what has stopped."""


_CALLS: Final = tuple(name for name in vars(Observer) if not name.startswith("_"))


class Observers(Observer):
    """Several observers as one.

    A call that only one of them defines is that one's own method, so it costs nothing more; a call that none of them
    defines does nothing.
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
"""Nobody hears of anything."""
