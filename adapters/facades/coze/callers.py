"""Callers of this door: by a Coze token of their own, or by one of the gateway's keys and tokens."""

from typing import Final

from aiohttp import web

from adapters.edge.auth import bearer_token
from adapters.edge.callers import Caller
from adapters.edge.unauthorized import UnauthorizedError
from adapters.services import SERVICES
from gateway.ids import token_owner
from gateway.upstream.tokens import is_sendable

_LONGEST: Final = 2048
"""Characters of a Coze token; those of OAuth apps have some hundreds. Thousands of them may be remembered."""


def caller_of(request: web.Request) -> Caller:
    """The caller. Raises `unauthorized`. A Coze token of its own is remembered by its hash, and nowhere written."""
    services = request.app[SERVICES]
    if not services.settings.callers_bring_tokens:
        return services.authenticator.authenticate(request)
    token = bearer_token(request)
    if not token or len(token) > _LONGEST or not is_sendable(token):
        raise UnauthorizedError("no token")
    return Caller(kind="coze-token", token_hash=services.caller_tokens.learn(token))


def owner_of(caller: Caller, user: str) -> str:
    """The user to whom belongs what the caller starts for `user`."""
    return token_owner(caller.token_hash, user) if caller.token_hash else user or caller.user_id or ""
