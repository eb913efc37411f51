"""Operations: health, readiness, metrics, the ledger, the API's description, and the configuration for clients."""

from aiohttp import web

from adapters.edge import browser_pages
from adapters.native import openapi
from adapters.native.answers import NO_STORE, json_answer
from adapters.services import SERVICES, Services
from gateway import __version__
from gateway.errors import Code, GatewayError
from gateway.telemetry import scrape


async def healthz(request: web.Request) -> web.Response:
    """200 while the process works, 503 when a task has ended that it can't work without. Only a restart helps then."""
    if stopped := request.app[SERVICES].faults.stopped:
        return json_answer({"status": "broken", "reasons": list(stopped.values())}, 503, {"Retry-After": "2"})
    return json_answer({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """200 when new turns are accepted, else 503 with the reasons. Briefly tests whether the storage can be written."""
    services = request.app[SERVICES]
    await services.probes.look()
    reasons = not_ready(services)
    if reasons:
        return json_answer({"status": "unavailable", "reasons": reasons}, 503, {"Retry-After": "2"})
    remarks = services.probes.remarks()
    return json_answer({"status": "ready", "remarks": remarks} if remarks else {"status": "ready"})


def not_ready(services: Services) -> list[str]:
    """The reasons why no turn can be started now, one sentence each."""
    reasons = list(services.faults.stopped.values())
    if services.turns.draining or services.probes.leaving:
        reasons.append("draining: the gateway is stopping")
    for trouble in (services.log.trouble, services.store.trouble):
        if trouble is not None:
            reasons.append(trouble)
    reasons += [f"{name} is gone or was replaced: start the gateway again" for name in services.probes.gone()]
    return list(dict.fromkeys(reasons))  # one database's trouble is both the log's and the store's


async def metrics(request: web.Request) -> web.Response:
    body, content_type = scrape.render(request.app[SERVICES].metrics, request.headers.get("Accept", ""))
    return web.Response(body=body, headers={**NO_STORE, "Content-Type": content_type})


async def ledger(request: web.Request) -> web.Response:
    """What is open, by kind. With `?list=KIND`, where and when each of that kind was opened."""
    found = request.app[SERVICES].ledger
    kind = request.query.get("list")
    if kind is None:
        return json_answer(found.totals())
    if kind not in found.totals():
        raise GatewayError(Code.NOT_FOUND, "no such kind")
    return json_answer(found.list(kind))


async def config(request: web.Request) -> web.Response:
    """Tells a client which transports it may choose, and a page whether it should ask for a token."""
    services = request.app[SERVICES]
    settings = services.settings
    transports = ["sse", "websocket", "longpoll"] if settings.use_sse_streaming else ["longpoll"]
    return json_answer(
        {
            "streaming": settings.use_sse_streaming,
            "transports": transports,
            "retryMs": settings.retry_ms,
            "heartbeatSeconds": settings.heartbeat_interval,
            "maxMessageChars": settings.max_message_chars,
            "maxUploadBytes": settings.max_upload_bytes,
            "simulated": settings.embedded_simulator,
            "needsToken": _needs_token(request, services),
            "version": __version__,
        }
    )


def _needs_token(request: web.Request, services: Services) -> bool:
    """Whether other requests with this request's token (or lack of one) would be refused."""
    try:
        services.authenticator.authenticate(request)
    except GatewayError:
        return True
    return False


async def description(request: web.Request) -> web.Response:
    return web.Response(body=openapi.document(request.app[SERVICES].settings), content_type="application/json")


def add_routes(app: web.Application) -> None:
    app.router.add_get("/", browser_pages.home)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/openapi.json", description)
    app.router.add_get("/api/coze/config", config)


def add_operator_routes(app: web.Application) -> None:
    """The routes for operators: on a listener of their own, or only on loopback."""
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/debug/ledger", ledger)
