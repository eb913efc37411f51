"""The table of a run: markdown, a plot, and what moved between two runs. Pure."""

from collections.abc import Iterable, Iterator

from tests.bench.rounds import Medians
from tests.bench.servers import GATEWAY
from tests.load.plot import Bars, draw

COLUMNS = (
    ("relay", "cpu_us", "relay: µs of processor time per piece"),
    ("relay", "delay_p50", "added delay p50, ms"),
    ("relay", "delay_p99", "p99, ms"),
    ("fanout", "cpu_us", "fan-out: µs per delivery"),
    ("fanout", "delay_p50", "delay p50, ms"),
    ("fanout", "delay_p99", "p99, ms"),
    ("first_byte", "started_p50", "`started` p50, ms"),
    ("idle", "kib", "KiB per idle listener"),
    ("idle", "connects_per_s", "listeners accepted per second"),
)
"""Measure, figure, and what it is called. Less is better, but for the last one."""
GOALS = (
    ("one_stream", "delay_p50", "one stream of 50 pieces per second: added delay p50, ms", 5.0),
    ("one_stream", "delay_p99", "the same, p99, ms", 30.0),
    ("first_byte", "started_p50", "`started` after the request, p50, ms", 3.0),
    ("idle", "kib", "KiB per idle listener, of 2,000", 3.0),
)
BEHIND = (10, 1_000, 10_000)
_COMPARABLE = ("cpu_us", "kib")
"""What is compared between runs. Delays are not: whatever else runs on the machine multiplies them, for one or all."""
_MOVED = 1.4
"""Ratios of costs were seen to differ by up to a third between runs on a busy machine."""
_BUSY = 0.9


def markdown(medians: Medians) -> str:
    """Three tables: beside the others, against the goals, what a resume costs."""
    servers = list(medians["relay"])
    lines = ["| server | " + " | ".join(title for *_, title in COLUMNS) + " |", "|---" + "|---:" * len(COLUMNS) + "|"]
    for server in servers:
        cells = (_shown(medians[measure][server][figure]) for measure, figure, _ in COLUMNS)
        lines.append(f"| {server} | " + " | ".join(cells) + " |")
    busy = max(f.get("client_share", 0.0) for by_server in medians.values() for f in by_server.values())
    lines += ["", f"The client used {busy:.0%} of its core at most{': it was the limit somewhere' * (busy > _BUSY)}."]
    if GATEWAY not in servers:
        return "\n".join(lines) + "\n"
    lines += ["", "| the gateway alone | measured | goal |", "|---|---:|---:|"]
    for measure, figure, title, goal in GOALS:
        lines.append(f"| {title} | {_shown(medians[measure][GATEWAY][figure])} | ≤ {goal:g} |")
    resume = medians["resume"][GATEWAY]
    known = [behind for behind in BEHIND if f"behind_{behind}_ms" in resume]
    least = resume[f"behind_{known[0]}_cpu_us"]
    lines += [
        "",
        "| a resume, pieces behind | ms to be up to date | µs of processor | × the first |",
        "|---:|---:|---:|---:|",
    ]
    for behind in known:
        cpu = resume[f"behind_{behind}_cpu_us"]
        lines.append(f"| {behind:,} | {_shown(resume[f'behind_{behind}_ms'])} | {_shown(cpu)} | {cpu / least:.2f} |")
    return "\n".join(lines) + "\n"


def plot(medians: Medians) -> str:
    panels = [
        Bars(title, unit, {server: figures[figure] for server, figures in medians[measure].items()})
        for measure, figure, title, unit in (
            ("relay", "cpu_us", "Processor time a relayed piece", "µs"),
            ("fanout", "cpu_us", "Processor time per delivery", "µs"),
            ("idle", "kib", "Memory of an idle listener", "KiB"),
            ("relay", "delay_p99", "Added delay under load, p99", "ms"),
        )
    ]
    return draw(panels)


def moved(before: Medians, now: Medians) -> Iterator[tuple[str, float, float, bool]]:
    """Which costs have moved: the name, the ratio to the peer then and now, and whether it is worse.

    Only ratios of the gateway's figures to a peer's in the same run: machines differ, and have bad hours.
    """
    for measure, figure, title in COLUMNS:
        for peer in _common(before, now, measure, figure) if figure in _COMPARABLE else ():
            then, is_ = (_ratio(medians, measure, figure, peer) for medians in (before, now))
            if then > 0 and is_ > 0 and not 1 / _MOVED < is_ / then < _MOVED:
                yield f"{title}, against {peer}", then, is_, is_ > then


def _common(before: Medians, now: Medians, measure: str, figure: str) -> Iterable[str]:
    old, new = before.get(measure, {}), now.get(measure, {})
    if GATEWAY not in old or GATEWAY not in new:
        return []
    return [peer for peer in new if peer != GATEWAY and figure in old.get(peer, {})]


def _ratio(medians: Medians, measure: str, figure: str, peer: str) -> float:
    theirs = medians[measure][peer][figure]
    return medians[measure][GATEWAY][figure] / theirs if theirs else 0.0


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
