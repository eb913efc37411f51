"""Showing: the one place where events become visible to readers."""

import asyncio

from gateway.log.journal import BEGIN, END, Place, Record
from gateway.log.replay import take
from gateway.log.segments import LAST, WHOLE
from gateway.log.shelf import Shelf
from gateway.log.tail import Span, Tail
from gateway.telemetry.faults import Faults
from gateway.telemetry.observer import Observer


class Showing:
    """Applies durable records to the stretches in memory, and tells readers that there is news."""

    def __init__(self, shelf: Shelf, *, observer: Observer, faults: Faults) -> None:
        self._unsaved = shelf.unsaved
        self._shown = observer.events_shown
        self._faults = faults

    def show(self, records: list[Record], batch: int) -> dict[int, Exception]:
        """Shows records that are durable now. Returns, by number, the stretches that can't be shown, and why."""
        touched: dict[Tail, None] = {}
        unsaved = self._unsaved
        shown: dict[str, int] = {}
        broken: dict[int, Exception] = {}
        for number, kind, sequence, payload in records:
            if broken and number in broken:
                continue
            if (writer := unsaved.get(number)) is None:
                continue  # its log was erased meanwhile
            stretch, tail = writer.stretch, writer.tail
            try:
                if kind <= WHOLE or kind == LAST:
                    if sequence != stretch.last + 1:
                        raise RuntimeError(f"{stretch!r} is given event {sequence}")
                    name = stretch.apply(kind, payload)
                    shown[name] = shown.get(name, 0) + 1
                    tail.head = sequence
                    touched[tail] = None
                elif kind == BEGIN:  # only now, because readers must not see even an empty place that is not durable
                    tail.spans.append(Span(Place(sequence, sequence - 1, number, stretch.turn), stretch))
                else:
                    take(stretch, kind, sequence, payload)
                    if kind == END:
                        touched[tail] = None
            except Exception as error:
                broken[number] = error
            if not stretch.unsaved_from:
                stretch.unsaved_from = batch
        for name, times in shown.items():
            try:
                self._shown(name, times)
            except Exception as error:
                self._faults.broke("show", error)
        now = asyncio.get_running_loop().time()
        for tail in touched:
            tail.published = now
            try:
                tail.news()
            except Exception as error:
                self._faults.broke("show", error)
        return broken
