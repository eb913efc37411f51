"""Upstreams: the objects that ask Coze, made from the settings or from a shop's table in the tenants file."""

import asyncio
from typing import TYPE_CHECKING

import structlog

from gateway.config.settings import Settings
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.observer import Observer
from gateway.upstream.breaker import Breaker
from gateway.upstream.caller_tokens import CallerTokens
from gateway.upstream.coze import CozeUpstream
from gateway.upstream.exchange import Exchanges
from gateway.upstream.tokens import FixedToken, NoToken, TokenSource

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from gateway.config.tenants import Tenant

logger = structlog.get_logger()


class Maker:
    """Makes upstreams. Those that ask the same address share a circuit breaker."""

    def __init__(self, settings: Settings, ledger: Ledger, observer: Observer, callers: CallerTokens) -> None:
        self._callers = callers
        self._settings = settings
        self._ledger = ledger
        self._observer = observer
        self._breakers: dict[str, Breaker] = {}

    def simulated(self, address: str) -> CozeUpstream:
        """Asks the embedded simulated Coze."""
        return self._coze(address, FixedToken("simulated"), proxy=None)

    def own(self) -> CozeUpstream:
        """Asks Coze with the gateway's own credentials."""
        settings = self._settings
        if (token := settings.coze_api_token) is not None:
            return self._coze(settings.coze_api_base, FixedToken(token.get_secret_value()), proxy=settings.proxy)
        from gateway.config.keys import private_key

        assert settings.coze_jwt_private_key_file is not None
        tokens = self._jwt_app(
            settings.coze_api_base,
            settings.coze_jwt_app_id or "",
            settings.coze_jwt_key_id or "",
            private_key(settings.coze_jwt_private_key_file),
            settings.coze_jwt_sessions,
        )
        return self._coze(settings.coze_api_base, tokens, proxy=settings.proxy)

    def of_callers(self) -> CozeUpstream:
        """Asks Coze with the tokens that callers bring, for a gateway without any credentials of its own."""
        return self._coze(self._settings.coze_api_base, NoToken(), proxy=self._settings.proxy)

    def of_shop(self, tenant: "Tenant") -> CozeUpstream:
        """Asks Coze with a shop's credentials."""
        settings = self._settings
        base = tenant.base or settings.coze_api_base
        if tenant.token is not None:
            return self._coze(base, FixedToken(tenant.token.get_secret_value()), proxy=settings.proxy)
        sessions = tenant.jwt_sessions or settings.coze_jwt_sessions
        tokens = self._jwt_app(base, tenant.jwt_app_id or "", tenant.jwt_key_id or "", tenant.key, sessions)
        return self._coze(base, tokens, proxy=settings.proxy)

    def _coze(self, address: str, tokens: TokenSource, *, proxy: str | None) -> CozeUpstream:
        settings = self._settings
        if (breaker := self._breakers.get(address)) is None:
            breaker = self._breakers[address] = Breaker(asyncio.get_running_loop().time)
        return CozeUpstream(
            address,
            tokens,
            connect_timeout=settings.upstream_connect_timeout,
            idle_timeout=settings.upstream_idle_timeout,
            proxy=proxy,
            ledger=self._ledger,
            observer=self._observer,
            log_bytes=_log_bytes if settings.log_upstream_bytes else None,
            breaker=breaker,
            callers=self._callers,
        )

    def _jwt_app(self, address: str, app_id: str, key_id: str, key: "RSAPrivateKey", sessions: str) -> TokenSource:
        from gateway.upstream.jwt_app import JwtApp

        settings = self._settings
        exchanges = Exchanges(
            address,
            connect_timeout=settings.upstream_connect_timeout,
            idle_timeout=settings.upstream_idle_timeout,
            proxy=settings.proxy,
        )
        return JwtApp(
            exchanges, app_id=app_id, key_id=key_id, key=key, observer=self._observer, per_user=sessions == "user"
        )


def _log_bytes(text: str) -> None:
    logger.info("upstream.bytes", bytes=text)
