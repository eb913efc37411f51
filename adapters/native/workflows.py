"""The route of workflows: one run of a workflow is a turn."""

from aiohttp import web

from adapters.edge.query import prefer_wait
from adapters.native.replying import answered, require_streaming, streamed
from adapters.native.starting import read_run_order
from adapters.services import SERVICES
from adapters.transports.listening import caller_of


async def run(request: web.Request) -> web.StreamResponse:
    """Runs a workflow and answers with the turn's event stream; with `Prefer: wait=N` it answers once, as a chat
    does."""
    services = request.app[SERVICES]
    wait = prefer_wait(request)
    if wait is None:
        require_streaming(services)
    order = await read_run_order(request, services, caller_of(request), streamed=wait is None)
    return await (streamed(request, order) if wait is None else answered(request, order, wait))


def add_routes(app: web.Application) -> None:
    app.router.add_post("/api/coze/workflows/{id}/run", run)
