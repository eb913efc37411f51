"""Packing: a stretch's events as they are stored."""

from array import array

import msgspec

from gateway.log.segments import LAST, WHOLE, Run, Whole, single
from gateway.log.stretch import Stretch

_BIG_ENDIAN = array("H", [1]).tobytes() == b"\x00\x01"


class Saved(msgspec.Struct, array_like=True):
    """For each segment its kind, and either its text and the boundaries in it, or its body."""

    segments: list[tuple[int, bytes, bytes]]


DAMAGED = (msgspec.MsgspecError, ValueError, LookupError)
"""What reading a stretch or a batch raises if it is not what was written."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Saved)


def pack(stretch: Stretch) -> bytes:
    """The stretch's events. Boundaries are 32-bit little-endian offsets in code points at which pieces end."""
    rows: list[tuple[int, bytes, bytes]] = []
    for segment in stretch.segments:
        if isinstance(segment, Run):
            rows.append((segment.kind, segment.encoded(), _little(segment.ends)))
        elif isinstance(segment, Whole):
            rows.append((WHOLE, segment.body, b""))
        else:
            rows.append((LAST, segment.bare, b""))
    return _encoder.encode(Saved(rows))


def unpack(stretch: Stretch, data: bytes) -> Stretch:
    """Fills an empty stretch with what `pack` made. Raises one of `DAMAGED`."""
    sequence = stretch.first
    for kind, content, boundaries in _decoder.decode(data).segments:
        stretch.starts.append(sequence)
        if kind >= WHOLE:
            stretch.segments.append(single(kind, sequence, content))
            sequence += 1
        else:
            ends = array("I")
            ends.frombytes(boundaries)
            if _BIG_ENDIAN:
                ends.byteswap()
            stretch.segments.append(Run(kind, sequence, content.decode(), ends))
            sequence += len(ends)
    stretch.last = sequence - 1
    return stretch


def _little(ends: "array[int]") -> bytes:
    if _BIG_ENDIAN:
        ends = array("I", ends)
        ends.byteswap()
    return ends.tobytes()
