"""A whole life in a fresh process leaves nothing: no task, thread, descriptor, memory, warning or complaint."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.processes import ROOT, clean_environment

ROUNDS = 3


async def _life(folder: Path, rounds: int) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", str(ROOT / "tests" / "leaks" / "whole_life.py")),
        *(str(folder), str(rounds)),
        env=clean_environment() | {"PYTHONASYNCIODEBUG": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(100):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-3000:]
    found: dict[str, Any] = json.loads(out.decode().splitlines()[-1])
    found["stderr"] = err.decode()
    return found


async def test_a_whole_life_leaves_nothing_behind(tmp_path: Path) -> None:
    found = await _life(tmp_path / "data", ROUNDS)
    assert found["held"] == {"database": 2, "store": 1, "task": 4}
    assert found["after"] == {}
    assert found["tails"] == 0
    assert found["tasks"] == found["threads"] == []
    assert found["complaints"] == found["unraisable"] == found["slow"] == []
    assert found["descriptors"] <= 0
    assert found["grown"][-1] < 60_000, found["grown"]
    assert "Warning" not in found["stderr"]
