"""What the routes work with: the objects that the composition root made, under one key of the application."""

from dataclasses import dataclass

from aiohttp import web

from adapters.auth import Authenticator
from adapters.limits import Connections, TurnRate
from gateway.config import Settings
from gateway.hub import Hub
from gateway.ledger import Ledger
from gateway.log.log import EventLog
from gateway.metrics import Metrics
from gateway.runner import Runner
from gateway.store.store import Store


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    log: EventLog
    hub: Hub
    runner: Runner
    store: Store
    ledger: Ledger
    metrics: Metrics
    authenticator: Authenticator
    connections: Connections
    turn_rate: TurnRate


SERVICES = web.AppKey("services", Services)
