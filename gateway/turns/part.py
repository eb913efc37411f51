"""A part: one growing text of a turn, an answer or the reasoning, as far as it was shown."""

from collections.abc import Callable, Iterator
from io import StringIO

from gateway.longtext import BLOCK, LongText


class Part:
    """One answer: `text` is the part that was shown, `held` the part that arrived when it was no longer the last
    answer.

    A part in the list always has text. `whole` says that Coze gave the answer in full, so its deltas are over.
    """

    __slots__ = ("_held", "_long", "_shown", "append", "id", "whole")

    append: Callable[[str], object]
    """Adds a shown piece."""

    def __init__(self, message_id: str, text: str, *, whole: bool = False) -> None:
        self.id = message_id
        self._held: StringIO | None = None
        self.whole = whole
        self.text = text

    @property
    def text(self) -> str:
        newest = self._shown.getvalue()
        return newest if self._long is None else self._long.then(newest)

    @text.setter
    def text(self, text: str) -> None:
        self._long: LongText | None = None
        self._begin(text)

    def _begin(self, text: str) -> None:
        # a buffer, not a list of pieces: an endless stream of single characters would cost 60 bytes for each
        self._shown = StringIO()
        self.append = self._shown.write
        if len(text) < BLOCK:
            self.append(text)
        else:
            self._long = LongText(text)

    def compact(self) -> None:
        """Called now and then, to keep a long text in less memory."""
        if self._shown.tell() >= BLOCK:
            if self._long is None:
                self._long = LongText()
            self._long.add(self._shown.getvalue())
            self._begin("")

    @property
    def length(self) -> int:
        """The number of code points shown, without building the text."""
        return self._shown.tell() + (0 if self._long is None else len(self._long))

    def parts(self) -> Iterator[str]:
        """The text in parts of a bounded length."""
        if self._long is not None:
            yield from self._long.pieces()
        yield self._shown.getvalue()

    def begins(self, text: str) -> bool:
        """Whether `text` begins with the part that was shown."""
        at = 0
        for part in self.parts():
            if not text.startswith(part, at):
                return False
            at += len(part)
        return True

    @property
    def held(self) -> str:
        return self._held.getvalue() if self._held is not None else ""

    def hold(self, piece: str) -> None:
        """Keeps a piece back."""
        if self._held is None:
            self._held = StringIO()
        self._held.write(piece)

    def release(self) -> None:
        """Forgets the text that was held back."""
        self._held = None

    def __repr__(self) -> str:
        return f"Part({self.id!r}, {self.length} shown, {len(self.held)} held, whole={self.whole})"
