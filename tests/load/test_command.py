"""`python -m tests.load` as operators run it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.load.report import WRONG
from tests.processes import ROOT, clean_environment


def load(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.load", *arguments]
    environment = clean_environment() | {"LOAD_TOKEN": "a-secret"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_by_itself_it_starts_a_gateway_loads_it_and_leaves_a_result_and_a_plot(tmp_path: Path) -> None:
    done = load("--turns", "3", "--listeners", "2", "--pieces", "20", "--storms", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "nothing lost, doubled, out of order or different" in done.stdout
    text = (tmp_path / "load.json").read_text()
    result = json.loads(text)
    assert result["ok"] is True
    assert result["turns"]["completed"] == 3
    assert result["pieces"] == 3 * 2 * 20
    assert result["wrong"] == dict.fromkeys(WRONG, 0)
    assert result["delays_ms"]["delay"]["p50"] > 0
    assert result["gateway"]["cpu_s"] > 0
    assert 0 < result["client"]["cpu_share"] <= result["client"]["cpu_share_peak"]
    assert "a-secret" not in text + done.stdout + done.stderr
    plot = ElementTree.parse(tmp_path / "load.svg").getroot()
    assert len(plot.findall(".//{http://www.w3.org/2000/svg}polyline")) >= 5


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_in_the_middle_it_ends_what_it_has_started(number: signal.Signals, status: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.load", "--turns", "300", "--rate", "20", "--out", str(tmp_path)]
    environment = clean_environment() | {"TMPDIR": str(tmp_path)}
    # A shell's background jobs, this suite among them, may have been told to ignore Ctrl-C.
    before = signal.signal(number, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    signal.signal(number, before)
    with process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 30
        while len(started := children.read_text().split()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)  # it says nothing that could be waited for
        process.send_signal(number)
        assert process.wait(30) == status
    assert len(started) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rate", "0"), "rate: 0 is not between 0.01 and 10000"),
        (("--transport", "ipx"), "invalid choice: 'ipx'"),
        (("--url", "gateway"), "url: 'gateway' is no http:// or https:// URL"),
        (("--out", "/dev/null/x"), "/dev/null"),
    ],
)
def test_a_mistake_in_the_options_is_named(arguments: tuple[str, ...], words: str) -> None:
    done = load(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
