"""Framing: encodes a frame as a record's bytes, in Coze's own format or in one that the fault plan asks for."""

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.simulator.faults import Fault, FaultPlan, Fire
from gateway.simulator.ids import second_of
from gateway.simulator.objects import SURROGATE_MARK, Dialect, Frame, Json

Encode = Callable[[Frame], bytes]
"""The bytes of one record, including its blank line; empty for a frame that the format does not have."""

_FRAMINGS = frozenset(
    {
        Fault.CRLF, Fault.CR, Fault.MIXED, Fault.BOM, Fault.SPACE, Fault.COMMENTS, Fault.IDS, Fault.MULTILINE_DATA,
        Fault.DATA_FIRST, Fault.NO_LAST_BLANK, Fault.STUDIO, Fault.V2, Fault.SURROGATE, Fault.DONE_BARE,
        Fault.DONE_DEBUG, Fault.ID_GAPS,
    }
)  # fmt: skip
_BOM = b"\xef\xbb\xbf"
_MARK, _HALF_PAIR = SURROGATE_MARK.encode(), b"\\ud83d"
_WORKFLOW_NAMES = {
    "message": "Message", "interrupt": "Interrupt", "ping": "PING", "error": "Error", "done": "Done",
}  # fmt: skip
_LAST_WORDS = frozenset({"done", "error", "conversation.chat.failed", "conversation.chat.canceled"})

_json = msgspec.json.Encoder().encode


def with_half_pairs(encoded: bytes) -> bytes:
    """The JSON with each `SURROGATE_MARK` replaced by half a surrogate pair, written as an escape."""
    return encoded.replace(_MARK, _HALF_PAIR)


def encoder(plan: FaultPlan, fire: Fire, dialect: Dialect = "chat") -> Encode:
    """The encoder for this stream's frames: by default `event:` and `data:` lines, LF, no space after the colon."""
    asked = [fault for fault in _FRAMINGS if fault in plan]
    return _Framing(plan, asked, fire, dialect) if asked or dialect != "chat" else _plain


def _plain(frame: Frame) -> bytes:
    if frame.raw is not None:
        return frame.raw
    data = frame.data if isinstance(frame.data, bytes) else _json(frame.data)
    return b"event:%b\ndata:%b\n\n" % (frame.event.encode(), data)


class _Framing:
    """Chatflows, workflows, and formats that the real service does not use today. It counts its records, so each stream
    needs its own."""

    def __init__(self, plan: FaultPlan, asked: list[Fault], fire: Fire, dialect: Dialect) -> None:
        self._dialect = dialect
        self._plan = plan
        self._asked = asked
        self._fire = fire
        self._count = 0
        self._v2 = _V2()

    def __call__(self, frame: Frame) -> bytes:
        plan, first = self._plan, self._count == 0
        if first:
            for fault in self._asked:
                self._fire(fault)
        if frame.raw is not None:
            record = frame.raw
        elif (lines := self._lines(frame)) is None:
            return b""
        else:
            record = self._ended(lines, last=frame.event in _LAST_WORDS)
        self._count += 1
        return _BOM + record if first and Fault.BOM in plan else record

    def _lines(self, frame: Frame) -> list[bytes] | None:
        """The record's lines without their ends; None for a frame that the shape does not have."""
        plan = self._plan
        event, data = frame.event, frame.data
        if event == "done" and Fault.DONE_BARE in plan:
            data = b"[DONE]"
        if event == "done" and Fault.DONE_DEBUG in plan:
            data = b'{"debug_url":"https://www.coze.cn/work_flow?execute_id=1\\u0026space_id=2"}'
        workflow = self._dialect == "workflow"
        if workflow and Fault.STUDIO not in plan:  # the studio writes them in lower case
            event = _WORKFLOW_NAMES.get(event, event)
        elif Fault.STUDIO in plan and not workflow:
            event, data = _studio(event, data)
        if Fault.V2 in plan and not workflow:
            if (older := self._v2.shape(frame)) is None:
                return None
            event, data = "", older
        text = data if isinstance(data, bytes) else _json(data)
        if Fault.SURROGATE in plan:
            text = with_half_pairs(text)
        colon = b": " if Fault.SPACE in plan or self._dialect != "chat" else b":"
        halves = text.split(b',"', 1) if Fault.MULTILINE_DATA in plan and isinstance(data, dict) else [text]
        lines = [
            b"data" + colon + half for half in (halves if len(halves) == 1 else [halves[0] + b",", b'"' + halves[1]])
        ]
        if event:
            lines.insert(len(lines) if Fault.DATA_FIRST in plan else 0, b"event" + colon + event.encode())
        if workflow:
            left_out = self._count // 4 if Fault.ID_GAPS in plan else 0
            lines.insert(0, b"id: %d" % (self._count + left_out))
        return self._dressed(lines)

    def _dressed(self, lines: list[bytes]) -> list[bytes]:
        if Fault.IDS in self._plan:
            number = b"%d" % self._count
            lines = [b"id:" + number + (b"\x00" if self._count % 3 == 2 else b""), *lines, b"retry:1"]
        if Fault.COMMENTS in self._plan:
            lines = [b": ping", b"", b":", *lines[:-1], b":inside data:{}", lines[-1]]
        return lines

    def _ended(self, lines: list[bytes], *, last: bool) -> bytes:
        plan = self._plan
        ends = [b"\n"]
        if Fault.CRLF in plan:
            ends = [b"\r\n"]
        elif Fault.CR in plan:
            ends = [b"\r"]
        elif Fault.MIXED in plan:
            ends = [b"\n", b"\r\n", b"\r"]
        # Each record has one kind of line end: an LF after a CR would be read as one end, not two.
        end = ends[self._count % len(ends)]
        blank = b"" if last and Fault.NO_LAST_BLANK in plan else end
        return end.join(lines) + end + blank


def _studio(event: str, data: Json | bytes) -> tuple[str, Json | bytes]:
    """The self-hosted variant: zeroes for missing times, `meta_data` on messages, another last event."""
    if event == "done":
        return "conversation.stream.done", b""
    if isinstance(data, bytes):
        return event, data
    if "chat_id" in data:
        bot_id = data.get("bot_id", "")
        bot = {"bot_id": bot_id, "agent_name": "", "agent_id": bot_id}
        shown: Json = {key: value for key, value in data.items() if key != "updated_at"}
        shown.setdefault("created_at", second_of(data["chat_id"]))
        shown["content"] = shown["content"].replace('"from_module":null,"from_unit":null', '"from_unit":""')
        keys = ("id", "conversation_id", "bot_id", "role", "type", "content", "content_type")
        first = {key: shown.pop(key) for key in keys if key in shown}
        return event, first | {"meta_data": {"bot_state": _json(bot).decode()}} | shown
    if event == "conversation.chat.failed" and "last_error" in data:
        return "error", dict(data["last_error"])
    if "status" in data:
        times = {key: data.get(key, 0) for key in ("created_at", "completed_at", "failed_at")}
        kept = {key: data[key] for key in ("id", "conversation_id", "bot_id") if key in data}
        action = {"required_action": data["required_action"]} if "required_action" in data else {}
        return event, {**kept, **times, "status": data["status"], **action, "section_id": data["section_id"]}
    return event, data


class _V2:
    """The older format: the event's name is inside the data, messages have an index, every frame has a number."""

    def __init__(self) -> None:
        self._indexes: dict[str, int] = {}
        self._sequence = 0

    def shape(self, frame: Frame) -> Json | None:
        data = frame.data
        if frame.event == "done":
            return {"event": "done"}
        if not isinstance(data, dict):
            return None
        if frame.event in ("error", "conversation.chat.failed"):
            error: dict[str, Any] = data.get("last_error", data)
            return {"event": "error", "error_information": {"code": error.get("code"), "msg": error.get("msg")}}
        if "chat_id" not in data or "reasoning_content" in data or frame.event == "conversation.audio.delta":
            return None
        seen = data["id"] in self._indexes
        if not frame.piece and seen:
            return None  # the last piece has said that this message is over
        index = self._indexes.setdefault(data["id"], len(self._indexes))
        message = {key: data[key] for key in ("role", "type", "content", "content_type")}
        sequence, self._sequence = self._sequence, self._sequence + 1
        return {
            "event": "message",
            "message": message,
            "is_finish": frame.last or not frame.piece,
            "index": index,
            "conversation_id": data["conversation_id"],
            "seq_id": sequence,
        }
