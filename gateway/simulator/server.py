"""The server: a simulated Coze that listens on a port, from its start to its close."""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from aiohttp import web

from gateway.simulator.chats import ChatFile, Chats, Performance
from gateway.simulator.composer import compose
from gateway.simulator.faults import Fault
from gateway.simulator.objects import Chat, Json
from gateway.simulator.recording import Recording, Replay
from gateway.simulator.routes import Routes
from gateway.simulator.tally import Tally
from gateway.simulator.tokens import Tokens
from gateway.simulator.workflow import Run
from gateway.simulator.workflow_routes import WorkflowRoutes

_BODY_LIMIT = 15 * 2**20
_BACKLOG = 1024
_SHUTDOWN_SECONDS = 0.2

_log = structlog.get_logger(__name__)


class Simulator:
    """A running simulated Coze. `close` ends it; its chats go on when one with the same `data_dir` starts.

    `requests` counts requests by operation: chat, submit_tool_outputs, retrieve, messages, cancel, run_workflow,
    resume_workflow, conversation, feedback, token, upload, file.
    """

    def __init__(
        self,
        *,
        data_dir: Path | None,
        first_ms: int,
        rate: float,
        recording: Recording | None,
        clock: Callable[[], float],
        app_keys: Mapping[str, str],
        token_life: float | None,
    ) -> None:
        def perform(chat: Chat) -> Performance:
            if chat.run:
                return Run(compose(chat))
            return compose(chat) if recording is None else Replay(chat, recording)

        self.url = ""
        self.tokens = Tokens(clock, keys=app_keys, life=token_life)
        self._tally = Tally(clock)
        self._chats = Chats(perform, clock, ChatFile(data_dir / "simulator.jsonl") if data_dir is not None else None)
        self._routes = Routes(
            chats=self._chats,
            perform=perform,
            tally=self._tally,
            clock=clock,
            first_ms=first_ms,
            rate=rate,
            recording=recording,
            tokens=self.tokens,
        )
        self._runner: web.AppRunner | None = None

    @property
    def chats_started(self) -> int:
        """The number of messages that were accepted."""
        return self._tally.chats_started

    @property
    def requests(self) -> Counter[str]:
        return self._tally.requests

    @property
    def calls(self) -> deque[tuple[float, str]]:
        """The latest requests: unix time and operation."""
        return self._tally.calls

    @property
    def faults_fired(self) -> Counter[Fault]:
        """How often each fault acted."""
        return self._tally.faults_fired

    @property
    def opinions(self) -> Mapping[str, Json]:
        """The bodies of the feedback that was given, by the message's id."""
        return self._routes.opinions.given

    @property
    def streams(self) -> int:
        """The streams that are open now."""
        return len(self._routes.players)

    @property
    def bytes_received(self) -> int:
        """The bytes of all files that were uploaded, also of those that broke off."""
        return self._routes.files.received

    def posts_of(self, message: str) -> int:
        """How often this very message was posted, whether accepted or not."""
        return self._tally.posts_of(message)

    async def listen(self, host: str, port: int) -> None:
        app = web.Application(middlewares=[self._routes.answered], client_max_size=_BODY_LIMIT)
        app.add_routes(self._routes.table)
        app.add_routes(WorkflowRoutes(self._routes, self._chats).table)
        # Without cancellation a handler whose stream stalls would outlive its client.
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        self._runner = runner
        await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
        address = runner.addresses[0]
        name = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.url = f"http://{name}:{address[1]}"
        _log.debug("simulator.ready", url=self.url)

    async def close(self) -> None:
        """Cuts the streams that still run and stops listening. Idempotent."""
        for player in tuple(self._routes.players):
            player.cut()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def __repr__(self) -> str:
        return f"Simulator({self.url}, chats={len(self._chats)}, streams={self.streams})"
