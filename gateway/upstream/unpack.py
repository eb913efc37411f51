"""Unpacking of bodies that are packed although we did not ask for it: gzip and deflate, in bounded steps. No I/O."""

import zlib
from collections.abc import Iterable
from typing import Final, Literal

from gateway.bounds import RECORD_BYTES

FREE: Final = RECORD_BYTES
"""Bytes that any body may unpack to: as many as one record, or one JSON answer, may have."""

RATIO: Final = 100
"""Beyond `FREE`, bytes out for each byte in. Coze's streams, which repeat ids in every record, reach about 20."""

_STEP_OUT = 16 * 1024
_STEP_IN = 4 * 1024
"""Input bytes of one step. It is small, since zlib copies its unused input, and reading the output takes time, too."""

_WINDOW = 15
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 16 + _WINDOW, _WINDOW, -_WINDOW
_MAGIC = b"\x1f\x8b"


class BadPacking(Exception):
    """The body is not packed as its header says."""


class Overflow(Exception):
    """The body unpacks to more than any answer of Coze's would."""


class Unpacker:
    """One body's bytes, unpacked a step at a time. A body labelled gzip that isn't is passed on as it is."""

    __slots__ = ("_full", "_gzip", "_input", "_mode", "_out", "_zlib", "taken")

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._mode: Literal["first", "packed", "plain", "next", "over"] = "first"
        self._input = bytearray()
        self._zlib = zlib.decompressobj()
        self._full = False  # zlib may hold more output than it has given
        self.taken = self._out = 0  # input bytes that were unpacked, and output bytes

    def feed(self, data: bytes) -> None:
        if self._mode != "over":
            self._input += data

    def step(self) -> bytes | None:
        """The next bytes, perhaps none; None if more have to be fed first. Raises BadPacking or Overflow."""
        if self._mode in ("first", "next"):
            self._begin()
        if not (self._input or self._full) or self._mode not in ("packed", "plain"):
            return None
        block = bytes(self._input[:_STEP_IN])
        if self._mode == "plain":
            del self._input[: len(block)]
            return block
        try:
            out = self._zlib.decompress(block, _STEP_OUT)
        except zlib.error:
            raise BadPacking from None
        used = len(block) - len(self._zlib.unconsumed_tail) - len(self._zlib.unused_data)
        del self._input[:used]
        self._full = len(out) == _STEP_OUT and not self._zlib.eof
        if self._zlib.eof:
            self._mode = "next" if self._gzip else "over"
        self.taken += used
        self._out += len(out)
        if self._out > FREE + RATIO * self.taken:
            raise Overflow
        return out

    @property
    def whole(self) -> bool:
        """Whether the body may end here."""
        return self._mode in ("next", "over", "plain") or not (self._input or self.taken)

    def _begin(self) -> None:
        """Starts the body, or its next member, once two bytes tell its form. Anything else that follows is padding."""
        if len(self._input) < len(_MAGIC):
            return
        if not self._gzip:
            # RFC 9110 demands zlib's format, but some senders leave its two-byte header out.
            is_zlib = self._input[0] & 0x0F == 8 and int.from_bytes(self._input[:2], "big") % 31 == 0
            self._zlib, self._mode = zlib.decompressobj(_ZLIB_BITS if is_zlib else _RAW_BITS), "packed"
        elif self._input.startswith(_MAGIC):
            self._zlib, self._mode = zlib.decompressobj(_GZIP_BITS), "packed"
        elif self._mode == "first":
            self._mode = "plain"
        else:
            self._input.clear()
            self._mode = "over"


def packing(encodings: Iterable[str]) -> str:
    """How a body with these Content-Encoding headers is packed: "", "gzip", "deflate", or "unknown"."""
    names = [name for value in encodings for part in value.split(",") if (name := part.strip().lower())]
    match [name for name in names if name != "identity"]:
        case []:
            return ""
        case ["gzip" | "x-gzip"]:
            return "gzip"
        case ["deflate"]:
            return "deflate"
        case _:
            return "unknown"
