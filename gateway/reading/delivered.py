"""Delivered: how many events readers were given, and how late, added up for the metrics."""

from typing import Protocol

from gateway.telemetry.faults import Faults


class Watch(Protocol):
    """Gets the reports. An exception that it raises does not disturb the delivery."""

    def delivered(self, label: str, events: int) -> None: ...
    def delay(self, label: str, seconds: float, times: int) -> None: ...


class Delivered:
    """Counts events by the label of their outlets, until they are reported."""

    def __init__(self, watch: Watch, faults: Faults) -> None:
        self._watch = watch
        self._faults = faults
        self._events: dict[str, int] = {}

    def add(self, label: str, events: int) -> None:
        self._events[label] = self._events.get(label, 0) + events

    def late(self, label: str, seconds: float, times: int) -> None:
        """News reached `times` outlets `seconds` after it became visible."""
        try:
            self._watch.delay(label, seconds, times)
        except Exception as error:
            self._faults.broke("deliver", error)

    def report(self) -> None:
        """Reports what was added since the last report."""
        added, self._events = self._events, {}
        for label, events in added.items():
            try:
                self._watch.delivered(label, events)
            except Exception as error:
                self._faults.broke("deliver", error)

    def __repr__(self) -> str:
        return f"Delivered({sum(self._events.values())} events since the last report)"
