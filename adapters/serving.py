"""Serving: a gateway that listens until it is asked to stop, and then drains."""

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence

import structlog
from aiohttp import web

from adapters.binding import bind, url_of, waiting
from adapters.composition import gateway, make_app
from adapters.edge.aiohttp_parts import parses_slowly
from adapters.edge.guard import Guard
from adapters.edge.server import WebRunner
from adapters.native import operations
from adapters.services import SERVICES, Services
from gateway import __version__
from gateway.config.settings import Settings
from gateway.telemetry import logs

logger = structlog.get_logger()

_BACKLOG = 4096
_LAST_LINES = 0.2  # seconds that a stop by a second signal waits for the last log lines
_SWITCH_INTERVAL = 0.0005  # by default the logging thread would wait five milliseconds for a busy loop
_DRAIN_LOOK = 0.1
_SWITCHING = 101
_LAST_ANSWERS = 0.1  # seconds for requests that came while the listening sockets were closed
_HERE_ALONE = ("upload", "passed")  # the kinds of which a drain waits for the end
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE_BLOCK = 512 * 1024
_GC = (10_000, 20, 20)  # connections and turns create many objects but few cycles


async def serve(settings: Settings) -> None:
    """Runs the gateway until SIGTERM or SIGINT. A second signal stops it at once."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    _return_large_blocks()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            logger.warning("gateway.ended_at_once")
            logs.flush(_LAST_LINES)
            os._exit(0)  # the next start finishes the running turns, as after a crash
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    if settings.tenants_file is not None:
        loop.add_signal_handler(signal.SIGHUP, lambda: None)  # by itself it would end a process that is starting
    async with gateway(settings) as services, listening(settings, services) as urls:
        if services.shops is not None:
            loop.add_signal_handler(signal.SIGHUP, services.shops.read_again)
        more = {"urls": urls} if len(urls) > 1 else {}
        logs.announce("gateway.ready", url=urls[0], **more, version=__version__)
        logs.say(welcome(settings, urls[0]))
        gc.collect()
        gc.freeze()  # the objects of the start live as long as the process: the collector may skip them
        gc.set_threshold(*_GC)
        await stop.wait()
        await drain(settings, services)
    logger.info("gateway.stopped")


def welcome(settings: Settings, url: str) -> str:
    """Tells a person at a terminal where the page is and who answers, once the gateway listens."""
    page = f"{url.replace('//0.0.0.0:', '//127.0.0.1:').replace('//[::]:', '//[::1]:')}/sse-stream-test.html"
    answers = f"come from {settings.coze_api_base}"
    if settings.tenants_file is not None:
        answers += f", with each shop's credentials in {settings.tenants_file}"
    if settings.embedded_simulator:
        answers = "are simulated; COZE_API_TOKEN=… asks your own bot"
    return f"\n  Page     {page}\n  Answers  {answers}\n  Stop     Ctrl-C\n"


def _return_large_blocks() -> None:
    """Makes the C library return large blocks to the system as soon as they are freed.

    By default glibc raises its threshold to the largest block that it has seen freed, and keeps the holes that long
    answers leave: after a few long answers the process used more than twice the memory.
    """
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such call
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


async def drain(settings: Settings, services: Services) -> None:
    """Makes `/readyz` answer 503, refuses new turns, sends idle listeners away, waits for running turns, and then sends
    away everybody else."""
    turns = services.ledger.count("turn")
    logger.info("gateway.draining", turns=turns, seconds=settings.drain_seconds, pause=settings.drain_pause_seconds)
    logs.say(f"stopping, {turns} {'answer' if turns == 1 else 'answers'} running; press Ctrl-C again to stop at once")
    services.probes.leaving = True
    await asyncio.sleep(settings.drain_pause_seconds)  # until load balancers have seen /readyz fail
    services.turns.start_nothing_more()
    services.hub.drain()
    waiting = asyncio.ensure_future(services.turns.drain(settings.drain_seconds))
    loop = asyncio.get_running_loop()
    latest = loop.time() + settings.drain_seconds
    # No other node can go on with an upload, or with what is passed on.
    while not waiting.done() or (any(map(services.ledger.count, _HERE_ALONE)) and loop.time() < latest):
        await (asyncio.sleep(_DRAIN_LOOK) if waiting.done() else asyncio.wait([waiting], timeout=_DRAIN_LOOK))
        services.hub.drain()
    services.hub.drain(also_running=True)
    await asyncio.sleep(_DRAIN_LOOK)  # until the farewells have been sent


@contextlib.asynccontextmanager
async def listening(settings: Settings, services: Services) -> AsyncIterator[list[str]]:
    """Listens as the settings say. Returns the main listener's URLs, one per address."""
    if parses_slowly():
        logger.warning("gateway.slow_parser", why="aiohttp's C extensions are missing")
    async with contextlib.AsyncExitStack() as stack:
        application = make_app(settings, services)
        application.on_response_prepare.append(_end_the_connection)
        if settings.admin_port is not None:
            admin = web.Application()
            admin[SERVICES] = services
            Guard(settings, host=settings.admin_host, operators=True).install(admin)
            operations.add_routes(admin)
            operations.add_operator_routes(admin)
            (url, *_) = await stack.enter_async_context(
                _site(admin, (settings.admin_host,), settings.admin_port, settings.send_timeout)
            )
            logger.info("gateway.admin_ready", url=url)
        elif not settings.on_loopback:
            logger.warning("gateway.no_metrics", why="not on loopback, and GATEWAY_ADMIN_PORT is not set")
        yield await stack.enter_async_context(_site(application, settings.hosts, settings.port, settings.send_timeout))


async def _end_the_connection(request: web.Request, response: web.StreamResponse) -> None:
    """While the gateway leaves, a connection ends with its answer: a balancer that kept it could send one more request
    over it just when it is closed."""
    if request.app[SERVICES].probes.leaving and response.status != _SWITCHING:
        response.force_close()
        response.headers["Connection"] = "close"


@contextlib.asynccontextmanager
async def _site(app: web.Application, hosts: Sequence[str], port: int, send_timeout: float) -> AsyncIterator[list[str]]:
    """Serves the application. Returns its URLs, one per address."""
    runner = WebRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    sockets: list[socket.socket] = []
    try:
        sockets = await bind(hosts, port, send_timeout)
        for sock in sockets:
            await web.SockSite(runner, sock, backlog=_BACKLOG).start()
        yield [url_of(sock) for sock in sockets]
    finally:
        await _hear_the_last(runner, sockets)
        await runner.cleanup()


async def _hear_the_last(runner: WebRunner, sockets: Sequence[socket.socket]) -> None:
    """Stops listening, and answers every client that has connected by then."""
    connections = waiting(sockets)
    for site in list(runner.sites):
        await site.stop()
    assert runner.server is not None
    for connection in connections:
        await asyncio.get_running_loop().connect_accepted_socket(runner.server, connection)
    await asyncio.sleep(_LAST_ANSWERS)
