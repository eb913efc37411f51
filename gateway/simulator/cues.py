"""Cues: what a response's connection does and when, byte by byte, until its end."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from gateway.simulator.disturbance import disturbed
from gateway.simulator.faults import FAILING, Fault, FaultPlan, Fire
from gateway.simulator.framing import encoder
from gateway.simulator.objects import Dialect, Frame


class End(StrEnum):
    """How a response ends."""

    EOF = "eof"  # the body ends as HTTP wants it
    DROP = "drop"  # the connection is closed inside the body
    CUT_CHUNK = "cut-chunk"  # the same, inside a chunk
    RESET = "reset"
    STALL = "stall"  # nothing more comes, and the connection stays open


class Cue(NamedTuple):
    """`data` is to be written `at` seconds after the stream began; `end` says that it is the last."""

    at: float
    data: bytes
    end: End | None = None


_BEFORE_CREATED = {
    Fault.SILENT: End.STALL,
    Fault.EOF_BEFORE_CREATED: End.EOF,
    Fault.DROP_BEFORE_CREATED: End.DROP,
    Fault.RESET_BEFORE_CREATED: End.RESET,
}
_AFTER = {
    Fault.STALL_AFTER: End.STALL,
    Fault.EOF_AFTER: End.EOF,
    Fault.DROP_AFTER: End.DROP,
    Fault.RESET_AFTER: End.RESET,
    Fault.CUT_RECORD_AFTER: End.EOF,
    Fault.CUT_UTF8_AFTER: End.EOF,
    Fault.CUT_CHUNK_AFTER: End.CUT_CHUNK,
}
_FAILURES = frozenset({"error", "conversation.chat.failed", "conversation.chat.canceled"})
_UNBOUNDED_AFTER = 3
_BLOCK = 65536


def cues(frames: Iterable[Frame], plan: FaultPlan, fire: Fire, dialect: Dialect = "chat") -> Iterator[Cue]:
    """The cues of a response; the last one has its end. Unbounded faults give cues for as long as somebody takes
    them."""
    if Fault.GZIP_BOMB in plan:
        return _bomb(fire)
    found = _framed(frames, plan, fire, dialect)
    return _bytewise(found, fire) if Fault.BYTES in plan else found


def _framed(frames: Iterable[Frame], plan: FaultPlan, fire: Fire, dialect: Dialect) -> Iterator[Cue]:
    for fault, end in _BEFORE_CREATED.items():
        if fault in plan:
            fire(fault)
            yield Cue(0.0, b"", end)
            return
    earliest = 0.0
    if Fault.SLOW_FIRST in plan:
        fire(Fault.SLOW_FIRST)
        earliest = plan.number(Fault.SLOW_FIRST) / 1000
    breaks = [(plan.number(fault), fault, end) for fault, end in _AFTER.items() if fault in plan]
    encode = encoder(plan, fire, dialect)
    count, at = 0, 0.0
    for frame in disturbed(frames, plan, fire):
        data, at = encode(frame), max(frame.at, earliest)
        if frame.piece:
            for after, fault, end in breaks:
                if count == after:
                    fire(fault)
                    yield Cue(at, _cut(data, fault), end)
                    return
            if count == _UNBOUNDED_AFTER:
                yield from _unbounded(at, plan, fire)
            count += 1
        if frame.event in _FAILURES:
            for fault in FAILING:
                if fault in plan:
                    fire(fault)
        if data:
            yield Cue(at, data)
    if Fault.HOLD_OPEN in plan:
        fire(Fault.HOLD_OPEN)
        at += plan.number(Fault.HOLD_OPEN) / 1000
    yield Cue(at, b"", End.EOF)


def _cut(data: bytes, fault: Fault) -> bytes:
    """The part of the record that is still sent."""
    match fault:
        case Fault.CUT_RECORD_AFTER | Fault.CUT_CHUNK_AFTER:
            return data[: len(data) // 2]
        case Fault.CUT_UTF8_AFTER:
            head, key, _ = data.partition(b'"content":"')
            return head + key + "文".encode()[:2]
        case _:
            return b""


def _unbounded(at: float, plan: FaultPlan, fire: Fire) -> Iterator[Cue]:
    if Fault.COMMENTS_FOREVER in plan:
        fire(Fault.COMMENTS_FOREVER)
        while True:
            yield Cue(at, b": still here\n")
            at += 0.1
    if Fault.ENDLESS_RECORD in plan:
        fire(Fault.ENDLESS_RECORD)
        yield Cue(at, b'event:conversation.message.delta\ndata:{"content":"')
        block = b"x" * _BLOCK
        while True:
            yield Cue(at, block)


def _bomb(fire: Fire) -> Iterator[Cue]:
    """A gzip body without end. It repeats one flushed block, so it costs nothing to make."""
    fire(Fault.GZIP_BOMB)
    head, block = _bomb_parts()
    yield Cue(0.0, head)
    while True:
        yield Cue(0.0, block)


@lru_cache(maxsize=1)
def _bomb_parts() -> tuple[bytes, bytes]:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = deflate.compress(b" " * 1_048_576) + deflate.flush(zlib.Z_FULL_FLUSH)
    return gzip.compress(b"")[:10], block


def _bytewise(cues: Iterator[Cue], fire: Fire) -> Iterator[Cue]:
    fire(Fault.BYTES)
    for cue in cues:
        for number in range(len(cue.data)):
            yield Cue(cue.at, cue.data[number : number + 1])
        if cue.end is not None:
            yield Cue(cue.at, b"", cue.end)
