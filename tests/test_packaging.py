"""What is installed: locked by hash, whole in a wheel, and by commands that help on a strange machine."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.processes import ROOT, clean_environment

LOCKS = ["requirements.lock", "requirements-nodes.lock", "requirements-test.lock"]


def locked(lock: str) -> dict[str, str]:
    """Name to version, of each package in a lock."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.M)}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_its_hashes_and_nothing_else_is_in_the_lock(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=\S)", re.sub(r"(?m)^\s*#.*\n?", "", text).strip())
    for block in blocks:
        assert re.fullmatch(r"[\w.-]+==\S+( ; [^\\\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+", block.rstrip()), block
    assert not re.search(r"--(extra-)?index-url|--find-links|://|(?m:^|\s)/\w", text)


def test_the_locks_satisfy_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    runtime = project["project"]["dependencies"] + project["dependency-groups"]["build"]
    extras = project["project"]["optional-dependencies"]
    nodes = runtime + [one for name, wanted in extras.items() if name != "test" for one in wanted]
    for lock, wanted in zip(LOCKS, (runtime, nodes, nodes + extras["test"]), strict=True):
        for requirement in map(Requirement, wanted):
            assert requirement.specifier.contains(locked(lock)[canonicalize_name(requirement.name)]), requirement
    assert locked(LOCKS[0]).items() <= locked(LOCKS[1]).items() <= locked(LOCKS[2]).items()


def test_a_wheel_holds_every_file_of_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("gateway", "adapters"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    expected = {
        str(path.relative_to(source))
        for name in ("gateway", "adapters")
        for path in (source / name).rglob("*")
        if path.is_file()
    }
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*wheel, "--wheel-dir", tmp_path, source], env=clean_environment(), timeout=100, check=True)
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        inside = {name for name in archive.namelist() if not re.match(r"[^/]*\.dist-info/", name)}
    assert inside == expected


def make(*arguments: str, folder: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in clean_environment().items() if not name.startswith("MAKE")}
    environment |= variables
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=environment,  # of the make that runs these tests it must know nothing
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_each_promised_target_exists() -> None:
    targets = ("run", "test", "install", "check", "bench", "bench-check", "load", "chaos", "soak", "lock")
    assert make("--dry-run", *targets).returncode == 0


@pytest.mark.parametrize("python", ["", "false", "no-such-python"])  # `false`: one that is too old
def test_without_a_python_that_suits_make_says_which_one_is_needed(tmp_path: Path, python: str) -> None:
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)
    done = make("install", f"PYTHON={python}", folder=tmp_path)
    assert done.returncode != 0
    assert "Python 3.11 or newer with venv" in " ".join(done.stderr.split())
    assert f"{python} is not one" in done.stderr or not python
    assert not (tmp_path / ".venv").exists()


def test_a_virtual_environment_of_an_old_python_is_made_anew(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)
    old, new = tmp_path / ".venv" / "bin" / "python", tmp_path / "new"
    old.parent.mkdir(parents=True)
    old.write_text('#!/bin/sh\ncase "$*" in *version_info*) exit 1 ;; esac\n')
    new.write_text('#!/bin/sh\n[ "$1" = -c ] || { echo "asked for $*"; exit 1; }\n')
    for script in (old, new):
        script.chmod(0o755)
    assert "asked for -m venv --clear .venv" in make("install", f"PYTHON={new}", folder=tmp_path).stdout


def test_a_python_is_searched_for_only_once(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)
    newest = tmp_path / "bin" / "python3.14"
    newest.parent.mkdir()
    newest.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo asked >> {tmp_path}/questions\n')
    newest.chmod(0o755)
    done = make("install", folder=tmp_path, PATH=f"{newest.parent}:{os.environ['PATH']}")
    assert "with python3.14: ready in about a minute" in done.stdout
    assert (tmp_path / "questions").read_text() == "asked\n" * 2  # by the search, and by the recipe's own check


def test_the_readmes_commands_are_makes() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\nmake run " in readme
    assert "\nmake test " in readme
    assert make("--dry-run", "test", "ARGS=").stdout.rstrip().endswith("-m pytest -n 4 --dist loadfile")
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").rstrip().endswith("\nmake test")


def install(folder: Path, lock: str) -> subprocess.CompletedProcess[str]:
    (folder / "lock").write_text(lock)
    command = [sys.executable, str(ROOT / "scripts" / "install.py"), "lock", "--no-index"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_installation_says_how_far_it_is(tmp_path: Path) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    total = len(re.findall(r"^[A-Za-z0-9].*==", lock, re.MULTILINE))
    done = install(tmp_path, lock)  # all are there already
    assert done.returncode == 0, done.stderr
    steps = [*range(10, total, 10), total]
    assert done.stdout.splitlines() == [f"  {n} of {total} packages there" for n in steps]


def test_an_installation_that_fails_shows_what_pip_said(tmp_path: Path) -> None:
    done = install(tmp_path, f"no-such-package-at-all==1 --hash=sha256:{'0' * 64}\n")
    assert done.returncode == 1
    assert "No matching distribution found for no-such-package-at-all==1" in done.stderr
