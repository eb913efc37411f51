"""A gateway of our own: the default when no URL is given, with a simulated Coze in a process of its own beside it."""

import asyncio
import contextlib
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import GatewayProcess


def end_on_sigterm() -> None:
    """A SIGTERM cancels the task that calls this, so that what it has started is ended too."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used since it began. Linux only; zeros elsewhere."""

    cpu: float = 0.0
    """Seconds."""
    resident: float = 0.0
    """MiB now."""
    peak: float = 0.0

    @classmethod
    def of(cls, pid: int) -> "Usage":
        with contextlib.suppress(OSError):
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            mib = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
            # The id of another process's clock, as clock_getcpuclockid(3) makes it: all of its threads, nanoseconds.
            return cls(time.clock_gettime(~pid << 3 | 2), *mib)
        return cls()


@dataclass(frozen=True, slots=True)
class Own:
    """A running gateway."""

    url: str
    pid: int

    def used(self, before: Usage, pieces: int) -> dict[str, Any]:
        """What it used since `before`, for the result."""
        now = Usage.of(self.pid)
        cpu = now.cpu - before.cpu
        return {
            "cpu_s": round(cpu, 3),
            "cpu_us_per_piece": round(cpu / max(1, pieces) * 1e6, 2),
            "peak_mib": round(now.peak, 1),
        }


@contextlib.asynccontextmanager
async def own_gateway(upstream: str | None = None, **settings: str) -> AsyncIterator[Own]:
    """Starts one on a free port with its data in a folder that is deleted afterwards. `upstream`: Coze's base URL."""
    with tempfile.TemporaryDirectory(prefix="coze-gateway-load-") as folder:
        async with contextlib.AsyncExitStack() as stack:
            if upstream is None:
                simulator = await GatewayProcess.start("simulate")
                stack.push_async_callback(simulator.kill)
                upstream = await simulator.ready()
            gateway = await GatewayProcess.start(
                "serve",
                "--port",
                "0",
                environment={"GATEWAY_DATA_DIR": folder, "COZE_API_TOKEN": "load", "COZE_API_BASE": upstream}
                | settings,
            )
            stack.push_async_callback(gateway.kill)
            yield Own(await gateway.ready(), gateway.pid)
