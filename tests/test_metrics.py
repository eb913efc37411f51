"""Metrics: the contract's names and labels, gauges that can't drift, two formats that parsers accept."""

import asyncio
import contextlib
import re
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway import events
from gateway.errors import Code
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.metrics import Delays, Metrics
from gateway.telemetry.observer import TurnIds
from gateway.telemetry.scrape import render
from gateway.telemetry.words import EVENTS, PARTS, RETRY_REASONS, Closing, Operation, Recovery, Unusable

DOCS = Path(__file__).parent.parent / "docs"
IDS = TurnIds("turn_1", "conv_1", "req_1")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def everything_happened(ledger: Ledger) -> Metrics:
    metrics = Metrics(ledger, "1.2.3")
    metrics.connection("sse")
    metrics.connection("websocket").close(Closing.SLOW)
    metrics.events_shown("message", 3)
    metrics.events_delivered("sse", 2)
    metrics.delivered("mine").inc(2)
    metrics.events_late("sse", 0.004, 2)
    metrics.reader_resumed("longpoll", "reset")
    metrics.first_content(IDS, 0.3)
    metrics.turn_ended(IDS, "completed", 6.5)
    metrics.upstream_requested("chat", "ok", 0.1)
    metrics.upstream_requested("retrieve", Code.UPSTREAM_UNAVAILABLE, 0.1)
    metrics.upstream_retried(IDS, Code.UPSTREAM_RATE_LIMITED, 1, 0.5)
    metrics.upstream_recovered(IDS, Recovery.COMPLETED)
    metrics.record_skipped(IDS, "malformed")
    metrics.request_refused(Code.NOT_FOUND)
    metrics.nodes.nodes_counted(2)
    metrics.nodes.nodes_buried(1)
    metrics.nodes.node_rejoined()
    metrics.nodes.stretches_adopted(3)
    metrics.nodes.log_committed(0.002)
    metrics.nodes.batches_written_again(1)
    metrics.nodes.log_taken_back()
    metrics.nodes.news_read(0.02, 0.001)
    metrics.nodes.batches_read(2)
    metrics.nodes.batch_heard(0.003, 0.001)
    metrics.nodes.news_goes(redis=True)
    metrics.nodes.news_refused()
    return metrics


def samples(metrics: Metrics, accept: str = "") -> Samples:
    body, content_type = render(metrics, accept)
    parse = parse_openmetrics if "openmetrics" in content_type else parse_text
    return {(s.name, frozenset(s.labels.items())): s.value for family in parse(body.decode()) for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, frozenset(labels.items())]


def promised() -> dict[str, set[str]]:
    """The contract's metrics and their labels, read from its table."""
    section = (DOCS / "contract.md").read_text(encoding="utf-8").split("| metric | type, labels |")[1].split("\n\n")[0]
    found: dict[str, set[str]] = {}
    for row in section.splitlines()[2:]:
        names, kinds = (re.findall(r"`(gateway_\w+)`", row), row.split("|")[2])
        columns = [set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", part))) for part in re.split(r";", kinds)]
        for at, name in enumerate(names):
            found[name] = columns[min(at, len(columns) - 1)]
    return found


def test_every_metric_of_the_contract_is_there_with_exactly_its_labels() -> None:
    seen: dict[str, set[str]] = {}
    for name, labels in samples(everything_happened(Ledger())):
        family = re.sub(r"_(bucket|count|sum)$", "", name)
        seen.setdefault(family, set()).update(key for key, _ in labels if key != "le")
    ours = {name: labels for name, labels in seen.items() if name.startswith("gateway_")}
    assert set(ours) == set(promised())
    # The three rows that name several metrics after one gauge have their labels by column; these are the contract's.
    assert ours["gateway_connections_closed_total"] == {"transport", "reason"}
    assert ours["gateway_upstream_requests_total"] == {"operation", "outcome"}
    for name in ("gateway_resumes_total", "gateway_delivery_delay_seconds", "gateway_build_info"):
        assert ours[name] == promised()[name]


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain", "application/openmetrics-text; version=1.0.0"])
def test_both_formats_parse_and_say_the_same(accept: str) -> None:
    metrics = everything_happened(Ledger())
    ours = {key: count for key, count in samples(metrics, accept).items() if key[0].startswith("gateway_")}
    assert ours == {key: count for key, count in samples(metrics).items() if key[0].startswith("gateway_")}


def test_the_text_format_calls_counters_counters() -> None:
    text = render(everything_happened(Ledger()))[0].decode()
    assert "# TYPE gateway_turns_total counter" in text
    assert "# TYPE gateway_turns gauge" in text


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=abc", "text/plain; version=;;", ",;=,", "\xff"]
)
def test_a_malformed_accept_header_still_gets_metrics(accept: str) -> None:
    assert samples(Metrics(Ledger(), "1"), accept)


def test_gauges_are_what_the_ledger_holds() -> None:
    ledger = Ledger()
    metrics = Metrics(ledger, "1")
    first, second = metrics.connection("sse"), metrics.connection("sse")
    with ledger.open("turn"):
        assert value(metrics, "gateway_turns") == 1
        assert value(metrics, "gateway_connections", transport="sse") == ledger.count("connection") == 2
    assert value(metrics, "gateway_turns") == 0
    first.close(Closing.FINISHED)
    first.close(Closing.ERROR)
    assert value(metrics, "gateway_connections", transport="sse") == 1
    second.close(Closing.CLIENT_LEFT)
    opened = value(metrics, "gateway_connections_opened_total", transport="sse")
    closed = [v for (name, _), v in samples(metrics).items() if name == "gateway_connections_closed_total"]
    assert opened == sum(closed) == 2


def test_many_equal_delays_count_as_many() -> None:
    delays = Delays((0.01, 0.1))
    delays.observe(0.005, 3)
    delays.observe(0.01)
    delays.observe(5)
    delays.observe(-1)  # the clock went back
    buckets, total = delays.buckets()
    assert buckets == [("0.01", 5.0), ("0.1", 5.0), ("+Inf", 6.0)]
    assert total == pytest.approx(0.025 + 5)


async def test_a_blocked_event_loop_is_measured() -> None:
    import time

    metrics = Metrics(Ledger(), "1")
    watch = asyncio.create_task(metrics.watch_event_loop(interval=0.001))
    await asyncio.sleep(0)
    time.sleep(0.06)  # noqa: ASYNC251  this is the fault
    for _ in range(3):  # the timer is overdue, so the next rounds of the loop run it
        await asyncio.sleep(0)
    watch.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch
    assert value(metrics, "gateway_event_loop_delay_seconds_sum") >= 0.05


def test_the_closed_lists_in_the_docs_are_those_in_the_code() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")

    def listed(heading: str) -> list[str]:
        return re.findall(r"^\| `(\w+)` \|", text.split(f"## {heading}\n")[1].split("\n## ")[0], re.MULTILINE)

    assert listed("Why a connection closed") == [reason.value for reason in Closing]
    assert listed("Why a request to Coze was tried again") == [reason.value for reason in RETRY_REASONS]
    assert listed("How a recovery ended") == [outcome.value for outcome in Recovery]
    failed = text.split("## Where the gateway itself failed\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \|", failed, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(PARTS)
    assert set(listed("Why a record was skipped")) == set(get_args(Unusable))


def test_the_lists_of_labels_are_those_of_the_events_and_of_the_contract() -> None:
    tags = {kind.__struct_config__.tag for kind in get_args(events.Event) if kind is not events.Text}
    assert set(EVENTS) == tags | {"message", "reasoning"}
    assert get_args(Operation) == (
        *("chat", "retrieve", "messages", "cancel", "submit_tool_outputs", "run_workflow", "resume_workflow"),
        *("feedback", "pass_on", "token", "upload"),
    )
