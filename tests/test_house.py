"""The house: arrows between rooms, pure rooms, docs that point at what is there, lint and types."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PACKAGES
from tests.processes import ROOT

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for room in ("gateway", "adapters")
    for path in sorted((ROOT / room).rglob("*.py"))
}
COMPOSITION = {"adapters.app", "adapters.__main__"}
_SHARED = (
    "auth binding delivery explained failures guard jwts languages lastmile limits listening openapi requests services"
    " sockets starting storage turns wire"
)
SHARED = {f"adapters.{room}" for room in _SHARED.split()}
"""What adapters share. All others give routes and know nothing of each other."""

PURE = ("gateway.turn", "gateway.answer", "gateway.record", "gateway.outline", "gateway.log.stretch", "gateway.events")
PURE += ("gateway.upstream.sse", "gateway.upstream.coze_protocol", "gateway.upstream.codes", "adapters.wire")


def imported(module: str) -> Iterator[str]:
    """What a module imports, anywhere in it, by full name: `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_core_never_imports_adapters() -> None:
    guilty = [m for m in MODULES if m.startswith("gateway") and any(i.startswith("adapters") for i in imported(m))]
    assert guilty == ["gateway.__main__"]


READING = ("gateway.hub", "gateway.subscription")
WRITING = ("gateway.live", "gateway.turn", "gateway.answer", "gateway.record", "gateway.notifications")
ABOVE = {"gateway.runner", "gateway.erasure"}
"""Who may know both the side that writes events and the side that reads them."""


def test_the_side_that_writes_and_the_side_that_reads_meet_in_the_log() -> None:
    for module in MODULES:
        names = set(imported(module))
        reads = bool(names & set(READING))
        writes = bool(names & set(WRITING)) or any(name.startswith("gateway.upstream") for name in names)
        if module in READING:
            assert not writes, module
        elif module in WRITING or module.startswith(("gateway.upstream", "gateway.log")):
            assert not reads, module
        elif module.startswith("gateway") and reads and writes:
            assert module in ABOVE, module


def test_the_tests_that_the_invariants_name_are_there() -> None:
    text = (ROOT / "docs" / "invariants.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]*test_\w+\.py)`", text)
    assert len(named) > 10
    assert [path for path in named if not (ROOT / "tests" / path).exists()] == []


def test_adapters_share_rooms_and_know_nothing_of_each_other() -> None:
    guilty = {
        (module, name)
        for module in MODULES
        if module.startswith("adapters") and module not in COMPOSITION
        for name in imported(module)
        if name in MODULES and name.startswith("adapters.") and name not in SHARED
        if not module.startswith(f"{name.rpartition('.')[0]}.") or name.count(".") == 1
    }
    assert not guilty


def test_only_the_loading_of_settings_reads_the_environment() -> None:
    guilty = []
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        reads = any(
            isinstance(n, ast.Attribute) and n.attr in ("environ", "environb", "getenv") for n in ast.walk(tree)
        )
        if reads or {"os.environ", "os.getenv"} & set(imported(module)):
            guilty.append(module)
    assert guilty == ["gateway.config_load"]


def test_the_core_knows_http_only_where_coze_is_called_or_played() -> None:
    for module in MODULES:
        if module.startswith("gateway") and any(name.split(".")[0] == "aiohttp" for name in imported(module)):
            assert module.startswith(("gateway.upstream", "gateway.simulator")), module


@pytest.mark.parametrize("module", PURE)
def test_what_decides_does_not_wait(module: str) -> None:
    waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert not any(isinstance(node, waits) for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))))
    assert not {"asyncio", "time", "random"} & set(imported(module))


def test_every_module_says_in_its_first_line_what_it_is() -> None:
    for module, path in MODULES.items():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{module} has no docstring"


def documents() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_links_in_the_docs_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert "://" in target or (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_table_of_where_to_look_names_files_that_exist() -> None:
    named = re.findall(
        r"`((?:gateway|adapters|deploy|tests)/[\w./-]*)`", (ROOT / "docs" / "architecture.md").read_text()
    )
    assert len(named) > 30
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_readme_ci_and_the_tests_ask_for_the_same_packages() -> None:
    readme = re.search(r"apt-get install (.*)", (ROOT / "README.md").read_text(encoding="utf-8"))
    pairs = re.search(r"wanted=\((.*)\)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert readme
    assert pairs
    ci = {pair.split(":")[1] for pair in pairs[1].split()}
    assert set(readme[1].split()) == {package for package, _ in PACKAGES.values()} == ci - {"make"}


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=["lint", "format", "types"],
)
def test_the_code_is_clean(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
