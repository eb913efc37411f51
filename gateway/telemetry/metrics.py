"""Metrics: count what happened, under the names of contract section 6. A scrape reads from the ledger what is open.

There is one registry per application, and all labels are closed sets. The hot path uses children looked up beforehand:
`metrics.published["message"].inc(pieces)` costs half a microsecond.
"""

import asyncio
import platform
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import accumulate
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest

from gateway.errors import Code
from gateway.events import Outcome
from gateway.telemetry import logs
from gateway.telemetry.faults import PARTS, Part
from gateway.telemetry.ledger import Held, Ledger
from gateway.upstream.protocol import Skipped

EVENTS = (
    "started",
    "message",
    "reasoning",
    "tool",
    "audio",
    "suggestion",
    "notice",
    "action_required",
    "completed",
    "cancelled",
    "error",
    "notification",
)
Operation = Literal["chat", "retrieve", "messages", "cancel", "submit_tool_outputs", "token"]

_DELIVERY = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_FIRST_CONTENT = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7, 10, 20, 60)
_TURN = (0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 60, 120, 300, 600)
_LOOP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class Closing(StrEnum):
    """Why a client's connection ended. A closed list: `docs/metrics.md` explains each reason."""

    FINISHED = "finished"
    CLIENT_LEFT = "client_left"
    SLOW = "slow"
    HALF_OPEN = "half_open"
    UNAUTHORIZED = "unauthorized"
    PROTOCOL = "protocol"
    DRAINING = "draining"
    OVERLOADED = "overloaded"
    ERROR = "error"


class Recovery(StrEnum):
    """How the work on a broken answer ended."""

    COMPLETED = "completed"
    REPLACED = "replaced"
    ACTION_REQUIRED = "action_required"
    CANCELLED = "cancelled"
    FAILED = "failed"


RETRY_REASONS = (
    Code.UPSTREAM_UNAVAILABLE,
    Code.UPSTREAM_RATE_LIMITED,
    Code.UPSTREAM_UNCERTAIN,
    Code.UPSTREAM_FAILED,
    Code.CONVERSATION_BUSY,
)
"""Why a request to Coze was tried again: the problem that the request would otherwise have ended with."""


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


class Metrics:
    """Every metric of one gateway. Gauges of open resources read `ledger`."""

    def __init__(self, ledger: Ledger, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # each of them would add a series to the text format
        self._ledger = ledger
        self._version = version
        self._registry = registry = CollectorRegistry()
        self._transports: dict[str, Counter] = {}
        self._delays: dict[str, Delays] = {}
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self._connections_opened = counter("gateway_connections_opened", "Connections opened", "transport")
        self.connections_closed = counter(
            "gateway_connections_closed", "Connections closed, and why", "transport", "reason"
        )
        self._delivered = counter("gateway_events_delivered", "Events handed to sockets", "transport")
        published = counter("gateway_events_published", "Events written to a log; each piece of text counts", "event")
        self.published = {event: published.labels(event) for event in EVENTS}
        self._resumes = counter("gateway_resumes", "Readers that came with a position", "transport", "outcome")
        self._requests = counter("gateway_upstream_requests", "Requests to Coze", "operation", "outcome")
        self._retries = counter("gateway_upstream_retries", "Requests to Coze tried again, and why", "reason")
        self._recoveries = counter("gateway_upstream_recoveries", "Broken answers worked on", "outcome")
        self._faults = counter("gateway_faults", "Faults of the gateway itself, by the part that met them", "part")
        for part in PARTS:
            self._faults.labels(part)
        self._refused = counter("gateway_requests_refused", "Requests refused, and why", "code")
        self._skipped = counter("gateway_upstream_records_skipped", "Records of Coze's stream not usable", "reason")
        # In OpenMetrics a counter's family has no `_total`, so this one would clash with the gauge of running turns. It
        # is in no registry; `_families` gives it a type that the format allows.
        self._turns = Counter("gateway_turns", "Turns ended", ["outcome"], registry=None)
        for outcome in ("completed", "failed", "cancelled"):
            self._turns.labels(outcome)

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

    def connection(self, transport: str) -> Connection:
        """A client's connection begins. The caller must `close` it.

        The ledger lists sockets as `websocket` and all others as `connection`, each under its transport's name.
        """
        opened = self._transports.get(transport)
        if opened is None:
            opened = self._transports[transport] = self._connections_opened.labels(transport)
        opened.inc()
        return Connection(self, transport, self._ledger.open(_kind(transport), transport))

    def delivered(self, transport: str) -> Counter:
        """The counter of one transport's deliveries. Keep it instead of looking it up for each delivery."""
        return self._delivered.labels(transport)

    def delays(self, transport: str) -> Delays:
        """One transport's delays from publishing to handing to the socket. Keep it, as `delivered`."""
        return self._delays.setdefault(transport, Delays(_DELIVERY))

    def resumed(self, transport: str, outcome: Literal["exact", "reset"]) -> None:
        self._resumes.labels(transport, outcome).inc()

    def turn_ended(self, outcome: Outcome, seconds: float) -> None:
        self._turns.labels(outcome).inc()
        self._turn_seconds.observe(seconds)

    def first_content(self, seconds: float) -> None:
        self._first_content.observe(seconds)

    def upstream_requested(self, operation: Operation, outcome: Code | Literal["ok"]) -> None:
        self._requests.labels(operation, str(outcome)).inc()

    def upstream_retried(self, reason: Code) -> None:
        """`reason` is one of `RETRY_REASONS`."""
        self._retries.labels(reason.value).inc()

    def upstream_recovered(self, outcome: Recovery) -> None:
        self._recoveries.labels(outcome.value).inc()

    def fault(self, part: Part) -> None:
        self._faults.labels(part).inc()

    def request_refused(self, code: Code) -> None:
        self._refused.labels(code.value).inc()

    def record_skipped(self, skipped: Skipped) -> None:
        self._skipped.labels(skipped.reason).inc()

    async def watch_event_loop(self, interval: float = 0.25) -> None:
        """Measures how late timers run, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + interval
            await asyncio.sleep(interval)
            self._loop_delay.observe(max(loop.time() - due, 0.0))

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """A scrape's body and its `Content-Type`: OpenMetrics where `accept` asks for it, else Prometheus' text."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the version is not a number
            encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        return encode(_Scrape(self, "openmetrics" in content_type)), content_type

    def _families(self, openmetrics: bool) -> Iterator[Metric]:
        yield from self._registry.collect()
        if openmetrics:
            unknown = UnknownMetricFamily("gateway_turns_total", "Turns ended", labels=["outcome"])
            for sample in next(iter(self._turns.collect())).samples:
                unknown.add_metric([sample.labels["outcome"]], sample.value)
            yield unknown
        else:
            yield from self._turns.collect()
        yield from self._from_ledger()
        delay = HistogramMetricFamily(
            "gateway_delivery_delay_seconds", "From publishing to handing to the socket", labels=["transport"]
        )
        for transport, delays in self._delays.items():
            buckets, total = delays.buckets()
            delay.add_metric([transport], buckets, total)
        yield delay
        yield CounterMetricFamily(
            "gateway_log_lines_dropped", "Log lines that nobody read in time", value=logs.dropped()
        )
        build = GaugeMetricFamily("gateway_build_info", "What runs", labels=["version", "python"])
        build.add_metric([self._version, platform.python_version()], 1)
        yield build

    def _from_ledger(self) -> Iterator[Metric]:
        connections = GaugeMetricFamily("gateway_connections", "Open connections", labels=["transport"])
        for transport in self._transports:
            connections.add_metric([transport], self._ledger.places(_kind(transport))[transport])
        yield connections
        yield GaugeMetricFamily("gateway_turns", "Running turns", value=self._ledger.count("turn"))
        is_open = GaugeMetricFamily("gateway_resources_open", "Resources held", labels=["kind"])
        opened = CounterMetricFamily("gateway_resources_opened", "Resources taken", labels=["kind"])
        closed = CounterMetricFamily("gateway_resources_closed", "Resources given back", labels=["kind"])
        for kind, account in self._ledger.totals().items():
            is_open.add_metric([kind], account["open"])
            opened.add_metric([kind], account["opened"])
            closed.add_metric([kind], account["closed"])
        yield from (is_open, opened, closed)


def _kind(transport: str) -> str:
    return "websocket" if transport == "websocket" else "connection"


class _Scrape:
    """The metrics of one scrape, in the form that the encoders expect."""

    def __init__(self, metrics: Metrics, openmetrics: bool) -> None:
        self._metrics = metrics
        self._openmetrics = openmetrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics._families(self._openmetrics)
