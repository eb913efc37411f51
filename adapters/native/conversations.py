"""The routes of conversations: a user's list of them, a title, the messages, and deleting."""

import structlog
from aiohttp import web

from adapters.edge.delivery import deliver
from adapters.edge.failures import InvalidRequest, Mistake
from adapters.edge.fields import Renaming, read_fields
from adapters.edge.query import Page, conversation_id, list_query, page_query
from adapters.native.answers import NO_STORE, json_answer
from adapters.services import SERVICES, Services
from adapters.transports.listening import caller_of
from gateway.errors import Code, GatewayError, no_such
from gateway.ids import ConversationId
from gateway.store.rows import MessageRow

logger = structlog.get_logger()
_PAGE = 256 * 1024
"""The most characters on a page of messages, unless a single message is longer."""


async def conversations(request: web.Request) -> web.StreamResponse:
    """A page of a user's conversations, the newest first."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    asked = list_query(request, caller)
    with services.connections.acquire():
        found, rest = await services.store.listing.page(
            asked.user_id, asked.shops, after=asked.after, limit=asked.limit
        )
        entries = [
            {
                "conversationId": one.id,
                "title": one.title,
                "botId": one.bot_id,
                "shopId": one.shop_id,
                "createdAt": one.created_at,
                "updatedAt": one.updated_at,
            }
            for one in found
        ]
        cursor = None if rest is None else asked.cursor(*rest)
        return await deliver(request, json_answer({"conversations": entries, "next": cursor}))


async def rename(request: web.Request) -> web.StreamResponse:
    services = request.app[SERVICES]
    caller = caller_of(request)
    name = conversation_id(request.match_info["id"])
    body = await read_fields(request, services.settings, Renaming)
    row = await services.turns.finding.conversation_of(name, owns=caller.may_read)
    await services.store.annotations.rename(row.id, body.title)
    if (now := await services.store.conversation(row.id)) is None:
        raise no_such(now)  # it was deleted meanwhile
    return await deliver(request, json_answer({"conversationId": now.id, "title": now.title}))


async def messages(request: web.Request) -> web.StreamResponse:
    """The messages of a conversation that the database holds, newest last."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    name = conversation_id(request.match_info["id"])
    page = page_query(request)
    await services.turns.finding.conversation_of(name, owns=caller.may_read)
    with services.connections.acquire():
        async with services.hub.unsent.making:
            answer = await _page(services, name, page)
        return await deliver(request, answer)


async def _page(services: Services, name: ConversationId, page: Page) -> web.Response:
    try:
        found, more = await services.store.messages(name, before=page.before, limit=page.limit, most=_PAGE)
    except GatewayError as error:
        if error.code is Code.INVALID_REQUEST:
            raise InvalidRequest([Mistake("before", "is no message of this conversation")]) from error
        raise
    return json_answer({"messages": [_message(message) for message in found], "hasMore": more})


def _message(message: MessageRow) -> dict[str, object]:
    fields: dict[str, object] = {
        "id": message.id,
        "turnId": message.turn_id,
        "role": message.role,
        "content": message.content,
        "status": message.status,
        "createdAt": message.created_at,
    }
    if (given := message.feedback) is not None:
        fields |= {"feedback": given.kind, "comment": given.comment}
    return fields


async def delete(request: web.Request) -> web.StreamResponse:
    """Deletes a conversation with everything that is kept of it, after cancelling its running turns."""
    services = request.app[SERVICES]
    caller = caller_of(request)
    name = conversation_id(request.match_info["id"])
    row = await services.turns.finding.conversation_of(name, owns=caller.may_read)
    await services.turns.erase(row.id)
    logger.info("conversation.deleted", conversationId=row.id, userId=row.user_id)
    return web.Response(status=204, headers=NO_STORE)


def add_routes(app: web.Application) -> None:
    app.router.add_get("/api/coze/conversations", conversations, allow_head=False)
    app.router.add_patch("/api/coze/conversations/{id}", rename)
    app.router.add_delete("/api/coze/conversations/{id}", delete)
    app.router.add_get("/api/coze/conversations/{id}/messages", messages, allow_head=False)
