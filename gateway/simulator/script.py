"""The script of a chat: what one of its streams says and when, and how that is streamed and recorded."""

import base64
import math
from collections.abc import Iterator

from msgspec import Struct

from gateway.simulator.faults import Fault, parse_plan
from gateway.simulator.ids import message_id
from gateway.simulator.objects import Chat, Frame, Json, Outcome, Status, chat_object, debug_url, message_object

_AUDIO = base64.b64encode(
    b"".join(int(9000 * math.sin(n / 24 * math.tau)).to_bytes(2, "little", signed=True) for n in range(240))
).decode()
"""10 ms of a tone: 24 kHz, 16 bits, mono, as the real service sends for WAV input."""


class Part(Struct, frozen=True):
    """One message: `pieces` and `reasoning` are sent from `at` on, the whole message at `done` unless it is `cut`.

    Times are seconds from the beginning of the stream.
    """

    id: str
    type: str
    content: str
    content_type: str
    pieces: tuple[str, ...]
    reasoning: tuple[str, ...]
    at: float
    done: float
    cut: bool


class Script(Struct, frozen=True):
    """One stream of a chat: up to its end, or up to its call of tools, or from the tools' outputs to its end.

    `begins` is in unix seconds, `step` is the seconds between two pieces, `over` the seconds after which the stream
    says that the chat has ended; `unending`: the record never says so. `audio` counts the pieces of audio; half come
    late.
    """

    chat: Chat
    begins: float
    step: float
    parts: tuple[Part, ...]
    outcome: Outcome
    over: float
    unending: bool
    audio: int
    usage: dict[str, int]

    @property
    def ends(self) -> float:
        """The seconds after which retrieve says that the chat is over; `math.inf` if it never does."""
        return math.inf if self.unending else self.over

    def frames(self) -> Iterator[Frame]:
        """The well-formed stream, in order and in time."""
        chat, over = self.chat, self.over
        if Fault.FAILED_FIRST in parse_plan(chat.message):
            yield self._end(0.0)
            return
        if chat.resumed_at is None:
            yield Frame(0.0, "conversation.chat.created", chat_object(chat, "created"))
        yield Frame(0.0, "conversation.chat.in_progress", chat_object(chat, "in_progress"))
        for part in self.parts:
            yield from self._part(part)
        for _ in range(self.audio // 2):
            yield self._sound(over)
        yield self._end(over)
        for _ in range(self.audio - self.audio // 2):
            yield self._sound(over + self.step)
        if self.outcome.status not in ("failed", "canceled"):
            done = {"debug_url": debug_url(chat)} if chat.workflow_id else b'"[DONE]"'
            yield Frame(over + self.step * (self.audio > 0), "done", done)

    def messages(self, until: float) -> list[Json]:
        """The messages that Coze has kept after `until` seconds, as its list shows them."""
        return [
            message_object(self.chat, part.id, part.type, part.content, part.content_type)
            | {"created_at": int(self.begins + part.at), "updated_at": int(self.begins + part.done)}
            for part in self.parts
            if part.done <= until and not part.cut
        ]

    def state(self, status: Status) -> Json:
        """The Chat as retrieve shows it."""
        if status in ("created", "in_progress"):
            return chat_object(self.chat, status)
        over_at = self.begins + self.over if self.chat.canceled_at is None else self.chat.canceled_at
        usage = self.usage if status == "completed" else None
        return chat_object(self.chat, status, over_at=over_at, outcome=self.outcome, usage=usage)

    def _part(self, part: Part) -> Iterator[Frame]:
        shown = message_object(self.chat, part.id, part.type, "", part.content_type)
        for number, piece in enumerate(part.reasoning):
            at = part.at + number * self.step
            yield Frame(at, "conversation.message.delta", shown | {"reasoning_content": piece}, piece=True)
        offset, final = len(part.reasoning), len(part.pieces) - 1
        for number, piece in enumerate(part.pieces):
            at = part.at + (offset + number) * self.step
            data = shown | {"content": piece}
            yield Frame(at, "conversation.message.delta", data, piece=True, last=number == final)
        if not part.cut:
            done_at = int(self.begins + part.done)
            times = {"created_at": done_at} if part.type == "answer" else {"created_at": done_at, "updated_at": done_at}
            yield Frame(part.done, "conversation.message.completed", shown | {"content": part.content} | times)

    def _sound(self, at: float) -> Frame:
        answer_id = next((part.id for part in self.parts if part.type == "answer"), message_id(self.chat.id, 0, at))
        return Frame(at, "conversation.audio.delta", message_object(self.chat, answer_id, "answer", _AUDIO, "audio"))

    def _end(self, at: float) -> Frame:
        outcome, plan = self.outcome, parse_plan(self.chat.message)
        if Fault.ERROR_EVENT in plan:
            return Frame(at, "error", {"code": outcome.code, "msg": outcome.msg} if outcome.code else {})
        if Fault.FAILED_FLAT in plan or Fault.FAILED_FIRST in plan:
            return Frame(at, "conversation.chat.failed", {"code": str(outcome.code), "msg": outcome.msg})
        usage = self.usage if outcome.status == "completed" else None
        state = chat_object(self.chat, outcome.status, over_at=self.begins + at, outcome=outcome, usage=usage)
        return Frame(at, f"conversation.chat.{outcome.status}", state)
