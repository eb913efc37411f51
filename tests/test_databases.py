"""The databases of test runs that were killed do not stay: they may lie in memory."""

import fcntl
import os
from pathlib import Path

import pytest

from tests.databases import remove_left


@pytest.mark.parametrize(("held", "age", "stays"), [(False, 3600, False), (True, 3600, True), (False, 0, True)])
def test_a_folder_that_no_process_holds_any_more_is_removed(tmp_path: Path, held: bool, age: int, stays: bool) -> None:
    folder = tmp_path / "gateway-postgres-x"
    (folder / "data").mkdir(parents=True)
    owner = folder / "owner"
    owner.touch()
    os.utime(owner, (owner.stat().st_mtime - age,) * 2)
    with owner.open() as file:
        if held:
            fcntl.flock(file, fcntl.LOCK_EX)
        remove_left(tmp_path)
    assert folder.exists() is stays
