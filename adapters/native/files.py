"""The route of files: passes a file on to Coze while it comes, and answers with the id that messages name it by."""

import asyncio

import msgspec
import structlog
from aiohttp import web

from adapters.edge.failures import request_id
from adapters.edge.forms import read_form
from adapters.edge.query import whose
from adapters.native.starting import count
from adapters.services import SERVICES
from adapters.transports.listening import caller_of
from gateway.errors import Code, GatewayError

logger = structlog.get_logger()


async def upload(request: web.Request) -> web.Response:
    """Coze takes the file as fast as the client sends it, and no faster. When the client leaves, Coze's connection is
    closed."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    user, shop = whose(request, caller)
    if services.turns.draining:
        raise GatewayError(Code.DRAINING)
    began = asyncio.get_running_loop().time()
    seat = services.connections.acquire(caller.account(user) if user else caller.listener_account)
    with seat, services.ledger.open("upload"):
        try:
            async with asyncio.timeout(services.settings.turn_timeout):
                form = await read_form(request, services.settings.max_upload_bytes)
                # Uploads and turns are counted apart: a message may have ten attachments.
                if (counted := count(services, f"\0files\0{caller.account(user)}", shop, None)) is not None:
                    await counted
                file = await services.upstreams.on_behalf_of(user, shop).upload(form)
        except TimeoutError:
            raise GatewayError(Code.UPSTREAM_TIMEOUT) from None
    logger.info(
        "file.uploaded",
        userId=user or None,
        bytes=file.size,
        seconds=round(asyncio.get_running_loop().time() - began, 3),
        requestId=request_id(request),
    )
    fields = {"fileId": file.file_id, "fileName": file.name, "bytes": file.size, "createdAt": file.created_at}
    return web.Response(body=msgspec.json.encode(fields), content_type="application/json")


def add_routes(app: web.Application) -> None:
    app.router.add_post("/api/coze/files", upload)
