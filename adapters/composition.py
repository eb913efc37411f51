"""The composition root: settings -> objects -> routes -> a running gateway that can be asked to stop."""

import asyncio
import contextlib
import ctypes
import gc
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.metadata import entry_points
from typing import Protocol

import structlog
from aiohttp import http_parser, web

from adapters import browser, storage
from adapters.binding import bind, url_of
from adapters.edge.auth import Authenticator
from adapters.edge.explained import explaining
from adapters.edge.failures import OBSERVER
from adapters.edge.guard import Guard
from adapters.edge.limits import Connections, TurnRate
from adapters.edge.refusals import Refusals
from adapters.edge.server import WebRunner
from adapters.native import chat, operations, shared, stream
from adapters.services import SERVICES, Probes, Services
from adapters.transports import longpoll, sse, websocket
from gateway import __version__
from gateway.config.settings import Settings
from gateway.log.log import EventLog
from gateway.reading.hub import Hub
from gateway.reading.unsent import Unsent
from gateway.store.store import Store
from gateway.telemetry import logs
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.metrics import Metrics
from gateway.turns.abandonment import Abandonment
from gateway.turns.context import Means
from gateway.turns.notifications import Notifications
from gateway.turns.turns import Turns
from gateway.upstream.breaker import Breaker
from gateway.upstream.coze import CozeUpstream
from gateway.upstream.tokens import FixedToken

logger = structlog.get_logger()

TRANSPORTS = "coze_gateway.transports"
"""The entry point group in which another package offers a transport: an object with `name` and `add_routes(app)`."""

_BACKLOG = 4096
_LAST_LINES = 0.2  # seconds that a hasty end waits for its last log lines
_SWITCH_INTERVAL = 0.0005  # the log's thread must not wait five milliseconds for a busy loop
_DRAIN_LOOK = 0.1
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE_BLOCK = 512 * 1024
_GC = (10_000, 20, 20)  # connections and turns make many objects and few cycles


class Transport(Protocol):
    """A way to carry events out. It sees `SERVICES` of the application, and of it the hub, the runner and `wire`."""

    name: str

    def add_routes(self, app: web.Application) -> None: ...


async def serve(settings: Settings) -> None:
    """Runs the gateway until SIGTERM or SIGINT; a second one ends it at once."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    _return_large_blocks()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            logger.warning("gateway.ended_at_once")
            logs.flush(_LAST_LINES)
            os._exit(0)  # what runs is finished by the next start, as after any crash
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with gateway(settings) as services, listening(settings, services) as urls:
        more = {"urls": urls} if len(urls) > 1 else {}
        logs.announce("gateway.ready", url=urls[0], **more, version=__version__)
        logs.say(welcome(settings, urls[0]))
        gc.collect()
        gc.freeze()  # what is here now stays: the collector need not look at it again
        gc.set_threshold(*_GC)
        await stop.wait()
        await drain(settings, services)
    logger.info("gateway.stopped")


def welcome(settings: Settings, url: str) -> str:
    """What a person at a terminal wants to know once it listens."""
    page = f"{url.replace('//0.0.0.0:', '//127.0.0.1:').replace('//[::]:', '//[::1]:')}/sse-stream-test.html"
    answers = f"come from {settings.coze_api_base}"
    if settings.embedded_simulator:
        answers = "are simulated; COZE_API_TOKEN=… asks your own bot"
    return f"\n  Page     {page}\n  Answers  {answers}\n  Stop     Ctrl-C\n"


def _return_large_blocks() -> None:
    """Makes the C library give large blocks back to the system as soon as they are freed.

    Left alone, glibc raises its bound for that to the largest block that it has seen freed, and keeps the holes that
    long answers leave: after a few of them the process had more than twice the memory.
    """
    with contextlib.suppress(OSError, AttributeError):  # another system's library has no such call
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


async def drain(settings: Settings, services: Services) -> None:
    """Turns `/readyz` 503, takes no new turn, tells idle listeners to go, waits for what runs, tells the rest."""
    turns = services.ledger.count("turn")
    logger.info("gateway.draining", turns=turns, seconds=settings.drain_seconds, pause=settings.drain_pause_seconds)
    logs.say(f"stopping, {turns} {'answer' if turns == 1 else 'answers'} running, once more to stop at once")
    services.probes.leaving = True
    await asyncio.sleep(settings.drain_pause_seconds)  # in which a balancer that asks /readyz takes its traffic away
    services.turns.start_nothing_more()
    services.hub.drain()
    waiting = asyncio.ensure_future(services.turns.drain(settings.drain_seconds))
    while not waiting.done():
        await asyncio.wait([waiting], timeout=_DRAIN_LOOK)
        services.hub.drain()
    services.hub.drain(also_running=True)
    await asyncio.sleep(_DRAIN_LOOK)  # farewells leave


@contextlib.asynccontextmanager
async def gateway(settings: Settings) -> AsyncIterator[Services]:
    """The core without a listener: log, store, Coze, hub and runner, with the orphans of a crash taken over."""
    clock = _steady_clock()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(storage.held(settings))
        files = storage.files(settings)
        ledger = Ledger()
        metrics = Metrics(ledger, __version__)
        faults = Faults(metrics.fault)
        log = EventLog(
            storage.journal(settings, ledger),
            ledger=ledger,
            retention=settings.retention_seconds,
            until_told=True,
            faults=faults,
            clock=clock,
            count=lambda event, times: metrics.published[event].inc(times),
        )
        orphans = await storage.opened(log)
        stack.push_async_callback(log.close)
        store = await Store.open(storage.database(settings), ledger=ledger, on_ended=log.keeper.told, faults=faults)
        stack.push_async_callback(store.close)
        base, token = settings.coze_api_base, settings.coze_api_token
        if settings.embedded_simulator:
            base = await stack.enter_async_context(_simulated(settings))
        upstream = CozeUpstream(
            base,
            FixedToken(token.get_secret_value() if token is not None else "simulated"),
            connect_timeout=settings.upstream_connect_timeout,
            idle_timeout=settings.upstream_idle_timeout,
            proxy=None if settings.embedded_simulator else settings.proxy,
            ledger=ledger,
            on_request=metrics.upstream_requested,  # type: ignore[arg-type]
            log_bytes=_log_bytes if settings.log_upstream_bytes else None,
        )
        stack.push_async_callback(upstream.close)
        abandonment = Abandonment(settings.abandon_seconds)
        hub = Hub(
            log.shelf,
            ledger=ledger,
            watch=_Watch(metrics),
            heartbeat=settings.heartbeat_interval,
            faults=faults,
            unsent=Unsent(settings.max_unsent_bytes),
            audience=abandonment,
        )
        stack.push_async_callback(hub.close)
        means = Means(
            log=log,
            upstream=upstream,
            breaker=Breaker(asyncio.get_running_loop().time),
            metrics=metrics,
            faults=faults,
            ledger=ledger,
            rng=random.Random(),
            clock=clock,
            turn_timeout=settings.turn_timeout,
            retries=settings.upstream_retries,
            retry_uncertain=settings.retry_uncertain,
            readers=hub,
            address=base,
        )
        notifications = Notifications(log, retention=settings.retention_seconds, clock=clock, faults=faults)
        turns = Turns(means, store=store, notifications=notifications, abandonment=abandonment)
        stack.push_async_callback(turns.close)
        await turns.resume(orphans)
        probes = Probes(log, store, files)
        stack.push_async_callback(probes.close)
        watch = asyncio.create_task(metrics.watch_event_loop())
        stack.callback(watch.cancel)
        yield Services(
            settings=settings,
            log=log,
            hub=hub,
            turns=turns,
            store=store,
            ledger=ledger,
            metrics=metrics,
            faults=faults,
            authenticator=Authenticator.from_settings(settings),
            connections=Connections(settings.max_connections, settings.max_connections_per_user),
            turn_rate=TurnRate(settings.turns_per_minute),
            probes=probes,
        )


@contextlib.asynccontextmanager
async def listening(settings: Settings, services: Services) -> AsyncIterator[list[str]]:
    """Listens as the settings say; the main listener's URLs, one for each address."""
    if not isinstance(http_parser.HttpRequestParser, type) or http_parser.HttpRequestParser.__module__.endswith("_py"):
        logger.warning("gateway.slow_parser", why="aiohttp's C extensions are missing")
    async with contextlib.AsyncExitStack() as stack:
        application = make_app(settings, services)
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


def make_app(settings: Settings, services: Services) -> web.Application:
    """The main listener's application: every route of the contract."""
    app = web.Application(client_max_size=settings.max_body_bytes)
    app[SERVICES] = services
    app[OBSERVER] = Refusals(services.metrics.request_refused)
    app.middlewares.append(explaining)
    Guard(settings).install(app)
    # The routes that are asked for most stand first: aiohttp tries them in this order.
    for adapter in (stream, sse, websocket, longpoll, chat, shared, operations, browser):
        adapter.add_routes(app)
    if settings.admin_port is None and settings.on_loopback:
        operations.add_operator_routes(app)
    for point in entry_points(group=TRANSPORTS):
        transport: Transport = point.load()
        transport.add_routes(app)
        logger.info("gateway.transport_added", transport=transport.name)
    return app


@contextlib.asynccontextmanager
async def _site(app: web.Application, hosts: Sequence[str], port: int, send_timeout: float) -> AsyncIterator[list[str]]:
    """Serves the application; its URLs, one for each address."""
    runner = WebRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    try:
        sockets = await bind(hosts, port, send_timeout)
        for sock in sockets:
            await web.SockSite(runner, sock, backlog=_BACKLOG).start()
        yield [url_of(sock) for sock in sockets]
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _simulated(settings: Settings) -> AsyncIterator[str]:
    """The embedded simulated Coze; its URL."""
    from gateway.simulator import start_simulator

    simulator = await start_simulator(
        data_dir=settings.data_dir, first_ms=round(settings.simulator_first_ms), rate=settings.simulator_rate
    )
    logger.warning(
        "gateway.simulated",
        why="COZE_API_TOKEN is not set: THE ANSWERS ARE MADE UP by the simulated Coze that runs inside this process",
    )
    try:
        yield simulator.url
    finally:
        await simulator.close()


class _Watch:
    """What the hub reports, put into metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def delivered(self, label: str, events: int) -> None:
        self._metrics.delivered(label).inc(events)

    def delay(self, label: str, seconds: float, times: int) -> None:
        self._metrics.delays(label).observe(seconds, times)


def _log_bytes(text: str) -> None:
    logger.info("upstream.bytes", bytes=text)


def _steady_clock() -> Callable[[], float]:
    """Seconds since 1970 that go on evenly, whatever happens to the wall clock while the process lives."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()
