"""A gateway as a process of its own: started, its log read, stopped by its id."""

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.hatchery import Hatched, Hatchery

ROOT = Path(__file__).resolve().parent.parent
OURS = ("GATEWAY_", "COZE_", "USE_SSE_STREAMING")


def clean_environment() -> dict[str, str]:
    """This process's environment without the gateway's settings, so that the machine's don't change a test."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | {"PYTHONPATH": str(ROOT)}


AS_INSTALLED = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests" / "bare")))}
"""Production's packages are fewer than the tests' own."""

NO_CERTIFICATES = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
"""Gateways speak plain HTTP on loopback here: to read the machine's certificates would be a tenth of each start."""

_LONGEST_LINE = 16 * 1024 * 1024


def _environment() -> dict[str, str]:
    return clean_environment() | AS_INSTALLED | NO_CERTIFICATES


@functools.cache
def _hatchery() -> Hatchery:
    return Hatchery(_environment())


def hatched(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs one of the gateway's commands to its end, forked where all is imported already."""
    command = ("gateway", *arguments)
    return _hatchery().run(command, clean_environment() | AS_INSTALLED | environment, folder, within=90)


class GatewayProcess:
    """A gateway and its log lines. A test that starts one must `kill` it or wait until it has `ended`."""

    def __init__(self, process: asyncio.subprocess.Process | Hatched, ready: str) -> None:
        self._process = process
        self._ready = ready
        self.lines: list[dict[str, Any]] = []
        self.text: list[str] = []
        self.url = ""
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, *arguments: str, environment: Mapping[str, str] | None = None, module: str = "gateway"
    ) -> "GatewayProcess":
        """`python -m gateway …`, as operators run it."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            env=_environment() | dict(environment or {}),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
        )
        return cls(process, "simulator.ready" if arguments[0] == "simulate" else "gateway.ready")

    @classmethod
    async def hatch(cls, *arguments: str, environment: Mapping[str, str], module: str = "gateway") -> "GatewayProcess":
        """The same for a sixth of the processor time: forked where all is imported already. For tests that don't
        measure how long a start takes, or how much memory."""
        if any(name.startswith(("PYTHON", "SSL_")) for name in environment):  # imports depend on these
            return await cls.start(*arguments, environment=environment, module=module)
        whole = _environment() | dict(environment)
        process = await _hatchery().hatch((module, *arguments), whole, limit=_LONGEST_LINE)
        return cls(process, "gateway.ready")

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ready(self, within: float = 20.0) -> str:
        """Waits until it listens; its URL."""
        line = await self.logged(self._ready, within=within)
        self.url = str(line["url"]).rstrip("/")
        return self.url

    async def logged(self, *events: str, after: int = 0, within: float = 10.0) -> dict[str, Any]:
        """The first line with one of `events`, from line number `after` on. Waits until there is one."""
        async with asyncio.timeout(within):
            while True:
                self._news.clear()
                for line in self.lines[after:]:
                    if line["event"] in events:
                        return line
                if self._reader.done():
                    raise AssertionError(f"it ended without {' or '.join(events)}:\n" + "\n".join(self.text[-30:]))
                await self._news.wait()

    def send_signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def ended(self, within: float = 30.0) -> int:
        """Waits for its end; its exit status. Whoever stops waiting takes nothing from the others."""
        try:
            async with asyncio.timeout(within):
                await asyncio.shield(self._reader)
                return await self._process.wait()
        except TimeoutError as error:
            raise TimeoutError(f"not ended within {within} s:\n" + "\n".join(self.text[-30:])) from error

    async def terminate(self, within: float = 30.0) -> int:
        self.send_signal(signal.SIGTERM)
        return await self.ended(within)

    async def kill(self) -> int:
        """Ends it at once, as a crash would. Gives its exit status: -9, or that with which it had ended before."""
        self.send_signal(signal.SIGKILL)
        return await self.ended()

    async def _read(self) -> None:
        assert self._process.stderr is not None
        try:
            async for raw in self._process.stderr:
                text = raw.decode("utf-8", "replace").rstrip("\n")
                self.text.append(text)
                try:
                    line = json.loads(text)
                except ValueError:
                    continue
                if isinstance(line, dict):
                    self.lines.append(line)
                    self._news.set()
        finally:
            self._news.set()
