"""Unsaved: the stretches that this process writes, or has ended, and that are not saved yet."""

from gateway.log.stretch import Stretch
from gateway.log.tail import Tail
from gateway.log.writer import Writer


class Unsaved(dict[int, Writer]):
    """The writers of these stretches, by the stretch's number. Each counts in its tail's `unsaved`."""

    def __init__(self) -> None:
        super().__init__()
        self._turns: dict[str, list[Writer]] = {}  # of each turn; a turn that waited has two stretches
        self._marks: dict[str, list[Writer]] = {}  # of each mark

    def add(self, writer: Writer) -> None:
        """Adds a writer, or replaces the one that its stretch had until now."""
        stretch = writer.stretch
        if stretch.number not in self:
            writer.tail.unsaved += 1
        elif (before := self[stretch.number]) is not writer:
            _take_out(self._turns, stretch.turn, before)
            _take_out(self._marks, stretch.mark, before)
        self[stretch.number] = writer
        if stretch.turn:
            self._turns.setdefault(stretch.turn, []).append(writer)
        if stretch.mark:
            self._marks.setdefault(stretch.mark, []).append(writer)

    def remove(self, writer: Writer) -> None:
        """Removes a writer whose stretch is saved, or is gone."""
        stretch = writer.stretch
        del self[stretch.number]
        writer.tail.unsaved -= 1
        _take_out(self._turns, stretch.turn, writer)
        _take_out(self._marks, stretch.mark, writer)

    def of_turn(self, turn: str) -> Writer | None:
        """The turn's newest writer that is not fenced: what a fenced writer wrote last may not be durable."""
        return _newest(self._turns.get(turn, []))

    def marked(self, mark: str) -> Stretch | None:
        """The newest stretch with this mark, under the same condition."""
        writer = _newest(self._marks.get(mark, []))
        return None if writer is None else writer.stretch

    def is_ours(self, number: int) -> bool:
        """Whether nobody else goes on with the stretch, as far as this process knows."""
        return (writer := self.get(number)) is not None and not writer.fenced

    def are_ahead(self, tail: Tail) -> bool:
        """Whether this process may have written more to the log than is shown, or than is stored of it: a turn that
        runs here, or has just ended."""
        written = (writer for writer in self.values() if writer.tail is tail)
        return tail.is_ours or (tail.unsaved > 0 and any(not writer.fenced for writer in written))

    def __repr__(self) -> str:
        return f"Unsaved({len(self)} stretches)"


def _newest(writers: list[Writer]) -> Writer | None:
    return next((writer for writer in reversed(writers) if not writer.fenced), None)


def _take_out(found: dict[str, list[Writer]], name: str, writer: Writer) -> None:
    if writer in (writers := found.get(name, [])):
        writers.remove(writer)
        if not writers:
            del found[name]
