"""Nodes need PostgreSQL and its client, and some need Redis's: without them their tests are left out as a whole."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CI, LEFT_OUT


class WithoutClient(pytest.Module):
    """A file of tests that can't even be imported."""

    def collect(self) -> Any:
        self.config.stash[LEFT_OUT].append(self.nodeid)
        pytest.skip("a client is missing: pip install 'coze-stream-gateway[postgres,redis]'", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    needed = ("psycopg", "redis") if "redis" in module_path.name else ("psycopg",)
    if CI or all(find_spec(client) is not None for client in needed):
        return None  # where everything must be there, the import fails
    module: pytest.Module = WithoutClient.from_parent(parent, path=module_path)
    return module
