"""The command line of the bench. Status 0: done, or nothing is worse; 1: something is; 2: a mistake in the options."""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from gateway import __version__
from tests.bench import table
from tests.bench.measures import WrongError
from tests.bench.rounds import Medians, run
from tests.bench.servers import GATEWAY, PEERS, attentive
from tests.processes import ROOT

DOCUMENT = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance.svg"
KEPT = ROOT / "tests" / "bench" / "kept.json"
BEGIN, END = "<!-- bench: written by make bench ARGS=--keep -->", "<!-- bench: end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    servers = options.servers.split(",")
    if unknown := [name for name in servers if name not in (GATEWAY, *PEERS)]:
        sys.stderr.write(f"servers: {', '.join(unknown)} is none of {', '.join((GATEWAY, *PEERS))}\n")
        return 2
    if options.keep and (options.share != 1 or set(servers) != {GATEWAY, *PEERS}):
        sys.stderr.write("keep: only a whole run of all servers is kept\n")
        return 2
    if options.check and options.share != 1:
        sys.stderr.write("check: ratios under another load are others; only the full load is compared\n")
        return 2
    if options.check and not KEPT.is_file():
        sys.stderr.write("check: nothing is kept yet; `make bench ARGS=--keep` keeps a run\n")
        return 2
    begun = time.monotonic()
    try:
        with attentive():
            medians = uvloop.run(run(servers, rounds=options.rounds, share=options.share, say=_say))
    except (RuntimeError, WrongError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    except asyncio.CancelledError:
        return 143
    options.out.mkdir(parents=True, exist_ok=True)
    text = f"{_where()}; {options.rounds} rounds in {time.monotonic() - begun:.0f} s.\n\n{table.markdown(medians)}"
    sys.stdout.write(text)
    (options.out / "bench.md").write_text(text, encoding="utf-8")
    (options.out / "bench.json").write_text(json.dumps(medians, indent=1) + "\n", encoding="utf-8")
    (options.out / "bench.svg").write_text(table.plot(medians), encoding="utf-8")
    if options.keep:
        _keep(text, medians)
    return _check(medians) if options.check else 0


def _check(medians: Medians) -> int:
    found = list(table.moved(json.loads(KEPT.read_text(encoding="utf-8")), medians))
    for name, then, now, worse in found:
        sys.stdout.write(f"{'WORSE' if worse else 'better'}: {name}: {then:.2f} then, {now:.2f} now\n")
    if not found:
        sys.stdout.write("No cost has moved since the kept figures by more than noise does.\n")
    return int(any(worse for *_, worse in found))


def _keep(text: str, medians: Medians) -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = document.partition(BEGIN)
    after = rest.partition(END)[2]
    plot = f"![The gateway beside the others]({PLOT.name})"
    DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{plot}\n{END}{after}", encoding="utf-8")
    PLOT.write_text(table.plot(medians), encoding="utf-8")
    KEPT.write_text(json.dumps(medians, indent=1) + "\n", encoding="utf-8")


def _where() -> str:
    """On what it was measured."""
    commit = subprocess.run(["git", "describe", "--always"], cwd=ROOT, capture_output=True, text=True, check=False)
    cores = os.cpu_count()
    return (
        f"Gateway {__version__} ({commit.stdout.strip() or 'no commit'}), Python {platform.python_version()}, "
        f"{platform.system()} {platform.release()}, {cores} cores, {time.strftime('%Y-%m-%d')}"
    )


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="The gateway beside its peers, in interleaved rounds."
    )
    parser.add_argument("--servers", default=",".join((GATEWAY, *PEERS)), help="which, with commas (all)")
    parser.add_argument("--rounds", type=int, default=2, help="(2)")
    parser.add_argument("--share", type=float, default=1.0, help="of the full load, for a quick look (1)")
    parser.add_argument("--keep", action="store_true", help="write the figures into docs/performance.md")
    parser.add_argument("--check", action="store_true", help="say what moved since the kept figures, as ratios")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="folder for bench.md, .json and .svg (build)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
