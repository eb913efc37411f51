"""Telling: hands the state of turns to the store, while they run and when they have ended."""

import asyncio
from collections.abc import Callable, Mapping

from gateway.log.stretch import Stretch
from gateway.store.store import Store
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.turns.live import LiveTurn
from gateway.turns.naming import Namings
from gateway.turns.orders import Note
from gateway.turns.projection import begun, ended, glance, snapshot

_STEP = 0.1
_EVERY = 10.0  # seconds after which the text so far of a running answer goes to the store; the log has every piece


class Telling:
    """Nothing here waits for the store, which writes what it was told as soon as it can."""

    def __init__(
        self, store: Store, names: Namings, *, clock: Callable[[], float], faults: Faults, ledger: Ledger
    ) -> None:
        self._store = store
        self._names = names
        self._clock = clock
        self._faults = faults
        self._ledger = ledger

    def began(self, live: LiveTurn) -> None:
        """Tells the store that the turn exists, only once."""
        if not live.stored:
            live.stored = True
            self._store.begin(begun(live.turn.turn_id, live.note))

    def stands(self, live: LiveTurn) -> None:
        """Tells the store what readers may have seen of the turn."""
        live.pen.changed = False
        try:
            self._store.update(snapshot(live, self._clock()))
        except Exception as error:
            self._faults.broke("keep", error, **live.ids.fields())

    def ended_before(self, stretch: Stretch, note: Note) -> None:
        """Tells the store again about a turn that has ended: the process may have been killed before it was written."""
        self._store.begin(begun(stretch.turn, note))
        self._names.recall(note)
        self._store.update(ended(stretch, note, self._clock()))

    async def run(self, running: Mapping[str, LiveTurn], each_round: Callable[[], None]) -> None:
        """Tells the store about each running turn every few seconds, for ever; a few at a time, as many cause
        delays."""
        loop = asyncio.get_running_loop()
        changed: list[LiveTurn] = []
        share, not_before = 1, 0.0
        with self._ledger.open("task", "turns.keep"):
            while True:
                await asyncio.sleep(_STEP)
                if not changed and loop.time() >= not_before:
                    not_before = loop.time() + _EVERY
                    each_round()
                    changed = [live for live in running.values() if live.pen.changed and live.stretch is not None]
                    share = max(1, round(len(changed) * _STEP / _EVERY))
                for live in changed[-share:]:
                    if live.turn.phase != "ended":
                        live.pen.changed = False
                        try:
                            self._store.update(glance(live, self._clock()))
                        except Exception as error:
                            self._faults.broke("keep", error, **live.ids.fields())
                del changed[-share:]
