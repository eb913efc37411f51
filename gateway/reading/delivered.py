"""Delivered: how many events readers were given, and how late, added up for the observer."""

from gateway.telemetry.faults import Faults
from gateway.telemetry.observer import Observer


class Delivered:
    """Counts events by the label of their outlets, until they are reported.

    An exception that the observer raises does not disturb the delivery.
    """

    def __init__(self, observer: Observer, faults: Faults) -> None:
        self._observer = observer
        self._faults = faults
        self._events: dict[str, int] = {}

    def add(self, label: str, events: int) -> None:
        self._events[label] = self._events.get(label, 0) + events

    def late(self, label: str, seconds: float, times: int) -> None:
        """News reached `times` outlets `seconds` after it became visible."""
        try:
            self._observer.events_late(label, seconds, times)
        except Exception as error:
            self._faults.broke("deliver", error)

    def report(self) -> None:
        """Reports what was added since the last report."""
        added, self._events = self._events, {}
        for label, events in added.items():
            try:
                self._observer.events_delivered(label, events)
            except Exception as error:
                self._faults.broke("deliver", error)

    def __repr__(self) -> str:
        return f"Delivered({sum(self._events.values())} events since the last report)"
