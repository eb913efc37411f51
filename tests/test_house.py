"""The house: arrows between rooms, pure rooms, docs that point at what is there, lint and types."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
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
    "gateway.config": {"gateway", "gateway.telemetry", "gateway.postgres", "gateway.redis"},
    "gateway.redis": {"gateway"},
    "gateway.postgres": {"gateway", "gateway.telemetry"},
    "gateway.log": {"gateway", "gateway.telemetry", "gateway.postgres"},
    "gateway.upstream": {"gateway", "gateway.telemetry"},
    "gateway.store": {"gateway", "gateway.telemetry", "gateway.postgres"},
    "gateway.nodes": {"gateway", "gateway.telemetry", "gateway.postgres", "gateway.redis", "gateway.log"},
    "gateway.reading": {"gateway", "gateway.telemetry", "gateway.log"},
    "gateway.turns": {"gateway", "gateway.telemetry", "gateway.log", "gateway.upstream", "gateway.store"},
    "gateway.simulator": {"gateway"},
    "adapters.edge": {"adapters"},
    "adapters.transports": {"adapters", "adapters.edge"},
    "adapters.native": {"adapters", "adapters.edge", "adapters.transports"},
    "adapters.facades": {"adapters", "adapters.edge", "adapters.transports", "adapters.native"},
    "adapters.browser": {"adapters"},
    "adapters": {"adapters.edge"},
}
"""The folders that each folder may import from. `gateway` and `adapters` are the modules that lie directly in them."""
UNBOUND = {"gateway.__main__", "adapters.composition", "adapters.serving", "adapters.plugin"}
"""The command line and the composition root put everything together, and the plug-in module offers parts of everything
to other packages, so they may import everything."""

PURE = (
    *(f"gateway.turns.{name}" for name in ("turn", "answer", "part", "failure", "record", "verbatim")),
    *(f"gateway.log.{name}" for name in ("entry", "outline", "packing", "segments", "stretch")),
    *(f"gateway.upstream.{name}" for name in ("sse", "coze_objects", "coze_protocol", "codes", "verbatim")),
    "gateway.events",
    "gateway.status",
    "adapters.transports.wire",
    "adapters.facades.coze.framing",
)


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


def test_front_doors_know_turns_by_their_ids_alone() -> None:
    inside = {"gateway.turns.live", "gateway.turns.runner"}
    assert not {module for module in MODULES if module.startswith("adapters") and inside & set(imported(module))}


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


AIOHTTP_ROOMS = {"gateway.upstream.aiohttp_parts", "adapters.edge.aiohttp_parts"}
UNDOCUMENTED = {"protocol", "writer", "output_size", "request_factory", "request_handler", "SERVER_SOFTWARE"}
"""Public names of aiohttp's objects that its documentation doesn't promise."""


def private_names_of_aiohttp() -> set[str]:
    """Every underscored name of an attribute in aiohttp's own code, beyond those that are anybody's."""
    names: set[str] = set()
    for path in Path(aiohttp.__file__).parent.rglob("*.py"):
        names |= set(re.findall(r"(?:self\.|def |^    )(_[a-z]\w*)", path.read_text(encoding="utf-8"), re.MULTILINE))
    return names


def uses_of_private_parts(module: str) -> Iterator[str]:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("aiohttp."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "aiohttp":
            promised = {"aiohttp": {*aiohttp.__all__, "web"}}.get(node.module or "", set())
            yield from (f"{node.module}.{a.name}" for a in node.names if a.name not in promised)
    private, ours = private_names_of_aiohttp() | UNDOCUMENTED, {id(n) for n in ast.walk(tree) if _is_self(n)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in ours and node.attr in private:
            yield f"line {node.lineno}: .{node.attr}"
    loaded = importlib.import_module(module)
    for name, kind in vars(loaded).items():
        if isinstance(kind, type) and kind.__module__ == module:
            theirs = [base for base in kind.__mro__[1:] if base.__module__.split(".")[0] == "aiohttp"]
            taken = {
                n for base in theirs for n in vars(base) if n.startswith("_") and not n.endswith(("__", "_abc_impl"))
            }
            yield from (f"{name}.{n}" for n in vars(kind) if n in taken)
            if theirs:
                yield from (f"{name}: self.{n}" for n in _own_attributes(tree, name) & private_names_of(theirs))


def private_names_of(classes: list[type]) -> set[str]:
    text = "".join(inspect.getsource(one) for one in classes)
    return set(re.findall(r"self\.(_[a-z]\w*)", text))


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def _own_attributes(tree: ast.AST, name: str) -> set[str]:
    (body,) = (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == name)
    return {n.attr for n in ast.walk(body) if isinstance(n, ast.Attribute) and _is_self(n)}


def test_private_parts_of_aiohttp_are_used_in_their_rooms_alone() -> None:
    guilty: dict[str, list[str]] = {}
    for module in MODULES:
        names = {name.split(".")[0] for name in imported(module)} | set(imported(module))
        if module not in AIOHTTP_ROOMS and names & {"aiohttp", *AIOHTTP_ROOMS}:
            guilty |= {module: uses} if (uses := sorted(uses_of_private_parts(module))) else {}
    assert guilty == {}


@pytest.mark.parametrize("room", sorted(AIOHTTP_ROOMS))
def test_the_rooms_of_aiohttps_private_parts_are_seen_to_use_them(room: str) -> None:
    assert len(list(uses_of_private_parts(room))) > 5


@pytest.mark.parametrize("module", PURE)
def test_modules_that_decide_never_wait(module: str) -> None:
    waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert not any(isinstance(node, waits) for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))))
    assert not {"asyncio", "time", "random"} & set(imported(module))


def test_every_module_says_in_its_first_line_what_it_is() -> None:
    for module, path in MODULES.items():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{module} has no docstring"


LONG = {
    "gateway/turns/turn.py": "a pure state machine",
    "adapters/browser/page/words.js": "a table of words",
}
"""The modules that may have more than 300 lines, and why."""
WIDE = {
    "Turn": "a pure state machine with one method per thing that happens",
    "Line": "half of its methods are asyncio's callbacks and the hub's outlet",
}
"""The classes that may have more than 16 public methods, and why."""


def source_lengths() -> dict[str, int]:
    scripts = [path for path in (ROOT / "adapters" / "browser").rglob("*.js") if "vendor" not in path.parts]
    paths = [*MODULES.values(), *scripts]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8").count("\n") for path in paths}


def test_no_module_is_longer_than_300_lines_and_most_are_shorter_than_200() -> None:
    lengths = source_lengths()
    assert set(LONG) <= set(lengths)
    assert {path: lines for path, lines in lengths.items() if lines > 300 and path not in LONG} == {}
    assert sum(lines < 200 for lines in lengths.values()) > len(lengths) / 2


def test_no_class_has_more_than_16_public_methods() -> None:
    wide = {}
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                functions = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
                wide[node.name] = len({one.name for one in functions if not one.name.startswith("_")})
    assert {name: count for name, count in wide.items() if count > 16 and name not in WIDE} == {}


def documents() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_links_in_the_docs_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert "://" in target or (document.parent / target).exists(), f"{document.name} links to {target}"


def test_tests_that_the_docs_name_are_there() -> None:
    named = {name for document in documents() for name in re.findall(r"`(test_\w+)`", document.read_text("utf-8"))}
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert named
    assert [name for name in named if not re.search(rf"def {name}\(", tests)] == []


def test_the_table_of_where_to_look_names_files_that_exist() -> None:
    named = re.findall(
        r"`((?:gateway|adapters|deploy|tests)/[\w./-]*)`", (ROOT / "docs" / "architecture.md").read_text()
    )
    assert len(named) > 30
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_core_and_the_page_about_it_draw_the_same_picture() -> None:
    picture = re.search(r"```\n(.*?)```", (ROOT / "gateway" / "__init__.py").read_text(), re.DOTALL)
    assert picture
    assert picture[1] in (ROOT / "docs" / "architecture.md").read_text()


def test_the_table_of_what_to_run_names_every_folder_of_tests_and_nothing_that_is_not_there() -> None:
    table = re.findall(r"`(tests/[\w./*]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert [path for path in table if not list(ROOT.glob(path))] == []
    folders = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("*/test_*.py")}
    assert {folder for folder in folders if not any(path.startswith(folder) for path in table)} == set()


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


def test_every_sleep_of_a_test_says_why() -> None:
    """`sleep(0)` is none. The programs beside the tests run by the clock: chaos, load and bench."""
    programs = {ROOT / "tests" / name for name in ("chaos", "load", "bench")}
    silent = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if not programs & set(path.parents) and path.name != "waiting.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"\bsleep\((?!0\))", line) and not re.sub(r"noqa: \w+", "", line.partition("  # ")[2]).strip()
    ]
    assert silent == []
