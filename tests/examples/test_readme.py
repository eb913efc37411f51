"""The README's commands do what the README says."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable

from tests.conftest import Require
from tests.processes import ROOT, GatewayProcess

README = (ROOT / "README.md").read_text(encoding="utf-8")


async def test_the_recipe_for_a_shell_prints_what_the_readme_says(
    start_gateway: Callable[..., Awaitable[GatewayProcess]], require: Require
) -> None:
    require("curl")
    gateway = await start_gateway()
    recipe = re.search(r"^curl -N .*?'$", README, re.MULTILINE | re.DOTALL)
    assert recipe
    command = recipe[0].replace("http://127.0.0.1:3000", gateway.url)
    shell = await asyncio.create_subprocess_exec(
        "sh", "-c", command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(40):
            printed, _ = await shell.communicate()
    finally:
        if shell.returncode is None:
            shell.kill()
    events = [json.loads(line[6:]) for line in printed.decode().splitlines() if line.startswith("data: ")]
    said = re.search(r"prints about (\d+) events", README)
    assert said
    assert 0.8 * int(said[1]) < len(events) < int(said[1]) + 10  # a busy machine merges some of the pieces
    kinds = Counter(event["event"] for event in events)
    assert list(kinds) == ["started", "reasoning", "message", "suggestion", "completed"]
    assert kinds["suggestion"] == 3
    shape = re.search(r"^id: (\S+)\ndata: (\{.*\})$", README, re.MULTILINE)
    assert shape
    assert json.loads(shape[2])["id"] == shape[1]
    assert json.loads(shape[2]).keys() == next(e for e in events if e["event"] == "message").keys()


def test_every_document_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)", README))
    documents = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")}
    assert documents <= linked
