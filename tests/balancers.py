"""nginx and HAProxy, really started, as `deploy/` configures them, except for addresses, ports and folders."""

import asyncio
import contextlib
import re
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.processes import ROOT

DEPLOY = ROOT / "deploy"
ONE = DEPLOY / "nginx.conf"
NGINX = DEPLOY / "nodes" / "nginx.conf"
HAPROXY = DEPLOY / "nodes" / "haproxy.cfg"


@dataclass(frozen=True)
class Balancer:
    url: str
    process: asyncio.subprocess.Process
    folder: Path
    """Where it logs."""

    @property
    def logged(self) -> str:
        return "".join(file.read_text(encoding="utf-8") for file in sorted(self.folder.glob("*.log")))


def _written(template: Path, nodes: Sequence[str], port: int, folder: Path) -> Path:
    """The configuration for these nodes (`host:port`), in which one line for each node stands for the example's two."""
    lines = []
    for line in template.read_text(encoding="utf-8").splitlines(keepends=True):
        if "gateway-1:3000" in line:
            for number, node in enumerate(nodes, 1):
                lines.append(line.replace("gateway-1:3000", node).replace("gateway-1", f"gateway-{number}"))
        elif "gateway-2:3000" not in line:
            lines.append(line)
    text = "".join(lines)
    ours = {
        NGINX: {"listen 8080;": f"listen 127.0.0.1:{port};"},
        HAPROXY: {
            "bind :8080": f"bind 127.0.0.1:{port}",
            "maxconn 20000": "maxconn 5000",  # it doesn't start where its limit of files is less than twice this
        },
        ONE: {"listen 8080;": f"listen 127.0.0.1:{port};", "server gateway:3000;": f"server {nodes[0]};"},
    }[template]
    if template != HAPROXY:
        ours |= {
            "/tmp/": f"{folder}/",
            "/dev/stdout": f"{folder}/access.log",
            "error_log stderr": f"error_log {folder}/error.log",
        }
    for here, there in ours.items():
        assert here in text
        text = text.replace(here, there)
    assert not re.search(r"^[^#]*\bgateway(-\d)?:3000", text, re.MULTILINE)
    (folder / template.name).write_text(text, encoding="utf-8")
    return folder / template.name


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """nginx's workers are another user where the tests run as root, and may not enter pytest's own folders."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def _reached(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)  # neither says anywhere that it listens
            else:
                writer.close()
                await writer.wait_closed()
                return


@contextlib.asynccontextmanager
async def balancer(program: str, template: Path, nodes: Sequence[str], port: int) -> AsyncIterator[Balancer]:
    """The program with that configuration in front of these nodes' URLs, after it has checked the configuration."""
    addresses = [node.removeprefix("http://") for node in nodes]
    with _folder() as folder:
        written = str(_written(template, addresses, port, folder))
        if template == HAPROXY:
            check, run = [program, "-c", "-q", "-f", written], [program, "-db", "-f", written]
        else:
            command = [program, "-e", "stderr", "-c", written]
            check, run = [*command, "-t", "-q"], [*command, "-g", "daemon off;"]
        checked = await asyncio.create_subprocess_exec(*check, stderr=asyncio.subprocess.PIPE)
        _, said = await checked.communicate()
        assert checked.returncode == 0, said.decode()
        assert b"WARNING" not in said, said.decode()
        with (folder / "output.log").open("wb") as output:
            process = await asyncio.create_subprocess_exec(*run, stdout=output, stderr=asyncio.subprocess.DEVNULL)
        try:
            await _reached(port)
            yield Balancer(f"http://127.0.0.1:{port}", process, folder)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), 10)
