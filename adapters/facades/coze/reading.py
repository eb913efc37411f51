"""Reading a turn's log: what it tells in Coze's terms: the chat, its messages, and places in its text."""

import asyncio
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from adapters.facades.coze.asking import AFTER, BAD
from adapters.facades.coze.failures import Refusal, code_of
from adapters.facades.coze.framing import COMPLETED, newest_chat
from gateway.errors import Code, GatewayError
from gateway.events import HEAD, HIDDEN, LOG_ID, ActionNeeded, Failed, decode, record_of
from gateway.log.segments import MESSAGE, Last, Run, Segment, Whole
from gateway.log.stretch import Stretch
from gateway.reading.hub import Hub
from gateway.reading.subscription import Subscription
from gateway.turns.answer import SEPARATOR

_MESSAGE = b"conversation.message.completed"
_ENDS = {"completed": "completed", "cancelled": "canceled", "error": "failed"}
_LOG_ID = LOG_ID.encode()
_AHEAD = frozenset({HEAD.encode(), _LOG_ID})


class ChatBegun(Struct, frozen=True):
    """Coze has said something about the chat: `chat` is the newest state that it told."""

    stretch: Stretch
    chat: dict[str, Any]
    log_id: str


async def begun(hub: Hub, subscription: Subscription, after: int = 0, *, of_run: bool = False) -> ChatBegun | Failed:
    """Waits until Coze says the first thing after a position, or until the turn ends. Of a run that may be a head, as
    Coze says nothing about the run itself. Raises `draining`."""
    log_id = ""
    while True:
        news = subscription.tail.changed()
        span = subscription.span
        stretch = span.stretch if span is not None else None
        if stretch is not None:
            for segment in stretch.segments[bisect_right(stretch.starts, after) :]:
                after = segment.first
                if segment.name in _ENDS:
                    last = _event(segment)
                    return last if isinstance(last, Failed) else ChatBegun(stretch, chat_in(stretch), log_id)
                if isinstance(segment, Whole) and segment.name == HIDDEN:
                    name, _, data = record_of(segment.body)
                    if name == _LOG_ID:
                        log_id = msgspec.json.decode(data, type=str)
                    elif of_run or name not in _AHEAD:
                        return ChatBegun(stretch, chat_in(stretch), log_id)
        if hub.closing:
            raise GatewayError(Code.DRAINING)
        await asyncio.wait([news])


def chat_in(stretch: Stretch) -> dict[str, Any]:
    """The chat as Coze would tell of it now. A running one is `in_progress`, never `created`: Coze's SDKs poll only
    while it is."""
    known = newest_chat(stretch, stretch.last)
    chat = msgspec.json.decode(known[1]) if known is not None else {}
    found: dict[str, Any] = chat if isinstance(chat, dict) else {}
    last = stretch.segments[-1] if stretch.segments else None
    if known is not None and known[0] == COMPLETED:
        return found | {"status": "completed"}  # also if there was no answer, which the gateway takes for a failure
    if last is not None and last.name in _ENDS:
        status = _ENDS[last.name]
        # Of a turn that ended with a question of the bot's, Coze says `requires_action`.
        waits = status == "completed" and found.get("status") == "requires_action"
        if status == "failed" and found.get("status") != "failed":
            event = _event(last)
            assert isinstance(event, Failed)
            found["last_error"] = {"code": code_of(event), "msg": event.error}
        return found | {"status": "requires_action" if waits else status}
    return found | {"status": "in_progress"} if found.get("status") == "created" else found


def _event(segment: Segment) -> Any:
    """An event that is no text, without the text of a long last one."""
    assert not isinstance(segment, Run)
    return decode(segment.bare if isinstance(segment, Last) else segment.body)


def messages_in(stretch: Stretch) -> list[msgspec.Raw]:
    """The chat's whole messages so far, as Coze sent them."""
    found = []
    for segment in stretch.segments:
        if isinstance(segment, Whole) and segment.name == HIDDEN:
            name, _, data = record_of(segment.body)
            if name == _MESSAGE:
                found.append(msgspec.Raw(data))
    return found


def newest_call(stretch: Stretch) -> int:
    """The position of the newest `action_required`; 0 if there is none."""
    calls = (segment.first for segment in reversed(stretch.segments) if segment.name == "action_required")
    return next(calls, 0)


def call_of(stretch: Stretch, ids: Iterable[str]) -> int:
    """The position of the newest `action_required` that asks for exactly these outputs; 0 if there is none."""
    wanted = sorted(ids)
    for segment in reversed(stretch.segments):
        if segment.name == "action_required":
            call = _event(segment)
            if isinstance(call, ActionNeeded) and sorted(str(one.get("id")) for one in call.tool_calls) == wanted:
                return segment.first
    return 0


def place_after(stretch: Stretch, start: int, count: int) -> tuple[int, str]:
    """Where a reader goes on that has the first `count` characters of the text after the position `start`: a position,
    and the text before it that the reader lacks. Raises `Refusal` if there is not so much text."""
    if count == 0:
        return start, ""
    left, begins = count, False
    for segment in stretch.segments[bisect_right(stretch.starts, start) :]:
        if isinstance(segment, Whole) and segment.name == HIDDEN:
            name, parted, _ = record_of(segment.body)
            begins = parted if name == HEAD.encode() else begins
        elif isinstance(segment, Run) and segment.kind == MESSAGE:
            skipped = len(SEPARATOR) if begins else 0
            begins = False
            length = segment.ends[-1] - skipped
            if left <= length:
                return segment.first + len(segment.ends) - 1, segment.text()[skipped + left :]
            left -= length
        elif segment.name == "action_required":
            break
    raise Refusal(BAD, f"{AFTER} is beyond the text of this chat.")
