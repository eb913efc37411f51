"""Servers side by side: the gateway and its peers, each started alone, on a core of its own where there are two."""

import asyncio
import contextlib
import gc
import os
import shutil
import socket
import sys
import venv
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import aiohttp

from tests.load.own import Own, own_gateway
from tests.processes import ROOT, clean_environment

GATEWAY = "gateway"
PEERS = ("aiohttp-sse", "sse-starlette", "node")
_FOLDER = ROOT / "tests" / "bench" / "peers"
_CACHE = ROOT / "build" / "bench-peers"
"""A virtual environment of their own: nothing of theirs gets into the project's."""
_WANTED = (
    "aiohttp>=3.14",
    "aiohttp-sse>=3",
    "uvloop>=0.23",
    "starlette",
    "sse-starlette>=3",
    "uvicorn",
    "httptools",
    "httpx",
)
_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


async def prepare_peers() -> Path:
    """Installs the Python peers' packages once, by pip as it is configured; the interpreter that has them."""
    python = _CACHE / "bin" / "python"
    stamp = _CACHE / "installed"
    wanted = "\n".join(_WANTED)
    if not stamp.is_file() or stamp.read_text() != wanted:
        sys.stderr.write(f"Installing the peers into {_CACHE.relative_to(ROOT)}\n")
        await asyncio.to_thread(venv.create, _CACHE, clear=True, with_pip=True)
        command = (python, "-m", "pip", "--disable-pip-version-check", "install", "-qq", "--no-input", *_WANTED)
        process = await asyncio.create_subprocess_exec(*map(str, command))
        if await process.wait():
            raise RuntimeError("the peers could not be installed: what pip says stands above")
        stamp.write_text(wanted)
    return python


@contextlib.contextmanager
def attentive() -> Iterator[None]:
    """In its block this process collects no garbage. A collection stops a client of hundreds of connections for 0.2 s,
    which would count as the servers' delay."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def on_core(number: int) -> Iterator[None]:
    """Processes that are started in its block run on this core. With only one core nothing changes."""
    if len(_CORES) < 2:
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {_CORES[number]})
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.asynccontextmanager
async def _running(*command: str | Path, environment: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        env=clean_environment() | dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def upstream() -> AsyncIterator[str]:
    """The stand-in for Coze; its URL."""
    async with _running(sys.executable, "-m", "tests.bench.upstream", environment={}) as process:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            line = await process.stdout.readline()
        if not line:
            raise RuntimeError("the stand-in for Coze did not start: what it says stands above")
        yield line.decode().strip()


@contextlib.asynccontextmanager
async def serving(name: str, coze: str) -> AsyncIterator[Own]:
    """A server of this name, fresh, ready, with Coze at `coze`."""
    async with contextlib.AsyncExitStack() as stack:
        with on_core(1):  # only while it starts: what it starts stays there
            if name == GATEWAY:
                own = await stack.enter_async_context(own_gateway(coze))
            else:
                own = await _peer(name, coze, stack)
        yield own


async def _peer(name: str, coze: str, stack: contextlib.AsyncExitStack) -> Own:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"PORT": str(port), "COZE_API_BASE": coze}
    process = await stack.enter_async_context(_running(*await _command(name), environment=environment))
    url = f"http://127.0.0.1:{port}"
    await _answers(f"{url}/healthz", process)
    return Own(url, process.pid)


async def _command(name: str) -> tuple[str | Path, ...]:
    if name == "node":
        if (node := shutil.which("node") or shutil.which("nodejs")) is None:
            raise RuntimeError("node is missing (Debian package nodejs); leave it out with --servers")
        return node, _FOLDER / "node_relay.mjs"
    return await prepare_peers(), _FOLDER / f"{name.replace('-', '_')}_app.py"


async def _answers(url: str, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"it ended with status {process.returncode}: what it says stands above")
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)
