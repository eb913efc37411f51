"""The bench: its peers answer as the gateway does, broken ones have no figures, and it sees what has moved."""

import copy
import os
import sys
from xml.etree import ElementTree

import pytest

from tests.bench import measures, servers, table
from tests.bench.rounds import Medians, median
from tests.bench.servers import GATEWAY, serving, upstream
from tests.conftest import Require

MEDIANS: Medians = {
    "idle": {name: {"kib": 2.0, "connects_per_s": 1000.0} for name in (GATEWAY, "node")},
    "first_byte": {name: {"started_p50": 2.0} for name in (GATEWAY, "node")},
    "relay": {
        name: {"cpu_us": 30.0, "delay_p50": 1.0, "delay_p99": 9.0, "client_share": 0.5} for name in (GATEWAY, "node")
    },
    "fanout": {
        name: {"cpu_us": 3.0, "delay_p50": 1.0, "delay_p99": 9.0, "client_share": 0.6} for name in (GATEWAY, "node")
    },
    "one_stream": {GATEWAY: {"delay_p50": 1.0, "delay_p99": 4.0}},
    "resume": {
        GATEWAY: {"behind_10_ms": 1.0, "behind_10_cpu_us": 100.0, "behind_1000_ms": 1.0, "behind_1000_cpu_us": 110.0}
    },
}


@pytest.mark.parametrize("peer", ["node", "aiohttp-sse"])
async def test_a_peer_answers_the_same_questions_as_the_gateway(
    peer: str, require: Require, monkeypatch: pytest.MonkeyPatch
) -> None:
    if peer == "node":
        require("node")

    async def here() -> str:
        return sys.executable  # what aiohttp-sse's app needs, the tests need too

    monkeypatch.setattr(servers, "prepare_peers", here)
    async with upstream() as coze, serving(peer, coze) as own:
        await measures.warm(own)  # raises when an answer is not whole
        assert (await measures.idle(own, 0.1))["connects_per_s"] > 0
    with pytest.raises(ProcessLookupError):
        os.kill(own.pid, 0)


async def test_a_server_whose_answers_are_not_whole_has_no_figures() -> None:
    async with upstream() as coze, serving(GATEWAY, f"{coze}/nowhere") as own:
        with pytest.raises(measures.WrongError, match="error"):
            await measures.warm(own)


async def test_a_peer_that_does_not_start_is_said_to_have_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(name: str) -> tuple[str, ...]:
        return sys.executable, "-c", "raise SystemExit(3)"

    monkeypatch.setattr(servers, "_command", broken)
    with pytest.raises(RuntimeError, match="status 3"):
        async with serving("node", "http://127.0.0.1:9"):
            pass


def test_the_tables_and_the_plot_hold_all_servers_and_figures() -> None:
    text = table.markdown(MEDIANS)
    assert "| gateway | 30.0 | 1.00 | 9.00 | 3.00 |" in text
    assert "| 1,000 | 1.00 | 110 | 1.10 |" in text
    assert "60% of its core at most." in text
    assert "node" in "".join(ElementTree.fromstring(table.plot(MEDIANS)).itertext())


def test_only_a_ratio_to_a_peer_moves_and_for_the_worse_is_said() -> None:
    now = copy.deepcopy(MEDIANS)
    assert list(table.moved(MEDIANS, now)) == []
    for name in (GATEWAY, "node"):  # a slower machine
        now["relay"][name]["cpu_us"] *= 3
    assert list(table.moved(MEDIANS, now)) == []
    now["fanout"][GATEWAY]["cpu_us"] *= 2
    now["idle"][GATEWAY]["kib"] /= 4
    now["fanout"][GATEWAY]["delay_p99"] *= 9  # which may be noise
    assert [(then, is_, worse) for _, then, is_, worse in table.moved(MEDIANS, now)] == [
        (1.0, 2.0, True),
        (1.0, 0.25, False),
    ]


def test_the_median_of_the_rounds_is_taken_figure_by_figure() -> None:
    rounds = [{"a": 1.0, "client_share": 0.1}, {"a": 9.0, "client_share": 0.9}, {"a": 2.0, "client_share": 0.2}]
    assert median(rounds) == {"a": 2.0, "client_share": 0.9}
