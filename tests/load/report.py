"""The report of a run: JSON for machines, a table for people, and a verdict. Pure."""

import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gateway import __version__
from tests.load.client import Load

SCHEMA = 1
WRONG = ("lost", "doubled", "disordered", "differing", "unequal", "reset", "unended")
OUTCOMES = ("completed", "cancelled", "error", "unended", "not_started", "left_out")
DELAYS = {
    "started": "request → started",
    "first_content": "request → first content",
    "gap": "between pieces",
    "delay": "piece due at Coze → listener",
    "turn": "whole turn",
}


def result(load: Load, *, when: datetime.datetime, gateway: dict[str, Any] | None = None) -> dict[str, Any]:
    """The machine-readable result. Its fields may grow; `schema` changes when one is renamed or taken away.

    Delays are in milliseconds. `gateway`: what its own process used, known only when it runs on this machine.
    """
    tally, elapsed = load.tally, max(load.elapsed, 1e-9)
    return {
        "schema": SCHEMA,
        "version": __version__,
        "at": when.isoformat(timespec="seconds"),
        "plan": load.plan.described(),
        "elapsed_s": round(elapsed, 3),
        "ok": not problems(load),
        "problems": problems(load),
        "turns": {
            name: tally.outcomes[name]
            for name in ("completed", "cancelled", "error", "unended", "not_started", "left_out")
        },
        "unfinished_listeners": tally.unfinished,
        "refusals": dict(tally.refusals),
        "pieces": tally.pieces,
        "pieces_per_s": round(tally.pieces / elapsed, 1),
        "events": tally.events,
        "delays_ms": {name: getattr(tally, name).summary() for name in DELAYS},
        "wrong": {name: tally.wrong[name] for name in WRONG},
        "reconnects": tally.reconnects,
        "storms": [
            {"at_s": round(storm.at, 3), "cut": storm.cut, "back_ms": storm.back.summary()} for storm in tally.storms
        ],
        "seconds": [
            {"pieces": second.pieces, "delay_p99_ms": second.delay.summary()["p99"]} for second in tally.seconds
        ],
        "client": load.effort.summary(),
        "gateway": gateway,
    }


def problems(load: Load) -> list[str]:
    """What of the gateway's answers was not as its contract says, as sentences; empty when all was."""
    tally = load.tally
    found = [f"{name}: {count}" for name, count in sorted(tally.wrong.items()) if count]
    found += [f"turns {name}: {tally.outcomes[name]}" for name in ("error", "not_started") if tally.outcomes[name]]
    found += [f"a storm's listeners never back: {n}" for s in tally.storms if (n := s.cut - s.back.count) > 0]
    return found


def shown(result: dict[str, Any]) -> RenderableType:
    """The result for a person."""
    plan, client, turns = result["plan"], result["client"], result["turns"]
    table = Table(title=f"{turns['completed']} of {plan['turns']} turns × {plan['listeners']} over {plan['transport']}")
    for name in ("milliseconds", "count", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(name, justify="left" if name == "milliseconds" else "right")
    rows = {DELAYS[name]: delay for name, delay in result["delays_ms"].items()}
    rows |= {f"storm {n}: cut → back": storm["back_ms"] for n, storm in enumerate(result["storms"], 1)}
    for name, delay in rows.items():
        if delay["count"]:
            table.add_row(
                name, str(delay["count"]), *(f"{delay[q]:.1f}" for q in ("p50", "p90", "p99", "p99.9", "max"))
            )
    lines = [
        f"{result['pieces']} pieces in {result['elapsed_s']:.1f} s: {result['pieces_per_s']:.0f} a second, "
        f"in {result['events']} events; {result['reconnects']} reconnects beside the storms'"
    ]
    if gateway := result["gateway"]:
        lines.append(
            f"gateway: {gateway['cpu_s']:.2f} s of processor time, {gateway['cpu_us_per_piece']:.1f} µs a piece, "
            f"{gateway['peak_mib']:.0f} MiB at its peak"
        )
    lines.append(
        f"client: {client['cpu_share']:.0%} of a core ({client['cpu_share_peak']:.0%} in its busiest second), "
        f"its own loop {client['loop_delay_ms']['p99']:.1f} ms late (p99)"
    )
    if negative := result["delays_ms"]["delay"].get("negative"):
        lines.append(f"{negative} pieces came before they were due: the clocks of Coze and of this machine differ")
    limit = [Text(f"NOT ONLY THE GATEWAY'S: {why}", "yellow") for why in client["why"]]
    if result["refusals"]:
        limit.append(Text("refused: " + ", ".join(f"{code} × {n}" for code, n in result["refusals"].items()), "yellow"))
    if turns["left_out"]:
        limit.append(Text(f"{turns['left_out']} turns were left out: the time was over", "yellow"))
    if turns["unended"]:
        late = f"{plan['grace']:g} s after the time was over"
        limit.append(Text(f"{turns['unended']} turns still ran {late}: unfinished, which is not wrong", "yellow"))
    verdict = Text("nothing lost, doubled, out of order or different", "green")
    if not result["ok"]:
        verdict = Text("WRONG: " + "; ".join(result["problems"]), "bold red")
    return Group(table, *map(Text, lines), *limit, verdict)
