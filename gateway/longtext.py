"""A long text, kept as UTF-8 in blocks: in a string, one emoji would make Python use four bytes for each character."""

from collections.abc import Iterator
from typing import Final

BLOCK: Final = 512 * 1024
"""Characters per block. A whole block is decoded to read any of its characters. The C library returns memory of this
size to the system when it is freed; smaller blocks would leave holes."""


class LongText:
    """A text that grows at its end. Offsets in it count code points. Its newest part is a plain string."""

    __slots__ = ("_base", "_blocks", "_newest")

    def __init__(self, text: str = "") -> None:
        self._blocks: list[bytes] = []
        self._base = 0  # the offset at which the newest part begins
        self._newest = ""
        self.add(text)

    def __len__(self) -> int:
        return self._base + len(self._newest)

    def add(self, text: str) -> None:
        newest = self._newest + text
        if len(newest) >= 2 * BLOCK:
            full = len(newest) // BLOCK * BLOCK
            self._blocks += [_encode(newest[at : at + BLOCK]) for at in range(0, full, BLOCK)]
            self._base += full
            newest = newest[full:]
        self._newest = newest

    def __str__(self) -> str:
        return self.then("")

    def then(self, more: str) -> str:
        """The text with more after it, in one copy."""
        return "".join([*map(_decode, self._blocks), self._newest, more])

    def encoded(self) -> bytes:
        """The text as UTF-8."""
        return b"".join([*self._blocks, _encode(self._newest)])

    def part(self, start: int = 0, stop: int | None = None) -> str:
        """The text from `start` up to `stop`."""
        if start >= self._base:
            return self._newest[start - self._base : None if stop is None else stop - self._base]
        stop = len(self) if stop is None else min(stop, len(self))
        if start >= stop:
            return ""
        first, last = start // BLOCK, (stop - 1) // BLOCK
        if start == 0 and stop == len(self):
            return str(self)
        parts = [_decode(block) for block in self._blocks[first : last + 1]]
        if stop > self._base:
            parts.append(self._newest[: stop - self._base])
        offset = start - first * BLOCK
        return "".join(parts)[offset : offset + stop - start]

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """The text from `start` up to `stop` in pieces of a block at most, none of them empty."""
        stop = len(self) if stop is None else min(stop, len(self))
        while start < stop:
            end = min(stop, (start // BLOCK + 1) * BLOCK)
            yield self.part(start, end)
            start = end


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _decode(data: bytes) -> str:
    """A block's characters. A whole text, decoded in one go, could take four bytes for each of its characters."""
    return data.decode("utf-8", "surrogatepass")
