"""The alerts of `deploy/`: Prometheus's own engine sees what the gateway shows in calm, in trouble, and after it."""

import json
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gateway.telemetry.ledger import Ledger
from gateway.telemetry.metrics import Metrics
from tests.composing import DEPLOY
from tests.conftest import Require
from tests.test_metrics import Samples, everything_happened, samples

ALERTS = DEPLOY / "alerts.yml"
STEP = 60  # seconds; Prometheus looks more often
CALM, TROUBLE, CALM_AGAIN = 30, 40, 80  # samples
GAUGES = ("up", "gateway_turns", "gateway_nodes", "gateway_node_news_way")
JOB = {"job": "coze-gateway", "instance": "a"}


@dataclass(frozen=True)
class Moves:
    """What a series does at each sample, in calm and in trouble: a counter grows by so much, a gauge is so much."""

    name: str
    calm: float
    trouble: float
    labels: tuple[tuple[str, str], ...] = ()


def gauge(name: str, calm: float, trouble: float, **labels: str) -> Moves:
    return Moves(name, calm, trouble, tuple(sorted(labels.items())))


def counter(name: str, calm: float, trouble: float, **labels: str) -> Moves:
    return Moves(name, calm, trouble, tuple(sorted(labels.items())))


@cache
def at_the_start() -> Samples:
    return samples(Metrics(Ledger(), "1"))


ENDED = counter("gateway_turns_total", 10, 10, outcome="completed")
CASES: dict[str, list[Moves]] = {
    "GatewayDown": [gauge("up", 1, 0)],
    "TurnsFail": [ENDED, counter("gateway_turns_total", 0.1, 2, outcome="failed")],
    "CozeRefusesOurToken": [
        counter("gateway_upstream_requests_total", 0, 1, operation="chat", outcome="upstream_unauthorized")
    ],
    "CozeBreaksAnswers": [ENDED, counter("gateway_upstream_recoveries_total", 0.1, 2, outcome="completed")],
    "CozeRecordsUnreadable": [counter("gateway_upstream_records_skipped_total", 0, 30, reason="malformed")],
    "TurnsPileUp": [gauge("gateway_turns", 10, 60), counter("gateway_turns_total", 10, 0, outcome="completed")],
    "ReadersCutForSlowness": [
        counter("gateway_connections_closed_total", 10, 10, transport="sse", reason="ended"),
        counter("gateway_connections_closed_total", 0.1, 5, transport="sse", reason="slow"),
    ],
    "PositionsLost": [
        counter("gateway_resumes_total", 10, 10, transport="sse", outcome="exact"),
        counter("gateway_resumes_total", 0.1, 5, transport="sse", outcome="reset"),
    ],
    "RedisAway": [gauge("gateway_node_news_way", 1, 0, way="redis")],
    "NodeOut": [gauge("gateway_nodes", 2, 0), gauge("gateway_node_news_way", 1, 1, way="postgresql")],
}
ONCE: dict[str, Moves] = {
    "GatewayFaults": counter("gateway_faults_total", 0, 1, part="turn"),
    "NodeFenced": counter("gateway_node_rejoins_total", 0, 1),
    "FailoverLostEvents": counter("gateway_logs_taken_back_total", 0, 1),
    "NodesTakenForDead": counter("gateway_nodes_buried_total", 0, 1),
}
"""What one single event must raise."""

SLOW = {
    "FirstContentSlow": "gateway_first_content_seconds",
    "EventLoopBusy": "gateway_event_loop_delay_seconds",
    "PostgresCommitsSlow": "gateway_log_commit_seconds",
    "NodesLagBehind": "gateway_node_lag_seconds",
}
"""Histograms: in calm all is in the lowest bucket, in trouble above all of them."""


def slow(name: str) -> list[Moves]:
    bounds = {dict(labels)["le"] for series, labels in at_the_start() if series == f"{name}_bucket"}
    assert len(bounds) > 5
    return [counter(f"{name}_bucket", 10, 10 if bound == "+Inf" else 0, le=bound) for bound in sorted(bounds)]


def selector(moves: Moves) -> str:
    labels = JOB | dict(moves.labels)
    return f"{moves.name}{{{','.join(f'{name}={json.dumps(label)}' for name, label in labels.items())}}}"


def values(moves: Moves, *, once: bool = False) -> str:
    """The samples as promtool reads them. Those that the gateway doesn't show before the first event are missing."""
    if moves.name in GAUGES:
        return f"{moves.calm}x{CALM - 1} {moves.trouble}x{TROUBLE - 1} {moves.calm}x{CALM_AGAIN - 1}"
    shown = (moves.name, frozenset(moves.labels)) in at_the_start()
    found, total = [], 0.0
    for number in range(CALM + TROUBLE + CALM_AGAIN):
        troubled = number == CALM if once else CALM <= number < CALM + TROUBLE
        total += moves.trouble if troubled else moves.calm
        found.append(f"{total:g}" if shown or total else "_")
    return " ".join(found)


def rules() -> dict[str, Any]:
    text = ALERTS.read_text(encoding="utf-8")
    return {rule["alert"]: rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]}


def test_each_alert_has_its_case() -> None:
    cases = CASES.keys() | ONCE.keys() | SLOW.keys()
    assert cases == rules().keys()
    known = {name for name, _ in samples(everything_happened(Ledger()))} | {"up", "gateway_faults_total"}
    assert {moves.name for case in CASES.values() for moves in case} | {one.name for one in ONCE.values()} <= known


def case(alert: str) -> dict[str, Any]:
    """One of promtool's tests: the alert's trouble, and when it must and must not fire."""
    moving = [ONCE[alert]] if alert in ONCE else slow(SLOW[alert]) if alert in SLOW else CASES[alert]
    waits = {"": 0, "1m": 60, "5m": 300, "10m": 600, "15m": 900}[rules()[alert].get("for", "")]
    windows = [60 * int(minutes) for minutes in re.findall(r"\[(\d+)m\]", rules()[alert]["expr"])]
    begins, window = CALM * STEP, max(windows, default=0)
    over = begins + (0 if alert in ONCE else TROUBLE * STEP)
    firing = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'

    def at(seconds: int, *, fires: bool) -> dict[str, Any]:
        expected = [{"labels": "{}", "value": 1}] if fires else []
        return {"expr": firing, "eval_time": f"{seconds}s", "exp_samples": expected}

    looks = [
        at(begins - STEP, fires=False),
        at(begins + (4 * STEP if alert in ONCE else waits + window + 2 * STEP), fires=True),
        at(over + window + waits + 4 * STEP, fires=False),
    ]
    series = [{"series": selector(one), "values": values(one, once=alert in ONCE)} for one in moving]
    return {"interval": f"{STEP}s", "input_series": series, "promql_expr_test": looks}


def test_each_alert_fires_in_its_trouble_and_only_then(require: Require, tmp_path: Path) -> None:
    cases = [case(alert) for alert in (*CASES, *ONCE, *SLOW)]
    test = {"rule_files": [str(ALERTS)], "evaluation_interval": f"{STEP}s", "tests": cases}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test), encoding="utf-8")
    command = [require("promtool"), "test", "rules", str(tmp_path / "test.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
