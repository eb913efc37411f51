"""The table of weaknesses names tests that exist."""

import re

import pytest

from tests.processes import ROOT

TABLE = (ROOT / "docs" / "security.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", TABLE)))


@pytest.mark.parametrize(("file", "test"), NAMED, ids=[test for _, test in NAMED])
def test_a_test_that_the_table_names_exists(file: str, test: str) -> None:
    assert re.search(rf"^(async )?def {test}\(", (ROOT / "tests" / file).read_text("utf-8"), re.MULTILINE)


def test_every_weakness_has_its_cure_and_its_test() -> None:
    rows = [line for line in TABLE.split("\n") if line.startswith("| ") and not line.startswith("| weakness")]
    assert len(rows) > 40
    for row in rows:
        weakness, cure, tests = row.strip("| ").split(" | ")
        assert weakness
        assert cure
        assert "::test_" in tests
