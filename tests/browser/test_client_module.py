"""The client module in Node: its own tests, run against a stub gateway."""

import asyncio
import os
import re
from pathlib import Path

from tests.browser.conftest import Stub
from tests.conftest import Require

HERE = Path(__file__).parent
MODULE = HERE.parent.parent / "adapters" / "browser" / "client" / "coze-gateway.js"


async def test_the_module_passes_its_own_tests_in_node(stub: Stub, require: Require) -> None:
    environment = {"PATH": os.environ.get("PATH", ""), "STUB_URL": stub.url, "MODULE": MODULE.as_uri()}
    process = await asyncio.create_subprocess_exec(
        require("node"), "--experimental-websocket", "--test", "--test-reporter=tap", str(HERE / "client.test.js"),
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 110)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output.decode()
    assert process.returncode == 0, text[-6000:]
    passed = re.search(r"^# pass (\d+)$", text, re.M)
    assert passed
    assert int(passed[1]) >= 94, "tests were left out"


def test_the_types_name_every_export() -> None:
    exports = re.findall(r"^export (?:class|function) (\w+)", MODULE.read_text(encoding="utf-8"), re.M)
    types = MODULE.with_suffix(".d.ts").read_text(encoding="utf-8")
    declared = re.findall(r"^export (?:class|function) (\w+)", types, re.M)
    assert sorted(exports) == sorted(declared)
    assert "import " not in re.sub(r"/\*.*?\*/", "", MODULE.read_text(encoding="utf-8"), flags=re.S)
