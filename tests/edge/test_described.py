"""The whole gateway against its own description: schemathesis sends what that allows, and what it doesn't.

`SCHEMATHESIS_EXAMPLES` is the number of fuzzed examples a route (10; the promise is made with 200).
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.edge.whole import person, quiet, whole, with_tokens

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "10")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "negative_data_rejection",
)
LIMITS = {"max_connections_per_user": 1000, "max_message_chars": 1000}
"""Short messages: wrong bodies with a hundred of them are refused for what is wrong in them, not for their size."""
CONFIG = """
[phases.coverage.extra-data-sources]
responses = false
[phases.fuzzing.extra-data-sources]
responses = false
"""
"""Ids from answers are not asked for again: who listens to a conversation that there is waits for its next turn."""
ENDLESS = ("/api/coze/shops/{shopId}/events", "/api/coze/shops/{shopId}/poll")
"""What waits for news of any shop that one can name. The other scopes' names don't exist, or their turns have ended."""


async def schemathesis(folder: Path, url: str, *more: str, phases: str = "coverage,fuzzing") -> str:
    """Runs it against the gateway at `url`; what it printed."""
    (folder / "schemathesis.toml").write_text(CONFIG)
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json", "--no-color"]
    command += ["--checks", ",".join(CHECKS), "--phases", phases, "--max-examples", EXAMPLES]
    for path in ENDLESS:
        command += ["--exclude-path", path]
    command += ["--seed", "20251028", "--request-timeout", "30", "--warnings", "off", *more]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=folder, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout


async def test_no_example_gets_a_server_error_or_an_answer_that_is_not_described(tmp_path: Path) -> None:
    async with whole(tmp_path, **LIMITS) as gateway:
        printed = await schemathesis(tmp_path, gateway.url)
        assert "Tested: 29" in printed
        await quiet(gateway)


async def test_with_a_token_every_answer_is_as_described(tmp_path: Path) -> None:
    async with whole(tmp_path, **LIMITS, **with_tokens(tmp_path)) as gateway:
        header = person("ann", shop="a", scope="shop")["Authorization"]
        await schemathesis(tmp_path, gateway.url, "--header", f"Authorization: {header}")
        await quiet(gateway)


async def test_without_the_token_that_is_needed_every_answer_is_as_described(tmp_path: Path) -> None:
    """Only the route is looked at before the token is missed, so what is fuzzed is left to SCHEMATHESIS_EXAMPLES."""
    async with whole(tmp_path, **LIMITS, **with_tokens(tmp_path)) as gateway:
        phases = "coverage,fuzzing" if "SCHEMATHESIS_EXAMPLES" in os.environ else "coverage"
        await schemathesis(tmp_path, gateway.url, phases=phases)
        await quiet(gateway)
