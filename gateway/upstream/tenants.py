"""Tenants: with which credentials Coze is asked for each shop, and which of Coze's bots a shop may ask."""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from gateway.errors import Code, GatewayError, UpstreamError
from gateway.upstream.protocol import CozeRequest, Upstream, Upstreams


class Account(Upstreams, Protocol):
    """Coze, as it is asked with one set of credentials."""

    @property
    def busy(self) -> bool:
        """Whether a request to Coze is under way, or a stream is open."""


class Shop(Struct, frozen=True):
    """A shop in the table. `bots` are those that it may ask, None for all; `turns_per_minute` holds for each user."""

    account: Account
    bots: frozenset[str] | None = None
    turns_per_minute: int | None = None


class NoCredentials(GatewayError):
    """A message without a shop, while only shops have credentials."""

    def __init__(self) -> None:
        super().__init__(Code.INVALID_REQUEST, "only shops have credentials for Coze")


class BotNotAllowed(GatewayError):
    """A message for a bot that is not among the shop's."""

    def __init__(self) -> None:
        super().__init__(Code.INVALID_REQUEST, "the shop may not ask this bot")


class Tenants:
    """The table of shops, which may be exchanged while turns run. Implements `Upstreams`.

    Of a shop that is in the table with other credentials, running streams go on, and everything that is asked from then
    on is asked with the new ones. Of a shop that has left, running streams go on, too, and nothing more is asked.
    """

    def __init__(self, own: Account | None, table: Mapping[str, Shop]) -> None:
        """`own` serves messages without a shop."""
        self._own = own
        self._table = table
        self._leaving: list[Account] = []

    def require(self, shop_id: str | None, bot_id: str | None) -> None:
        """Raises `not_found` for a shop that is not in the table, `NoCredentials`, or `BotNotAllowed`. `bot_id` is None
        where no bot is asked."""
        if shop_id is None:
            if self._own is None:
                raise NoCredentials
            return
        if (shop := self._table.get(shop_id)) is None:
            raise GatewayError(Code.NOT_FOUND, "the shop is not in GATEWAY_TENANTS_FILE")
        if shop.bots is not None and bot_id is not None and bot_id not in shop.bots:
            raise BotNotAllowed

    def turns_per_minute(self, shop_id: str | None) -> int | None:
        """The shop's own limit for each of its users, if it has one."""
        shop = self._table.get(shop_id) if shop_id is not None else None
        return None if shop is None else shop.turns_per_minute

    def on_behalf_of(self, user_id: str, shop_id: str | None, coze: CozeRequest | None = None) -> Upstream:
        """Raises `UpstreamError` when the shop has left the table, or the gateway has lost its own credentials, while
        the turn ran."""
        shop = self._table.get(shop_id) if shop_id is not None else None
        account = self._own if shop_id is None else None if shop is None else shop.account
        if account is None:
            raise UpstreamError(Code.UPSTREAM_UNAUTHORIZED, "there are no credentials for this turn's shop any more")
        return account.on_behalf_of(user_id, shop_id, coze)

    @property
    def table(self) -> Mapping[str, Shop]:
        """The shops by their ids."""
        return self._table

    async def exchange(self, table: Mapping[str, Shop]) -> None:
        """From now on this is the table. An account that is not in it is closed once nothing of it is under way."""
        staying = {id(shop.account) for shop in table.values()}
        self._leaving += [shop.account for shop in self._table.values() if id(shop.account) not in staying]
        self._table = table
        await self.tidy()

    async def tidy(self) -> None:
        """Closes accounts that have left the table and have nothing under way."""
        over = [account for account in self._leaving if not account.busy]
        self._leaving = [account for account in self._leaving if account.busy]
        for account in over:
            await account.close()

    async def close(self) -> None:
        served = [shop.account for shop in self._table.values()]
        for account in (*([self._own] if self._own is not None else []), *served, *self._leaving):
            await account.close()

    def __repr__(self) -> str:
        return f"Tenants({len(self._table)} shops, {len(self._leaving)} leaving)"
