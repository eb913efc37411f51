"""Tests that measure run beside one other worker, those that wait beside one busy worker, and each is there."""

import os
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT, clean_environment
from tests.scheduling import MEASURED

PLUGIN = """
import os, time
from pathlib import Path
import pytest
from tests import scheduling
from tests.conftest import pytest_xdist_make_scheduler

scheduling.MEASURED = {"test_b.py", "test_c.py::test_two"}
scheduling.WAITING = ("test_d.py", "test_e.py")
scheduling.WORKING = ("test_f.py", "test_g.py")
scheduling.PROCESSORS = 2
LOG = Path(__file__).with_name("log")

def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not scheduling.is_measured(item.nodeid))

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    with LOG.open("a") as file:
        print(os.environ["PYTEST_XDIST_WORKER"], item.nodeid, file=file)
    return (yield)

@pytest.fixture
def all_work():
    for _ in range(2000):
        if len({line.split()[0] for line in LOG.read_text().splitlines()}) == 3:
            return
        time.sleep(0.01)  # between two looks
    raise AssertionError("one of three workers has nothing to do")

@pytest.fixture
def busy_over():
    for _ in range(2000):
        if "test_g.py::test_two" in LOG.read_text():
            return
        time.sleep(0.01)  # between two looks
    raise AssertionError("nobody is busy while two workers wait")
"""


def test_who_measures_has_one_other_worker_beside_it_and_then_all_work_one_of_them_busily(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(PLUGIN)
    for letter in "abcdefg":
        wait = {"b": "", "d": "busy_over", "e": "busy_over"}.get(letter, "all_work")
        more = "def test_three(): ...\n" if letter in "de" else ""  # a worker with less gets a second file at once
        (tmp_path / f"test_{letter}.py").write_text(f"def test_one({wait}): ...\ndef test_two(): ...\n{more}")
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]
    done = subprocess.run(
        [*command, "-c", os.devnull, "--rootdir", tmp_path, "-p", "no:cacheprovider", tmp_path],
        env=clean_environment() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    ran = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    measured = [n for n, (_, test) in enumerate(ran) if test.startswith("test_b.py") or test == "test_c.py::test_two"]
    assert len(ran) == 16
    assert len(measured) == 3
    assert len({ran[n][0] for n in measured}) == 1
    assert len({worker for worker, _ in ran[: measured[-1] + 1]}) <= 2
    assert len({worker for worker, _ in ran}) == 3
    assert len({worker for worker, test in ran if test.startswith(("test_f.py", "test_g.py"))}) == 1


def test_each_test_that_measures_is_there() -> None:
    for measured in MEASURED:
        file, _, test = measured.partition("::")
        assert f"def {test}" in (ROOT / file).read_text(encoding="utf-8"), measured
