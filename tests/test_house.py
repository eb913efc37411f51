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
ARROWS = {
    "gateway": set(),
    "gateway.telemetry": {"gateway", "gateway.upstream"},
    "gateway.config": {"gateway", "gateway.telemetry"},
    "gateway.log": {"gateway", "gateway.telemetry"},
    "gateway.upstream": {"gateway", "gateway.telemetry"},
    "gateway.store": {"gateway", "gateway.telemetry"},
    "gateway.reading": {"gateway", "gateway.telemetry", "gateway.log"},
    "gateway.turns": {"gateway", "gateway.telemetry", "gateway.log", "gateway.upstream", "gateway.store"},
    "gateway.simulator": {"gateway"},
    "adapters.edge": {"adapters"},
    "adapters.transports": {"adapters", "adapters.edge"},
    "adapters.native": {"adapters", "adapters.edge", "adapters.transports"},
    "adapters.browser": {"adapters"},
    "adapters": {"adapters.edge"},
}
"""The folders that each folder may import from. `gateway` and `adapters` are the modules that lie directly in them."""
UNBOUND = {"gateway.__main__", "adapters.composition", "adapters.serving", "adapters.plugin"}
"""The command line and the composition root put everything together, and the plug-in module offers parts of everything
to other packages, so they may import everything."""

PURE = ("turns.turn", "turns.answer", "turns.record", "log.outline", "log.stretch", "events", "upstream.sse")
PURE += ("upstream.coze_objects", "upstream.coze_protocol", "upstream.codes")
PURE = (*(f"gateway.{name}" for name in PURE), "adapters.transports.wire")


def folder(module: str) -> str:
    """`gateway.turns.turn` lies in `gateway.turns`, `gateway.ids` in `gateway`; deeper ones as the second level."""
    parts = module.split(".")
    is_folder = MODULES[module].name == "__init__.py" and len(parts) > 1
    return ".".join(parts[:2]) if len(parts) > 2 or is_folder else parts[0]


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


def test_the_tests_that_the_invariants_name_are_there() -> None:
    text = (ROOT / "docs" / "invariants.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]*test_\w+\.py)`", text)
    assert len(named) > 10
    assert [path for path in named if not (ROOT / "tests" / path).exists()] == []


@pytest.mark.parametrize("place", ARROWS)
def test_each_folder_imports_only_what_the_picture_shows(place: str) -> None:
    guilty = {
        (module, name)
        for module in MODULES
        if folder(module) == place and module not in UNBOUND
        for name in imported(module)
        if name in MODULES and folder(name) != place and folder(name) not in ARROWS[place]
        if not (place.startswith("adapters") and name.startswith("gateway"))
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
    assert guilty == ["gateway.config.loading"]


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
