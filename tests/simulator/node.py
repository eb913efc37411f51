"""Coze's own client for node, in scripts that print as JSON what it saw."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from tests.conftest import Require


async def seen_by_node(script: Path, node_modules: Path, require: Require, *arguments: str, within: float) -> Any:
    """Runs a script, which gets the package's address and these arguments."""
    package = (node_modules / "@coze" / "api" / "dist" / "esm" / "index.mjs").as_uri()
    node = await asyncio.create_subprocess_exec(
        require("node"),
        str(script),
        package,
        *arguments,
        env={"PATH": os.environ["PATH"]},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(within):
            output, errors = await node.communicate()
    except TimeoutError:
        node.kill()
        raise
    assert node.returncode == 0, errors.decode()
    return json.loads(output)
