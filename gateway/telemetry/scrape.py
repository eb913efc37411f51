"""A scrape: what Prometheus is given of the metrics, in one of its two formats."""

import platform
from collections.abc import Iterable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest

from gateway.telemetry import logs
from gateway.telemetry.metrics import Metrics, kind_of


def render(metrics: Metrics, accept: str = "") -> tuple[bytes, str]:
    """A scrape's body and its `Content-Type`: OpenMetrics where `accept` asks for it, else Prometheus' text."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # the version is not a number
        encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
    return encode(_Scrape(metrics, "openmetrics" in content_type)), content_type


class _Scrape:
    """The metrics of one scrape, in the form that the encoders expect."""

    def __init__(self, metrics: Metrics, openmetrics: bool) -> None:
        self._metrics = metrics
        self._openmetrics = openmetrics

    def collect(self) -> Iterable[Metric]:
        return _families(self._metrics, self._openmetrics)


def _families(metrics: Metrics, openmetrics: bool) -> Iterator[Metric]:
    yield from metrics.registry.collect()
    if openmetrics:
        unknown = UnknownMetricFamily("gateway_turns_total", "Turns ended", labels=["outcome"])
        for sample in next(iter(metrics.turns.collect())).samples:
            unknown.add_metric([sample.labels["outcome"]], sample.value)
        yield unknown
    else:
        yield from metrics.turns.collect()
    yield from _from_ledger(metrics)
    delay = HistogramMetricFamily(
        "gateway_delivery_delay_seconds", "From publishing to handing to the socket", labels=["transport"]
    )
    for transport, delays in metrics.delays.items():
        buckets, total = delays.buckets()
        delay.add_metric([transport], buckets, total)
    yield delay
    yield CounterMetricFamily(
        "gateway_log_lines_dropped", "Log lines dropped because nobody read", value=logs.dropped()
    )
    build = GaugeMetricFamily("gateway_build_info", "What runs", labels=["version", "python"])
    build.add_metric([metrics.version, platform.python_version()], 1)
    yield build


def _from_ledger(metrics: Metrics) -> Iterator[Metric]:
    connections = GaugeMetricFamily("gateway_connections", "Open connections", labels=["transport"])
    for transport in metrics.transports:
        connections.add_metric([transport], metrics.ledger.places(kind_of(transport))[transport])
    yield connections
    yield GaugeMetricFamily("gateway_turns", "Running turns", value=metrics.ledger.count("turn"))
    is_open = GaugeMetricFamily("gateway_resources_open", "Resources held", labels=["kind"])
    opened = CounterMetricFamily("gateway_resources_opened", "Resources taken", labels=["kind"])
    closed = CounterMetricFamily("gateway_resources_closed", "Resources given back", labels=["kind"])
    for kind, account in metrics.ledger.totals().items():
        is_open.add_metric([kind], account["open"])
        opened.add_metric([kind], account["opened"])
        closed.add_metric([kind], account["closed"])
    yield from (is_open, opened, closed)
