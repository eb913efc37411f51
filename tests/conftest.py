"""What all tests share: tools that must be there, ledgers that must balance, gateways as real processes."""

import gc
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gateway.telemetry.ledger import Ledger
from tests.databases import PostgresServer, postgres_server
from tests.folders import prepared
from tests.processes import GatewayProcess
from tests.programs import program
from tests.scheduling import Quietly, in_order

# Several hundred processes read the same modules: one of them compiles each, whatever this machine's habit is.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A registry that can't be reached is said within seconds; by itself npm tries for minutes.
os.environ |= {
    "npm_config_fetch_retries": "1",
    "npm_config_fetch_retry_mintimeout": "500",
    "npm_config_fetch_retry_maxtimeout": "1000",
    "npm_config_fetch_timeout": "20000",
}

PACKAGES = {
    "chromium": ("chromium", ("chromium", "chromium-browser", "google-chrome")),
    "nginx": ("nginx", ("nginx",)),
    "node": ("nodejs", ("node", "nodejs")),
    "npm": ("npm", ("npm",)),
    "haproxy": ("haproxy", ("haproxy",)),
    "slowhttptest": ("slowhttptest", ("slowhttptest",)),
    "curl": ("curl", ("curl",)),
    "sqlite3": ("sqlite3", ("sqlite3",)),
    "postgres": ("postgresql", ("postgres",)),
    "promtool": ("prometheus", ("promtool",)),
    "systemd-analyze": ("systemd", ("systemd-analyze",)),
    "redis-server": ("redis-server", ("redis-server",)),
}
"""Tools that are not Python's: the Debian package of each, and the names of its command."""

CI = os.environ.get("CI", "").lower() in ("1", "true")
MISSING: pytest.StashKey[set[str]] = pytest.StashKey()
LEFT_OUT: pytest.StashKey[list[str]] = pytest.StashKey()

Require = Callable[[str], str]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MISSING] = set[str]()
    config.stash[LEFT_OUT] = []


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Quietly | None:
    return Quietly(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = in_order(items)


def pytest_collection_finish() -> None:
    """The garbage collector may skip everything that is imported and collected by now, as in production."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CI=true, where every tool must be there, a skipped test counts as failed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        item.config.stash[LEFT_OUT].append(item.nodeid)
        if CI:
            report.outcome = "failed"
            report.longrepr = f"left out, which CI=true does not allow: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left_out := config.stash[LEFT_OUT]:
        terminalreporter.section(f"{len(left_out)} TESTS WERE LEFT OUT", sep="!", red=True, bold=True)
        for nodeid in left_out:
            terminalreporter.line(nodeid)
    missing: set[str] = config.stash[MISSING]
    if missing:
        names = sorted(missing)
        terminalreporter.line(f"Missing here: {', '.join(names)}. For the whole suite, as root:", red=True)
        terminalreporter.line(f"    apt-get install {' '.join(PACKAGES[tool][0] for tool in names)}", red=True)


@pytest.fixture(scope="session")
def require(pytestconfig: pytest.Config) -> Require:
    """`require("nginx")` is a tool's path. Without it the test is skipped and listed, or fails with CI=true."""

    def find(tool: str) -> str:
        package, commands = PACKAGES[tool]
        if found := program(*commands):
            return found
        pytestconfig.stash[MISSING].add(tool)
        message = f"{tool} is missing (Debian package {package})"
        if CI:
            pytest.fail(message, pytrace=False)
        pytest.skip(message)

    return find


@pytest.fixture(scope="session")
def shared_postgres(require: Require) -> Iterator[PostgresServer]:
    programs = require("postgres")
    if find_spec("psycopg") is None:
        pytest.skip("psycopg is missing: pip install 'coze-stream-gateway[postgres]'")  # a failure where CI=true
    with postgres_server(Path(programs).resolve().parent) as server:
        yield server


@pytest.fixture
def postgres(shared_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A PostgreSQL server, which tests share: `await postgres.make()` is the URL of a database of the test's own."""
    with shared_postgres.lending() as server:
        yield server


@pytest.fixture(scope="module")
def module_postgres(shared_postgres: PostgresServer) -> Iterator[PostgresServer]:
    """The same server, for databases that all tests of a file share."""
    with shared_postgres.lending() as server:
        yield server


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """A ledger that must be balanced when the test ends."""
    ledger = Ledger()
    yield ledger
    held = {kind: ledger.list(kind) for kind, account in ledger.totals().items() if account["open"]}
    assert not held, f"still held: {held}"


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A port on which nobody listens at present. Prefer port 0 if the program can tell which port it got."""

    def take() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port

    return take


@pytest.fixture
async def start_gateway(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[GatewayProcess]]]:
    """`await start_gateway(GATEWAY_AUTH="jwt", …)`: a real gateway that listens. All are ended after the test.

    Their data are in one folder of the test's, so that a second gateway goes on with the data of the first.
    """
    started: list[GatewayProcess] = []

    async def start(*flags: str, **environment: str) -> GatewayProcess:
        if "GATEWAY_DATA_DIR" not in environment:
            environment["GATEWAY_DATA_DIR"] = str(prepared(tmp_path / "data"))
        gateway = await GatewayProcess.hatch("serve", "--port", "0", *flags, environment=environment)
        started.append(gateway)
        await gateway.ready()
        return gateway

    yield start
    for gateway in started:
        await gateway.kill()
