"""The composition root: settings -> objects -> routes."""

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

import structlog
from aiohttp import web

from adapters import browser, storage
from adapters.edge.auth import Authenticator
from adapters.edge.browser_pages import explaining
from adapters.edge.failures import REFUSALS
from adapters.edge.guard import Guard
from adapters.edge.limits import Connections, TurnRate
from adapters.edge.refusals import Refusals
from adapters.facades.coze import chats, passing
from adapters.native import chat, conversations, files, operations, shared, stream, workflows
from adapters.services import SERVICES, Probes, Services
from adapters.transports import longpoll, sse, websocket
from adapters.upstreams import Maker
from gateway import __version__
from gateway.clocks import steady_clock
from gateway.config.settings import Settings
from gateway.errors import Code, GatewayError
from gateway.log.keeping import MOST_BATCHES
from gateway.log.log import EventLog
from gateway.reading.hub import Hub
from gateway.reading.unsent import Unsent
from gateway.store.store import Store
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.lines import Lines
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import Observers
from gateway.turns.abandonment import Abandonment
from gateway.turns.asking import heard_elsewhere
from gateway.turns.context import Means
from gateway.turns.learnt import Learnt
from gateway.turns.notifications import Notifications
from gateway.turns.others import Nobody
from gateway.turns.turns import Turns
from gateway.upstream.caller_tokens import CallerTokens, WithCallers
from gateway.upstream.coze import CozeUpstream

logger = structlog.get_logger()

_LATE = 60.0
"""Seconds for which a caller's token is remembered after the time that its newest turn may take."""

_MOST_BATCHES = 200
"""Other nodes read the part of a running turn that is not saved yet from its node's batches, so these must stay few."""

_OURS = ("sse", "websocket", "longpoll", "coze")
_NAME = re.compile("[a-z0-9_-]{1,32}")  # it is a metric's label
TRANSPORTS = "coze_gateway.transports"
"""The entry point group in which another package offers a transport: an object with `name` and `add_routes(app)`."""


class Transport(Protocol):
    """A way to carry events to readers. It finds all that it needs in the application's `SERVICES`."""

    name: str

    def add_routes(self, app: web.Application) -> None: ...


@contextlib.asynccontextmanager
async def gateway(settings: Settings) -> AsyncIterator[Services]:
    """The core without a listener: log, store, Coze, hub and turns. The turns that a crash left running go on."""
    clock = steady_clock()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(storage.held(settings))
        files = storage.files(settings)
        ledger = Ledger()
        metrics = Metrics(ledger, __version__)
        observer = Observers(metrics, Lines())
        faults = Faults(observer)
        cluster = await storage.cluster(settings, ledger, faults, metrics.nodes)
        log = EventLog(
            storage.journal(settings, ledger) if cluster is None else cluster.journal,
            ledger=ledger,
            retention=settings.retention_seconds,
            until_told=True,
            faults=faults,
            clock=clock,
            observer=observer,
            follow=None if cluster is None else cluster.follow,
            taken_back=metrics.nodes.log_taken_back,
            most_batches=MOST_BATCHES if cluster is None else _MOST_BATCHES,
        )
        orphans = await storage.opened(log)
        stack.push_async_callback(log.close)
        store = await Store.open(storage.database(settings), ledger=ledger, on_ended=log.keeper.told, faults=faults)
        stack.push_async_callback(store.close)
        callers = CallerTokens(settings.turn_timeout + _LATE, asyncio.get_running_loop().time)
        maker = Maker(settings, ledger, observer, callers)
        own: CozeUpstream | None = None
        if settings.embedded_simulator:
            own = maker.simulated(await stack.enter_async_context(_simulated(settings)))
        elif settings.own_credentials:
            own = maker.own()
        shops = None
        if settings.tenants_file is not None:
            from adapters.tenants import TenantsFile

            shops = TenantsFile(settings.tenants_file, own, maker.of_shop, faults)
        asks_for_callers = own
        if asks_for_callers is None:
            asks_for_callers = maker.of_callers()
            stack.push_async_callback(asks_for_callers.close)
        upstream = WithCallers(own if shops is None else shops.tenants, asks_for_callers)
        stack.push_async_callback(upstream.close)
        others = Nobody() if cluster is None else cluster.claims(store.settled)
        abandonment = Abandonment(settings.abandon_seconds, partial(heard_elsewhere, others) if others.any else None)
        hub = Hub(
            log.shelf,
            ledger=ledger,
            observer=observer,
            heartbeat=settings.heartbeat_interval,
            faults=faults,
            unsent=Unsent(settings.max_unsent_bytes),
            audience=abandonment,
        )
        stack.push_async_callback(hub.close)
        means = Means(
            log=log,
            upstream=upstream,
            caller_tokens=callers,
            observer=observer,
            faults=faults,
            ledger=ledger,
            rng=random.Random(),
            clock=clock,
            turn_timeout=settings.turn_timeout,
            retries=settings.upstream_retries,
            retry_uncertain=settings.retry_uncertain,
            readers=hub,
            learnt=Learnt(others),
            others=others,
        )
        notifications = Notifications(
            log, retention=settings.retention_seconds, clock=clock, faults=faults, others=others
        )
        turns = Turns(means, store=store, notifications=notifications, abandonment=abandonment)
        stack.push_async_callback(turns.close)
        await turns.resume(orphans)
        if cluster is not None:
            cluster.start(log, turns, when_back=store.look_after_break)
            stack.push_async_callback(cluster.close)
        most = settings.turns_per_minute
        remarks = [part.remarks for part in (cluster, shops) if part is not None]
        probes = Probes(log, store, files, lambda: [remark for said in remarks for remark in said()])
        stack.push_async_callback(probes.close)
        watch = asyncio.create_task(metrics.watch_event_loop())
        stack.callback(watch.cancel)
        if shops is not None:
            watch = asyncio.create_task(shops.watch())
            faults.watch("tenants", watch)
            stack.callback(watch.cancel)
        yield Services(
            settings=settings,
            log=log,
            hub=hub,
            turns=turns,
            upstreams=upstream,
            caller_tokens=callers,
            store=store,
            ledger=ledger,
            metrics=metrics,
            observer=observer,
            faults=faults,
            authenticator=Authenticator.from_settings(settings),
            connections=Connections(settings.max_connections, settings.max_connections_per_user),
            turn_rate=TurnRate(most) if cluster is None else cluster.turn_rate(most),
            probes=probes,
            shops=shops,
        )


def make_app(settings: Settings, services: Services) -> web.Application:
    """The main listener's application: every route of the contract."""
    app = web.Application(client_max_size=settings.max_body_bytes)
    app[SERVICES] = services
    app[REFUSALS] = Refusals(services.observer)
    app.middlewares.append(explaining)
    Guard(settings).install(app)
    # The routes with the most requests come first, because aiohttp tries them in this order.
    for adapter in (
        stream,
        sse,
        websocket,
        longpoll,
        chat,
        workflows,
        files,
        conversations,
        shared,
        operations,
        browser,
    ):
        adapter.add_routes(app)
    if "coze" in settings.doors:
        chats.add_routes(app)
    if settings.admin_port is None and settings.on_loopback:
        operations.add_operator_routes(app)
    if "coze" in settings.doors:
        passing.add_routes(app)
    for point in entry_points(group=TRANSPORTS):
        _add_transport(app, point)
    return app


def _add_transport(app: web.Application, point: EntryPoint) -> None:
    """Raises whatever the other package's code raises. A log line names that package before."""
    place = {"object": point.value, "package": point.dist.name if point.dist is not None else ""}
    try:
        transport: Transport = point.load()
        name: object = transport.name
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _OURS:
            allowed = f"1 to 32 lower-case letters, digits, - and _, and not {', '.join(_OURS)}"
            raise GatewayError(Code.INTERNAL, f"the transport {point.value}: allowed as its name is {allowed}")
        transport.add_routes(app)
    except Exception:
        logger.critical("gateway.transport_failed", **place)
        raise
    logger.info("gateway.transport_added", transport=name, **place)


@contextlib.asynccontextmanager
async def _simulated(settings: Settings) -> AsyncIterator[str]:
    """Runs the embedded simulated Coze. Yields its URL."""
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
