"""Metrics: count what happened, under the names of contract section 6. A scrape reads from the ledger what is open.

There is one registry per application, and all labels are closed sets. The hot path uses children looked up beforehand.
"""

import asyncio
from bisect import bisect_left
from itertools import accumulate
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics

from gateway.errors import Code
from gateway.events import Outcome
from gateway.telemetry.ledger import Held, Ledger
from gateway.telemetry.node_metrics import NodeMetrics
from gateway.telemetry.observer import Observer, TurnIds
from gateway.telemetry.words import EVENTS, PARTS, RETRY_REASONS, Closing, Operation, Part, Recovery, Unusable

_DELIVERY = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_FIRST_CONTENT = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7, 10, 20, 60)
_TURN = (0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 60, 120, 300, 600)
_LOOP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class Delays:
    """A histogram that takes many equal observations in one call: one call per group of readers, not per reader.

    Only the event loop's thread uses it, so it has no lock.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Counts `times` deliveries, each `seconds` late. A clock that went back counts as no delay."""
        seconds = max(seconds, 0.0)
        self._counts[bisect_left(self._bounds, seconds)] += times
        self._sum += seconds * times

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper bound, and the sum."""
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True)), self._sum


class Connection:
    """A client's open stream, request or socket: in the ledger, and in the counters."""

    __slots__ = ("_held", "_metrics", "_transport")

    def __init__(self, metrics: "Metrics", transport: str, held: Held) -> None:
        self._metrics: Metrics | None = metrics
        self._transport = transport
        self._held = held

    def close(self, reason: Closing) -> None:
        """Closes the connection in the books. Only the first reason counts: closing again does nothing."""
        if (metrics := self._metrics) is not None:
            self._metrics = None
            self._held.close()
            metrics.connections_closed.labels(self._transport, reason.value).inc()


class Metrics(Observer):
    """Every metric of one gateway. Gauges of open resources read `ledger`."""

    def __init__(self, ledger: Ledger, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # each of them would add a series to the text format
        self.ledger = ledger
        self.version = version
        self.registry = registry = CollectorRegistry()
        self._delivered: dict[str, Counter] = {}
        self.transports: dict[str, Counter] = {}
        """The counter of opened connections of each transport that ever had one."""
        self.delays: dict[str, Delays] = {}
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self._connections_opened = counter("gateway_connections_opened", "Connections opened", "transport")
        self.connections_closed = counter(
            "gateway_connections_closed", "Connections closed, and why", "transport", "reason"
        )
        self._deliveries = counter("gateway_events_delivered", "Events handed to sockets", "transport")
        published = counter("gateway_events_published", "Events written to a log; each piece of text counts", "event")
        self._published = {event: published.labels(event) for event in EVENTS}
        self._resumes = counter("gateway_resumes", "Readers that came with a position", "transport", "outcome")
        self._requests = counter("gateway_upstream_requests", "Requests to Coze", "operation", "outcome")
        self._retries = counter("gateway_upstream_retries", "Requests to Coze tried again, and why", "reason")
        for reason in RETRY_REASONS:
            self._retries.labels(reason.value)
        self._recoveries = counter("gateway_upstream_recoveries", "Recoveries of broken answers", "outcome")
        self._faults = counter("gateway_faults", "Faults of the gateway itself, by the part that met them", "part")
        for part in PARTS:
            self._faults.labels(part)
        self._refused = counter("gateway_requests_refused", "Requests refused, and why", "code")
        self._skipped = counter("gateway_upstream_records_skipped", "Unusable records of Coze's stream", "reason")
        # In OpenMetrics a counter's family has no `_total`, so this one would clash with the gauge of running turns. It
        # is in no registry; a scrape gives it a type that the format allows.
        self.turns = Counter("gateway_turns", "Turns ended", ["outcome"], registry=None)
        for outcome in ("completed", "failed", "cancelled"):
            self.turns.labels(outcome)

        self._turn_seconds = Histogram(
            "gateway_turn_duration_seconds", "From a turn's start to its last event", buckets=_TURN, registry=registry
        )
        self._first_content = Histogram(
            "gateway_first_content_seconds",
            "From a turn's start to the first piece of its answer",
            buckets=_FIRST_CONTENT,
            registry=registry,
        )
        self._loop_delay = Histogram(
            "gateway_event_loop_delay_seconds",
            "How late the event loop ran a timer",
            buckets=_LOOP,
            registry=registry,
        )
        self.nodes = NodeMetrics(registry)

    def connection(self, transport: str) -> Connection:
        """A client's connection begins. The caller must `close` it.

        The ledger lists sockets as `websocket` and all others as `connection`, each under its transport's name.
        """
        opened = self.transports.get(transport)
        if opened is None:
            opened = self.transports[transport] = self._connections_opened.labels(transport)
        opened.inc()
        return Connection(self, transport, self.ledger.open(kind_of(transport), transport))

    def delivered(self, transport: str) -> Counter:
        """The counter of one transport's deliveries, for a transport that delivers by itself."""
        counter = self._delivered.get(transport)
        if counter is None:
            counter = self._delivered[transport] = self._deliveries.labels(transport)
        return counter

    # -- as an observer ---------------------------------------------------------------------------------------------

    def events_shown(self, event: str, times: int) -> None:
        self._published[event].inc(times)

    def events_delivered(self, transport: str, times: int) -> None:
        self.delivered(transport).inc(times)

    def events_late(self, transport: str, seconds: float, times: int) -> None:
        delays = self.delays.get(transport)
        if delays is None:
            delays = self.delays[transport] = Delays(_DELIVERY)
        delays.observe(seconds, times)

    def first_content(self, turn: TurnIds, seconds: float) -> None:
        self._first_content.observe(seconds)

    def record_skipped(self, turn: TurnIds, reason: Unusable) -> None:
        self._skipped.labels(reason).inc()

    def upstream_retried(self, turn: TurnIds, reason: Code, attempt: int, wait: float) -> None:
        self._retries.labels(reason.value).inc()

    def upstream_recovered(self, turn: TurnIds, outcome: Recovery) -> None:
        self._recoveries.labels(outcome.value).inc()

    def turn_ended(self, turn: TurnIds, outcome: Outcome, seconds: float) -> None:
        self.turns.labels(outcome).inc()
        self._turn_seconds.observe(seconds)

    def upstream_requested(self, operation: Operation, outcome: Code | Literal["ok"], seconds: float) -> None:
        self._requests.labels(operation, str(outcome)).inc()

    def reader_resumed(self, transport: str, outcome: Literal["exact", "reset"]) -> None:
        self._resumes.labels(transport, outcome).inc()

    def request_refused(self, code: Code) -> None:
        self._refused.labels(code.value).inc()

    def fault_met(self, part: Part) -> None:
        self._faults.labels(part).inc()

    async def watch_event_loop(self, interval: float = 0.25) -> None:
        """Measures how late timers run, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + interval
            await asyncio.sleep(interval)
            self._loop_delay.observe(max(loop.time() - due, 0.0))


def kind_of(transport: str) -> str:
    """What the ledger calls a transport's connections."""
    return "websocket" if transport == "websocket" else "connection"
