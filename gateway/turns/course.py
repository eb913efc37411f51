"""A turn's course: what happened on the way to its end, as the log line about that end tells it."""

from typing import Any, Literal

from msgspec import UNSET

from gateway.errors import Code, GatewayError, UpstreamError
from gateway.turns.turn import Turn
from gateway.upstream.protocol import Skipped, StreamEnd

_MOST_CAUSES = 8

_OPERATORS = frozenset({Code.INTERNAL, Code.STORAGE_UNAVAILABLE, Code.UPSTREAM_UNAUTHORIZED})
"""Failures that only the operator can repair: logged as `error`. Others come from Coze or the network: `warning`."""

_ENDS = {
    StreamEnd.FINISHED: "Coze's stream ended with `done` without saying how the chat ended",
    StreamEnd.EOF: "Coze's stream ended without `done`",
    StreamEnd.BROKEN: "Coze's stream broke off",
    StreamEnd.FAILING: "Coze's stream broke off where it said that something has failed",
    StreamEnd.IDLE: "nothing came from Coze within GATEWAY_UPSTREAM_IDLE_TIMEOUT",
    StreamEnd.TOO_LARGE: "a record of Coze's stream has no end (over 8 MiB)",
}

_MEANWHILE = {
    "starting": "and Coze did not say that it has the message",
    "streaming": "and Coze's stream went on",
    "settling": "and Coze's stream went on",
    "recovering": "and Coze's record did not say that the chat is over",
    "action_required": "and nobody gave the tool outputs",
}


class Course:
    """Collects causes as they appear. Its texts are our own sentences: they contain nobody's words and no secret."""

    __slots__ = (
        "_causes",
        "_coze_code",
        "_log_id",
        "address",
        "attempts",
        "first_content",
        "recoveries",
        "rewritten",
        "skipped",
    )

    def __init__(self) -> None:
        self.address = ""  # at which Coze was last asked
        self.attempts = 0  # how often the message was sent, or was about to be sent
        self.recoveries = 0  # how often Coze's record was asked for the rest
        self.rewritten = False
        self.skipped: dict[str, int] = {}  # records that could not be used, by reason
        self.first_content: float | None = None  # seconds
        self._causes: dict[str, int] = {}
        self._coze_code: int | None = None
        self._log_id: str | None = None

    def failed(self, error: GatewayError, doing: str = "") -> None:
        """An attempt failed; the turn decides what follows from that."""
        if isinstance(error, UpstreamError):
            self._coze_code = error.coze_code or self._coze_code
            self._log_id = error.log_id or self._log_id
        self.add((f"{doing}: " if doing else "") + (error.detail or error.code.value))

    def ended(self, end: StreamEnd) -> None:
        """The stream has ended although Coze did not say that the chat is over."""
        self.add(_ENDS[end])

    def skip(self, item: Skipped) -> None:
        self.skipped[item.reason] = self.skipped.get(item.reason, 0) + 1

    def took(self, turn: Turn) -> None:
        """An item of Coze's stream has moved the turn to another phase."""
        if turn.phase == "recovering":
            self.ended(StreamEnd.FINISHED)
        elif turn.phase == "ended":
            self.told(turn, "Coze said")

    def told(self, turn: Turn, who: str, status: str = "") -> None:
        """What Coze said in its stream or in its record ended the turn. A record also gives the chat's `status`."""
        failure = turn.failure
        if turn.overfull:
            self.add("Coze sent more than a turn may hold")
        elif turn.outcome == "cancelled":
            self.add(f"{who} that the chat was cancelled")
        elif failure is not None and failure.code == Code.UPSTREAM_EMPTY:
            self.add(f"{who} that the chat is complete, and there is no answer in it")
        elif failure is not None and status == "completed":
            self.add("Coze's record of the finished chat lacks the end of an answer that had begun")
        elif failure is not None and turn.memory.run and self.skipped:
            self.add("the workflow failed, or a text of it could not be read")
        elif failure is not None:
            self.add(f"{who} that the {'workflow' if turn.memory.run else 'chat'} failed")

    def unfinished(self, status: str) -> None:
        """Coze's record was read, but does not say yet how the answer continues."""
        if status in ("completed", "requires_action"):
            self.add("Coze's record of the finished chat was not whole yet")

    def timed_out(self, turn: Turn) -> None:
        self.add(f"not over within GATEWAY_TURN_TIMEOUT, {_MEANWHILE[turn.phase]}")

    def add(self, cause: str) -> None:
        if cause in self._causes or len(self._causes) < _MOST_CAUSES:
            self._causes[cause] = self._causes.get(cause, 0) + 1

    @property
    def reason(self) -> str:
        """The causes in the order of their first appearance, each with its number of occurrences."""
        return "; ".join(cause + (f" ({n} times)" if n > 1 else "") for cause, n in self._causes.items())

    def line(self, turn: Turn) -> tuple[Literal["info", "warning", "error"], dict[str, Any]]:
        """The log level, and the fields beyond those of every turn."""
        fields: dict[str, Any] = {}
        if self.first_content is not None:
            fields["firstContentSeconds"] = round(self.first_content, 3)
        failure = turn.failure if turn.outcome == "failed" else None
        if failure is not None:
            fields["code"] = failure.code
        if reason := self.reason:
            upstream = failure.upstream if failure is not None and failure.upstream is not UNSET else {}
            named = {
                "reason": reason,
                "cozeCode": upstream.get("code", self._coze_code),
                "cozeLogId": upstream.get("logId", self._log_id or turn.log_id),
                "address": self.address or None,
                "attempts": self.attempts,
                "recovered": self.recoveries > 0 and turn.outcome == "completed",
            }
            fields |= {key: value for key, value in named.items() if value is not None}
        if self.rewritten:
            fields["rewritten"] = True
        if self.skipped:
            fields["skippedRecords"] = self.skipped
        return _level(failure.code if failure is not None else None), fields


def _level(code: str | None) -> Literal["info", "warning", "error"]:
    if code is None:
        return "info"
    return "error" if code in _OPERATORS else "warning"
