"""Recordings: a stream that was saved from a real Coze, served again for any chat."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from gateway.simulator.faults import Fault, parse_plan
from gateway.simulator.objects import Chat, Frame, Json, Outcome, Status, chat_object

ORIGINAL_RATE = 40.0
"""Records per second at the pace `original`, because a recording does not say when each record came."""

_BLANK = re.compile(rb"(?:\r\n\r\n|\n\n|\r\r)")
_LINE = re.compile(rb"\r\n|\n|\r")
_STATES: dict[str, Status] = {
    "conversation.chat.completed": "completed",
    "conversation.chat.failed": "failed",
    "conversation.chat.requires_action": "requires_action",
    "conversation.chat.canceled": "canceled",
    "error": "failed",
}


class _Record(Struct, frozen=True):
    raw: bytes
    event: str
    data: Json


class Recording(Struct, frozen=True):
    """The records, byte for byte, and what they say about their chat. Ids are "" if the recording has none."""

    records: tuple[_Record, ...]
    chat_id: str
    conversation_id: str
    bot_id: str
    outcome: Outcome
    usage: dict[str, Any]


def read_recording(path: Path) -> Recording:
    """Reads a `.sse` file. Raises OSError, and ValueError for a file without a record."""
    records = tuple(_record(raw) for raw in _split(path.read_bytes()))
    if not any(record.event or record.data for record in records):
        raise ValueError(f"{path} contains no record of an event stream")
    opening: Json = next((r.data for r in records if r.event.startswith("conversation.chat.")), {})
    outcome = Outcome("completed")
    usage: dict[str, Any] = {}
    for record in records:
        if (status := _STATES.get(record.event)) is not None:
            error = record.data.get("last_error") or record.data
            calls = (record.data.get("required_action") or {}).get("submit_tool_outputs", {}).get("tool_calls", [])
            code = error.get("code", 0)
            code = int(code) if str(code).isdigit() else 0
            outcome = Outcome(status, code, str(error.get("msg", "")), tuple(calls))
            usage = record.data.get("usage") or {}
    return Recording(
        records=records,
        chat_id=str(opening.get("id", "")),
        conversation_id=str(opening.get("conversation_id", "")),
        bot_id=str(opening.get("bot_id", "")),
        outcome=outcome,
        usage=usage,
    )


class Replay(Struct, frozen=True):
    """A recording as the script of one chat: the first two records at once, the others at the chat's pace."""

    chat: Chat
    recording: Recording

    @property
    def begins(self) -> float:
        return self.chat.started_at

    @property
    def outcome(self) -> Outcome:
        return self.recording.outcome

    @property
    def ends(self) -> float:
        return self._at(len(self.recording.records) - 1)

    def frames(self) -> Iterator[Frame]:
        for number, record in enumerate(self.recording.records):
            is_piece = record.event == "conversation.message.delta"
            yield Frame(self._at(number), record.event, record.data, piece=is_piece, raw=record.raw)

    def messages(self, until: float) -> list[Json]:
        return [
            {"updated_at": record.data.get("created_at"), **record.data}
            for number, record in enumerate(self.recording.records)
            if record.event == "conversation.message.completed" and record.data and self._at(number) <= until
        ]

    def state(self, status: Status) -> Json:
        over_at = None if status in ("created", "in_progress") else self.begins + self.ends
        return chat_object(self.chat, status, over_at=over_at, outcome=self.outcome, usage=self.recording.usage)

    def _at(self, number: int) -> float:
        plan = parse_plan(self.chat.message)
        rate = plan.number(Fault.RATE) if Fault.RATE in plan else self.chat.rate
        if rate <= 0 or number < 2:
            return 0.0
        return plan.number(Fault.FIRST, self.chat.first_ms) / 1000 + (number - 2) / rate


def _split(data: bytes) -> Iterator[bytes]:
    """The records with their blank lines, so that joining them gives the file again."""
    start = 0
    for blank in _BLANK.finditer(data):
        yield data[start : blank.end()]
        start = blank.end()
    if data[start:].strip():
        yield data[start:]


def _record(raw: bytes) -> _Record:
    event, data = "", b""
    for line in _LINE.split(raw):
        name, _, value = line.partition(b":")
        if name == b"event":
            event = value.strip().decode("utf-8", "replace")
        elif name == b"data":
            data += value
    try:
        found = msgspec.json.decode(data)
    except msgspec.DecodeError:
        found = {}  # the real recording holds one record that is not JSON: it is sent, and not understood
    return _Record(raw, event, found if isinstance(found, dict) else {})
