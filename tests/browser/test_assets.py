"""What `/sse-stream-test.html`, `/page/…` and `/client/…` answer."""

import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from aiohttp import ClientSession
from yarl import URL

from adapters.browser import PAGE_PATH
from tests.browser.conftest import Stub

ROOT = Path(__file__).parent.parent.parent
BROWSER = ROOT / "adapters" / "browser"


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        (PAGE_PATH, "text/html"),
        ("/client/coze-gateway.js", "text/javascript"),
        ("/client/coze-gateway.d.ts", "text/plain"),
        ("/client/line.js", "text/javascript"),
        ("/client/legs/sse.js", "text/javascript"),
        ("/client/README.md", "text/markdown"),
        ("/client/package.json", "application/json"),
        ("/client/LICENSE", "text/plain"),
        ("/page/app.js", "text/javascript"),
        ("/page/page.css", "text/css"),
        ("/page/icon.svg", "image/svg+xml"),
        ("/page/vendor/markdown-it.js", "text/javascript"),
    ],
)
async def test_a_file_is_given_with_its_type_and_a_tag_that_spares_the_next_transfer(
    stub: Stub, path: str, content_type: str
) -> None:
    async with ClientSession(stub.url) as session:
        async with session.get(path) as response:
            body = await response.read()
            assert response.status == 200
            assert response.content_type == content_type
            assert response.headers["Cache-Control"] == "no-cache"
            tag = response.headers["ETag"]
        async with session.get(path, headers={"If-None-Match": f'"other", W/{tag}'}) as again:
            assert again.status == 304
            assert again.headers["ETag"] == tag
            assert await again.read() == b""
        async with session.get(path, headers={"Accept-Encoding": "identity"}) as plain:
            assert plain.headers["Vary"] == "Accept-Encoding"
            assert await plain.read() == body
        async with session.head(path) as head:
            assert head.status == 200
        async with session.post(path) as refused:
            assert refused.status == 405


@pytest.mark.parametrize(
    "path",
    [
        "/client/../__init__.py",
        "/client/..%2f__init__.py",
        "/client/%2e%2e/%2e%2e/app.py",
        "/page//etc/passwd",
        "/page/index.html",
        "/page/",
        "/client",
        "/client/legs",
        "/client/legs/",
        "/client/legs/../../__init__.py",
        "/client/legs/..%2f..%2f__init__.py",
        "/page/vendor/..\\..\\__init__.py",
    ],
)
async def test_no_other_path_gives_a_file(stub: Stub, path: str) -> None:
    async with ClientSession() as session, session.get(URL(stub.url + path, encoded=True)) as response:
        assert response.status == 404


@pytest.mark.parametrize("path", ["/client/coze-gateway.js", "/client/line.js", "/client/legs/sse.js"])
async def test_the_module_may_be_imported_by_pages_of_any_origin(stub: Stub, path: str) -> None:
    async with ClientSession(stub.url) as session, session.get(path) as response:
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"


def test_the_page_has_no_inline_script_style_or_handler() -> None:
    page = (BROWSER / "page" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page)
    assert re.findall(r"<script[^>]*>", page) == ['<script type="module" src="page/app.js">']


CLIENT = {f"/{file.relative_to(BROWSER).as_posix()}" for file in (BROWSER / "client").rglob("*.js")}
ENTRY = "/client/coze-gateway.js"


def imports(path: str) -> set[str]:
    """The paths that a served module of ours imports."""
    text = (BROWSER / path.lstrip("/")).read_text(encoding="utf-8")
    targets = re.findall(r'^(?:import|export)\s(?:[^;"]*?\sfrom\s)?"([^"]+)";', text, re.M)
    return {URL(f"http://x{path}").join(URL(target)).path for target in targets}


def test_every_module_is_reachable_and_every_import_is_served() -> None:
    served = {f"/page/{f.name}" for f in (BROWSER / "page").iterdir()}
    served |= {f"/page/vendor/{f.name}" for f in (BROWSER / "vendor").iterdir()}
    served |= CLIENT
    seen: set[str] = set()
    todo = ["/page/app.js"]
    while todo:
        path = todo.pop()
        seen.add(path)
        if "vendor" in path:
            continue
        for found in imports(path):
            assert found in served, f"{path} imports {found}"
            if found not in seen:
                todo.append(found)
    own = {f"/page/{f.name}" for f in (BROWSER / "page").glob("*.js")}
    assert own | CLIENT <= seen


def test_the_client_module_needs_nothing_but_its_own_files_and_a_browser_learns_of_all_of_them_at_once() -> None:
    assert imports(ENTRY) == CLIENT - {ENTRY}
    assert all(imports(path) <= CLIENT - {ENTRY} for path in CLIENT)


def test_no_file_of_the_client_module_imports_itself_by_way_of_others() -> None:
    TopologicalSorter({path: imports(path) for path in CLIENT}).prepare()  # raises CycleError


async def test_every_file_of_the_client_module_is_served(stub: Stub) -> None:
    async with ClientSession(stub.url) as session:
        for path in CLIENT:
            async with session.get(path) as response:
                assert response.status == 200, path
                assert await response.read() == (BROWSER / path.lstrip("/")).read_bytes()


def test_the_vendored_libraries_are_the_packages_files() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/refresh_vendor.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for entry in json.loads((BROWSER / "vendor" / "vendor.json").read_text()):
        assert entry["licence"]
        assert entry["integrity"].startswith("sha512-")
