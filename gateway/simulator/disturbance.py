"""Disturbance: makes a well-formed stream of frames wrong, in content and order, as its fault plan asks."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import msgspec

from gateway.simulator.faults import Fault, FaultPlan, Fire
from gateway.simulator.objects import Frame, Json

GHOST = "☠ghost☠"
"""The text of everything that a reader must not take for the chat's answer."""

NOISE_EVERY = 5
"""Noise goes before the first piece and before each fifth one after it."""

_DELTA = "conversation.message.delta"
_COMPLETED = "conversation.message.completed"


def disturbed(frames: Iterable[Frame], plan: FaultPlan, fire: Fire) -> Iterator[Frame]:
    """The frames as the plan wants them sent. Without faults of this kind, they are unchanged."""
    found = iter(frames)
    if Fault.DONE_ONLY in plan or Fault.DONE_EARLY in plan:
        return _done_at_once(found, plan, fire)
    if plan.asks_any(frozenset({Fault.DOUBLED, Fault.LOST, Fault.SHUFFLED})):
        found = _misdealt(found, plan, fire)
    if noises := [noise for noise in _NOISE if noise in plan]:
        found = _noisy(found, noises, fire)
    for fault, event in (
        (Fault.NO_DONE, "done"),
        (Fault.NO_COMPLETED, "conversation.chat.completed"),
        (Fault.NO_CREATED, "conversation.chat.created"),
    ):
        if fault in plan:
            found = _without(found, event, fault, fire)
    if Fault.ENDLESS in plan:
        found = _endless(found, fire)
    return _with_late(found, fire) if Fault.LATE in plan else found


def _done_at_once(frames: Iterator[Frame], plan: FaultPlan, fire: Fire) -> Iterator[Frame]:
    if Fault.DONE_EARLY in plan:
        fire(Fault.DONE_EARLY)
        yield from islice(frames, 2)
    else:
        fire(Fault.DONE_ONLY)
    yield from (frame._replace(at=0.0) for frame in frames if frame.event == "done")


def _without(frames: Iterator[Frame], event: str, fault: Fault, fire: Fire) -> Iterator[Frame]:
    for frame in frames:
        if frame.event == event:
            fire(fault)
        else:
            yield frame


def _misdealt(frames: Iterator[Frame], plan: FaultPlan, fire: Fire) -> Iterator[Frame]:
    """Doubles or loses every third delta, or swaps deltas in pairs."""
    held: Frame | None = None
    count = 0
    for frame in frames:
        if not frame.piece:
            if held is not None:
                yield held
                held = None
            yield frame
            continue
        count += 1
        if Fault.LOST in plan and count % 3 == 0:
            fire(Fault.LOST)
            continue
        if Fault.SHUFFLED in plan and held is None:
            held = frame
            continue
        yield frame
        if held is not None:
            fire(Fault.SHUFFLED)
            yield held._replace(at=frame.at)
            held = None
        if Fault.DOUBLED in plan and count % 3 == 0:
            fire(Fault.DOUBLED)
            yield frame
    if held is not None:
        yield held


def _noisy(frames: Iterator[Frame], noises: list[Fault], fire: Fire) -> Iterator[Frame]:
    count = 0
    for frame in frames:
        if frame.piece:
            if count % NOISE_EVERY == 0:
                for noise in noises:
                    fire(noise)
                    yield from _NOISE[noise](frame)
            count += 1
        yield frame


def _endless(frames: Iterator[Frame], fire: Fire) -> Iterator[Frame]:
    """Stays at the last delta: deltas like it follow, at the pace of the two before, as long as somebody listens."""
    before: Frame | None = None
    for frame in frames:
        yield frame
        if frame.last:
            fire(Fault.ENDLESS)
            at, step = frame.at, frame.at - before.at if before is not None else 0.025
            while True:
                at += step
                yield frame._replace(at=at, last=False)
        before = frame if frame.piece else before


def _with_late(frames: Iterator[Frame], fire: Fire) -> Iterator[Frame]:
    piece: Frame | None = None
    over: Frame | None = None
    for frame in frames:
        yield frame
        piece = frame if frame.piece else piece
        over = frame if frame.event.startswith("conversation.chat.") else over
        if frame.event == "done":
            fire(Fault.LATE)
            for late in (piece, over):
                if late is not None and isinstance(late.data, dict):
                    ghost = {"content": GHOST} if late.piece else {}
                    yield late._replace(at=frame.at, data=late.data | ghost, last=False)
            yield frame


def _ghost(frame: Frame, **fields: object) -> Json:
    base = frame.data if isinstance(frame.data, dict) else {}
    return {**base, "content": GHOST, **fields}


def _foreign(frame: Frame) -> Iterator[Frame]:
    other: Json = {
        key: str(int(value) + 4096) if key in ("id", "conversation_id", "chat_id") and str(value).isdigit() else value
        for key, value in _ghost(frame).items()
    }
    failed = {"id": other.get("chat_id"), "conversation_id": other.get("conversation_id"), "status": "failed"}
    yield Frame(frame.at, _DELTA, other)
    yield Frame(frame.at, _COMPLETED, other)
    yield Frame(frame.at, "conversation.chat.failed", failed | {"last_error": {"code": 5000, "msg": GHOST}})


def _unknown(frame: Frame) -> Iterator[Frame]:
    yield Frame(frame.at, "conversation.message.sparkle", _ghost(frame))
    yield Frame(frame.at, _COMPLETED, _ghost(frame, type="sparkle"))
    yield Frame(frame.at, "PING", b'{"content":"{}"}')
    if frame.event == _DELTA:  # a workflow has that event
        yield Frame(frame.at, "message", _ghost(frame))


def _broken(*edits: Callable[[bytes], bytes]) -> Callable[[Frame], Iterator[Frame]]:
    """Makes noise by editing the bytes of a ghost's JSON."""

    def noise(frame: Frame) -> Iterator[Frame]:
        good = msgspec.json.encode(_ghost(frame))
        for edit in edits:
            yield Frame(frame.at, _DELTA, edit(good))

    return noise


def _extra(value: bytes) -> Callable[[bytes], bytes]:
    return lambda good: b'%b,"extra":%b}' % (good[:-1], value)


_CONTENT = b'"content":"'
_DEPTH = 100_000
_NOISE: dict[Fault, Callable[[Frame], Iterator[Frame]]] = {
    Fault.FOREIGN: _foreign,
    Fault.UNKNOWN_EVENTS: _unknown,
    Fault.MALFORMED: _broken(
        lambda good: good[: len(good) // 2],
        lambda good: good + b"}",
        lambda good: good.replace(b'"', b"'"),
        lambda _: b"null",
        lambda _: b"[]",
        lambda _: b"",
    ),
    Fault.NAN: _broken(_extra(b"NaN"), _extra(b"-Infinity"), _extra(b"Infinity")),
    Fault.DEEP: _broken(_extra(b"[" * _DEPTH + b"]" * _DEPTH), lambda _: b'{"a":' * _DEPTH),
    # This is well-formed JSON, so a reader may accept it; therefore it contains no text.
    Fault.BIG_INT: _broken(lambda good: _extra(b"9" * 5000)(good).replace(GHOST.encode(), b"")),
    Fault.BAD_UTF8: _broken(
        lambda good: good.replace(_CONTENT, _CONTENT + b"\xff\xfe"),
        lambda good: good.replace(_CONTENT, _CONTENT + b"\xe6\x96"),
        lambda good: good.replace(_CONTENT, _CONTENT + b"\xed\xa0\xbd"),
    ),
    Fault.LONE_CR: _broken(lambda good: good.replace(_CONTENT, _CONTENT + b"\r")),
}
