"""The simulated Coze: an HTTP server with Coze's wire format, seeded answers and a fault plan for each message.

A chat is its request and a starting time. From these two `composer` writes its `script` (what is said, and when), so a
chat goes on without a client, without a task, and through a crash. A response passes through `disturbance` (wrong
frames), `framing` (other bytes) and `cues` (broken connections) to its `player`; without faults, these change nothing.
`faults` is the closed table of the faults that `/fault NAME[:VALUE] …` can ask for.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.clocks import steady_clock
from gateway.simulator.composer import whole_text
from gateway.simulator.faults import Fault
from gateway.simulator.recording import ORIGINAL_RATE, read_recording
from gateway.simulator.server import Simulator
from gateway.simulator.workflow import whole_run

__all__ = ["Fault", "Simulator", "start_simulator", "whole_run", "whole_text"]


async def start_simulator(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    data_dir: Path | None = None,
    first_ms: int = 300,
    rate: float = 40,
    replay: str | Path | None = None,
    pace: str | float | None = "original",
    clock: Callable[[], float] | None = None,
    app_keys: Mapping[str, str] | None = None,
    token_life: float | None = None,
) -> Simulator:
    """Starts a simulator on its own port (0 picks a free one); the caller must `close` it.

    `data_dir` keeps its chats over a restart. `first_ms` and `rate` (pieces per second, 0 for as fast as possible) pace
    its answers. `replay` serves a recorded stream for any chat, at `pace`: records per second, or `original` (also
    None). `clock` gives unix seconds. `app_keys` are the public keys of JWT apps, in PEM by `kid`: with them only the
    tokens that it has given are taken, which live for `token_life` seconds, by default for as long as is asked. Raises
    OSError if the port or a file is not available, ValueError for a recording without records.
    """
    recording = None
    if replay is not None:
        recording = read_recording(Path(replay))
        rate = ORIGINAL_RATE if pace in (None, "original") else float(pace)
    simulator = Simulator(
        data_dir=data_dir,
        first_ms=first_ms,
        rate=rate,
        recording=recording,
        clock=clock or steady_clock(),
        app_keys=app_keys or {},
        token_life=token_life,
    )
    try:
        await simulator.listen(host, port)
    except BaseException:
        await simulator.close()
        raise
    return simulator
