"""The journal in memory, which keeps nothing beyond this process: `memory://`."""

import secrets
from collections.abc import Sequence

from gateway.log.journal import Index, Place, Record, Recovered
from gateway.log.stretch import Stretch


class MemoryJournal:
    """Batches count as durable at once. Within the process this journal behaves like the durable ones."""

    shared = False

    def __init__(self) -> None:
        self._made = secrets.token_hex(4)
        self._last = 0
        self._stretches: dict[int, Stretch] = {}
        self._heads: dict[str, tuple[str, int]] = {}

    async def open(self) -> Recovered:
        return Recovered([], 1, self._made)

    async def commit(self, number: int, batch: list[Record]) -> None:
        self._last = number

    async def holds(self, number: int) -> bool:
        return number <= self._last

    async def save(self, stretches: list[Stretch]) -> None:
        for stretch in stretches:
            self._stretches[stretch.number] = stretch
            if stretch.last >= self._heads.get(stretch.key, ("", 0))[1]:
                self._heads[stretch.key] = (stretch.epochs, stretch.last)

    async def forget(self, *, before: int) -> None:
        pass

    async def indexes(self, keys: Sequence[str]) -> dict[str, Index]:
        found = {key: Index(*self._heads[key], []) for key in keys if key in self._heads}
        for s in sorted(self._stretches.values(), key=lambda s: s.first):
            if s.key in found:
                found[s.key].places.append(Place(s.first, s.last, s.number, s.turn))
        return found

    async def find(self, turn: str) -> str | None:
        return next((s.key for s in reversed(self._stretches.values()) if s.turn == turn), None)

    async def turns(self) -> list[str]:
        return [stretch.turn for stretch in self._stretches.values() if stretch.turn]

    async def marked(self, mark: str) -> tuple[str, bytes] | None:
        return next(((s.turn, s.state) for s in reversed(self._stretches.values()) if s.mark == mark), None)

    async def load(self, number: int) -> Stretch | None:
        return self._stretches.get(number)

    async def trim(self, *, before: float, now: float) -> list[str]:
        old = [s for s in self._stretches.values() if s.ended is not None and s.ended < before]
        for stretch in old:
            del self._stretches[stretch.number]
        return [s.key for s in old]

    async def erase(self, keys: Sequence[str], unsaved: Sequence[int]) -> None:
        for stretch in [s for s in self._stretches.values() if s.key in keys]:
            del self._stretches[stretch.number]
        for key in keys:
            self._heads.pop(key, None)

    async def tidy(self) -> None:
        pass

    async def probe(self) -> None:
        pass

    async def close(self) -> None:
        pass
